"""Name what is in images, with a .keras or .tflite file or the network of a run.

sharenets predict best.tflite cat.jpg dog.jpg
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks
from keras_sharenets.cli.command import Answer

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="FILE|RUN_DIR", help=".keras or .tflite file, or the folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file of any size")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="how many classes to name (default: 3)")


def check(arguments: argparse.Namespace) -> None:
    _checks.positive("--top", arguments.top)


def run(arguments: argparse.Namespace) -> Answer:
    import numpy as np

    from keras_sharenets.rendering.tables import text_table

    names, probabilities = predict(arguments.target, arguments.images)
    if names is not None and len(names) != probabilities.shape[-1]:
        raise ValueError(
            f"{arguments.target} gives {probabilities.shape[-1]} numbers per image, but there are {len(names)} class "
            "names (in the file, or in labels.txt beside it)."
        )
    answers = []
    for path, row in zip(arguments.images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: arguments.top]
        classes = [
            {"class": names[index] if names else f"class {index}", "probability": float(row[index])} for index in best
        ]
        answers.append({"image": path, "classes": classes})
    rows = [["image", *(f"{place + 1}." for place in range(len(answers[0]["classes"])))]]
    for answer in answers:
        rows.append([answer["image"], *(f"{e['class']} {e['probability']:.3f}" for e in answer["classes"])])
    return Answer(text_table(rows), answers)


def predict(target: str | pathlib.Path, paths: Sequence[str | pathlib.Path]) -> tuple[Sequence[str] | None, np.ndarray]:
    """What a network makes of image files.

    Args:
        target: `.keras` or `.tflite` file, or the folder of a run.
        paths: image files of any size. They are resized; for a run that was trained on crops, their middle is cut out.

    Returns:
        `(class names or None, probabilities)`; the array has the shape `(images, classes)`.

    Raises:
        ValueError: a file is missing or is not what it should be, or the folder holds no run.
    """
    from keras_sharenets import files

    if pathlib.Path(target).is_dir():
        from keras_sharenets.training.run.finished import network_file, open_run

        run = open_run(target)
        model = files.load_model(network_file(target))
        images = read_images(paths, model.input_shape[1:], cropped=bool(run.recipe.crop_size))
        return run.data["class_names"], model.predict(images, verbose=0)
    if str(target).endswith(".tflite"):
        from keras_sharenets import mobile
        from keras_sharenets.mobile.inspect.file import read_labels

        shape = mobile.describe_tflite(target)["inputs"][0]["shape"][1:]
        return read_labels(target), mobile.predict_tflite(target, read_images(paths, shape))
    model = files.load_model(target)
    return files.read_labels(target), model.predict(read_images(paths, model.input_shape[1:]), verbose=0)


def read_images(paths: Sequence[str | pathlib.Path], shape: Sequence[int], *, cropped: bool = False) -> np.ndarray:
    """Image files as a float32 array `(images, height, width, channels)` with values from 0 to 255.

    Args:
        paths: the files.
        shape: `(height, width, channels)`.
        cropped: cut out the middle of an image whose short side is 8/7 of the size, instead of resizing all of it.
    """
    import numpy as np

    from keras_sharenets.images import read_image

    if len(shape) != 3:
        raise ValueError(f"The network takes inputs of shape {tuple(shape)}: these are no images.")
    if cropped:
        from keras_sharenets.training.data.augmentation import CENTER, crop_views

        height, width, channels = shape
        return crop_views([read_image(path, (None, None, channels)) for path in paths], (height, width), CENTER)
    return np.stack([read_image(path, tuple(shape)) for path in paths]).astype("float32")
