"""Classify images with a .keras or .tflite file, a SavedModel, or the network of a run.

sharenets predict best.tflite cat.jpg dog.jpg
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths

if TYPE_CHECKING:
    import numpy as np

    from keras_sharenets.heads import Head


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = ".keras or .tflite file, or the folder of a run or of a SavedModel"
    parser.add_argument("target", metavar="FILE|DIR", help=target_help)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file of any size")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="number of classes to show (default: 3)")


def check(arguments: argparse.Namespace) -> None:
    _checks.positive("--top", arguments.top)
    check_paths(arguments.target, *arguments.images)


def run(arguments: argparse.Namespace) -> Answer:
    """A table with a line per image: the most probable classes, the classes present, or a number."""
    from keras_sharenets.rendering.tables import text_table

    names, head, outputs = predict(arguments.target, arguments.images)
    if head.kind == "value":
        answers = [{"image": path, "value": float(row[0])} for path, row in zip(arguments.images, outputs, strict=True)]
        return Answer(text_table([["image", "value"], *([e["image"], f"{e['value']:.4g}"] for e in answers)]), answers)
    if names is not None and len(names) != head.classes:
        one = head.kind == "binary"
        what = "ends in one sigmoid, which separates 2 classes" if one else f"returns {head.units} values per image"
        raise ValueError(
            f"{arguments.target} {what}, but has {len(names)} class names (in the file, or in labels.txt next to it)."
        )
    answers = _named(names, head, outputs, arguments)
    if head.kind == "multilabel":
        rows = [["image", "present"]]
        for answer in answers:
            shown = ", ".join(_shown(entry) for entry in answer["classes"] if entry["present"])
            rows.append([answer["image"], shown or "-"])
    else:
        rows = [["image", *(f"{place + 1}." for place in range(len(answers[0]["classes"])))]]
        rows += [[answer["image"], *map(_shown, answer["classes"])] for answer in answers]
    return Answer(text_table(rows), answers)


def _named(
    names: Sequence[str] | None, head: Head, outputs: np.ndarray, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The `--top` most probable classes of each image; for several sigmoids, also all classes present."""
    import numpy as np

    answers = []
    for path, row, present in zip(arguments.images, head.by_class(outputs), head.present(outputs), strict=True):
        classes = []
        for index in np.argsort(-row, kind="stable"):
            entry = {"class": names[index] if names else f"class {index}", "probability": float(row[index])}
            if head.kind == "multilabel":
                entry["present"] = bool(present[index])
            if len(classes) < arguments.top or entry.get("present"):
                classes.append(entry)
        answers.append({"image": path, "classes": classes})
    return answers


def _shown(entry: dict[str, Any]) -> str:
    return f"{entry['class']} {entry['probability']:.3f}"


def predict(
    target: str | pathlib.Path, paths: Sequence[str | pathlib.Path]
) -> tuple[Sequence[str] | None, Head, np.ndarray]:
    """Runs a network on image files.

    Args:
        target: `.keras` or `.tflite` file, or the folder of a run or of a SavedModel.
        paths: image files of any size. They are resized; for a run that was trained on crops, center-cropped.

    Returns:
        `(class names or None, Head, outputs)`; the array has the shape `(images, units)`.

    Raises:
        ValueError: a file is missing or invalid, the folder contains no run, or the network does not map one image to
            one vector.
    """
    from keras_sharenets import files
    from keras_sharenets.heads import head_of

    target = pathlib.Path(target)
    if (target / "saved_model.pb").is_file():
        from keras_sharenets.mobile.export.saved_model import open_saved_model

        served = open_saved_model(target)
        return served.classify(read_images(paths, served.shape))
    if target.is_dir():
        from keras_sharenets.training.run.finished import network_file, open_run

        run = open_run(target)
        model = _load_classifier(network_file(target))
        outputs = _outputs(model, paths, cropped=bool(run.recipe.crop_size))
        return run.data["class_names"], head_of(model), outputs
    if target.suffix == ".tflite":
        from keras_sharenets import mobile
        from keras_sharenets.mobile.inspect import file

        described = mobile.describe_tflite(target)
        _check_ends(target, *([tuple(end["shape"]) for end in described[name]] for name in ("inputs", "outputs")))
        shape = described["inputs"][0]["shape"][1:]
        outputs = mobile.predict_tflite(target, read_images(paths, shape))
        return file.read_labels(target), file.read_head(target), outputs
    model = _load_classifier(target)
    return files.read_labels(target), head_of(model), _outputs(model, paths)


def _load_classifier(path: pathlib.Path) -> Any:
    from keras_sharenets import files

    model = files.load_model(path)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"{path} is neither a functional nor a sequential network.")
    _check_ends(path, *([tuple(tensor.shape) for tensor in tensors] for tensors in (inputs, outputs)))
    return model


def _outputs(model: Any, paths: Sequence[str | pathlib.Path], *, cropped: bool = False) -> np.ndarray:
    import numpy as np

    shape = model.input_shape[1:]
    # Images of a network without a fixed size may differ in size.
    batches = [[path] for path in paths] if None in shape else [paths]
    images = (read_images(batch, shape, cropped=cropped) for batch in batches)
    return np.concatenate([model.predict(each, verbose=0) for each in images])


def _check_ends(path: pathlib.Path, inputs: list[tuple], outputs: list[tuple]) -> None:
    """Raises a `ValueError` unless a network maps one image to one vector."""
    if [len(shape) for shape in inputs] != [4] or [len(shape) for shape in outputs] != [2]:
        taken, given = (" and ".join(map(str, shapes)) for shapes in (inputs, outputs))
        raise ValueError(f"{path} takes {taken} and returns {given}; it must map one image to one vector of classes.")


def read_images(paths: Sequence[str | pathlib.Path], shape: Sequence[int], *, cropped: bool = False) -> np.ndarray:
    """Image files as a float32 array `(images, height, width, channels)` with values from 0 to 255.

    Args:
        paths: the files.
        shape: `(height, width, channels)`.
        cropped: resize the short side to 8/7 of the size and center-crop, instead of resizing the full image.
    """
    import numpy as np

    from keras_sharenets.images import read_image

    if len(shape) != 3:
        raise ValueError(f"The network takes inputs of shape {tuple(shape)}, which are not images.")
    if cropped:
        from keras_sharenets.training.data.augmentation import CENTER, crop_views

        height, width, channels = shape
        return crop_views([read_image(path, (None, None, channels)) for path in paths], (height, width), CENTER)
    return np.stack([read_image(path, tuple(shape)) for path in paths]).astype("float32")
