"""Classify images with a .keras or .tflite file, a SavedModel, or the network of a run.

sharenets predict best.tflite cat.jpg dog.jpg
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.cli.command import Answer, say
from keras_sharenets.cli.evaluate import CROPS_NOTES, add_crops
from keras_sharenets.files import check_paths

if TYPE_CHECKING:
    import numpy as np

    from keras_sharenets.heads import Head

_BATCH = 64  # Maximum number of images in memory.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = ".keras or .tflite file, or the folder of a run or of a SavedModel"
    parser.add_argument("target", metavar="FILE|DIR", help=target_help)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image of any size, or a folder of images")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="number of classes to show (default: 3)")
    add_crops(parser, "predict from")


def check(arguments: argparse.Namespace) -> None:
    _checks.positive("--top", arguments.top)
    check_paths(arguments.target, *arguments.images)


def run(arguments: argparse.Namespace) -> Answer:
    """A table with a line per image: the most probable classes, the classes present, or a number."""
    from keras_sharenets.rendering.tables import text_table

    arguments.images = _images(arguments.images)
    names, head, outputs = predict(arguments.target, arguments.images, arguments.crops)
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


def _images(paths: Sequence[str]) -> list[str]:
    """The paths, with the images below it in place of each folder."""
    from keras_sharenets.images import find_images

    images = []
    for path in paths:
        found = [path] if not pathlib.Path(path).is_dir() else [str(image) for image in find_images(path)]
        if not found:
            raise ValueError(f"The folder {path} contains no images.")
        images += found
    return images


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
    target: str | pathlib.Path, paths: Sequence[str | pathlib.Path], crops: str | None = None
) -> tuple[Sequence[str] | None, Head, np.ndarray]:
    """Runs a network on image files.

    Args:
        target: `.keras` or `.tflite` file, or the folder of a run or of a SavedModel.
        paths: image files of any size.
        crops: as in `evaluate`: `"none"` to resize each image to the input of the network, `"center"`, or `"ten"`;
            `None` for those of the run or search that the target belongs to. Others than `"none"` are announced.

    Returns:
        `(class names or None, Head, outputs)`; the array has the shape `(images, units)`.

    Raises:
        ValueError: a file is missing or invalid, the folder contains no run, the network does not map one image to
            one vector, or it takes images of any size and `crops` is not `"none"`.
    """
    import numpy as np

    from keras_sharenets.training.reports.evaluate import find_views

    shape, classify, of_run = _open(pathlib.Path(target))
    crops = crops or of_run
    if crops != "none":
        say(f"predictions {CROPS_NOTES[crops]}")
    # Images of a network without a fixed size may differ in size.
    size = 1 if None in shape else _BATCH
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    views = [
        [classify(read_images(batch, shape, view)) for batch in batches]
        for view in find_views(pathlib.Path(target), shape, crops)
    ]
    names, head, _ = views[0][0]
    return names, head, np.mean([np.concatenate([outputs for *_, outputs in answers]) for answers in views], axis=0)


def _open(target: pathlib.Path) -> tuple[Sequence[int], Callable[[np.ndarray], tuple], str]:
    """The shape of an image, the function from images to `(class names or None, Head, outputs)`, and the crops."""
    from keras_sharenets import files
    from keras_sharenets.heads import check_ends, head_of, load_classifier
    from keras_sharenets.training.run.finished import crops_of_file, network_file, open_run, tested_crops

    if (target / "saved_model.pb").is_file():
        from keras_sharenets.mobile.export.saved_model import open_saved_model

        served = open_saved_model(target)
        return served.shape, served.classify, crops_of_file(target)
    if target.suffix == ".tflite" and not target.is_dir():
        from keras_sharenets import mobile
        from keras_sharenets.mobile.inspect import file

        described = mobile.describe_tflite(target)
        inputs, outputs = ([tuple(end["shape"]) for end in described[ends]] for ends in ("inputs", "outputs"))
        check_ends(target, inputs, outputs)
        labels, of_file = file.read_labels(target), file.read_head(target)
        crops = crops_of_file(target)
        return inputs[0][1:], lambda images: (labels, of_file, mobile.predict_tflite(target, images)), crops
    if target.is_dir():
        trained = open_run(target)
        path, names, crops = network_file(target), trained.data["class_names"], tested_crops(trained.recipe)
    else:
        path, names, crops = target, files.read_labels(target), crops_of_file(target)
    model = load_classifier(path)
    head = head_of(model)
    return model.input_shape[1:], lambda images: (names, head, model.predict(images, verbose=0)), crops


def read_images(paths: Sequence[str | pathlib.Path], shape: Sequence[int], view: int | None = None) -> np.ndarray:
    """Image files as a float32 array `(images, height, width, channels)` with values from 0 to 255.

    Args:
        paths: the files.
        shape: `(height, width, channels)`.
        view: crop of each enlarged image, as in `crop_views`; `None` to resize the whole image.
    """
    import numpy as np

    from keras_sharenets.images import read_image

    if len(shape) != 3:
        raise ValueError(f"The network takes inputs of shape {tuple(shape)}, which are not images.")
    if view is None:
        return np.stack([read_image(path, tuple(shape)) for path in paths]).astype("float32")
    from keras_sharenets.training.data.augmentation import crop_views

    height, width, channels = shape
    crops = [crop_views([read_image(path, (None, None, channels))], (height, width), view) for path in paths]
    return np.concatenate(crops)
