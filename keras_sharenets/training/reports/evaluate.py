"""Measures the accuracy of a .keras or .tflite file on a test split.

python -m trainers evaluate runs/digits/last.keras --data digits
"""

import dataclasses
import pathlib

import numpy as np

from keras_sharenets import _checks, files
from keras_sharenets.cli.arguments import add_data_arguments, load_data
from keras_sharenets.training.data.batches import held_out_batches
from keras_sharenets.training.data.crops import CENTER, TEN

BATCH_SIZE = 256
# What is looked at of a picture: all of it, the crop in the middle, or ten crops, whose probabilities are averaged.
CROPS = {"none": (None,), "center": (CENTER,), "ten": TEN}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How many of the `pictures` of a test split a file gets right."""

    file: str
    data: str
    correct: int
    pictures: int

    @property
    def accuracy(self):
        return self.correct / self.pictures


def evaluate(path, dataset, crops="none"):
    """Runs a trained file over the test split.

    Args:
        path: `.keras` or `.tflite` file that takes raw pixels from 0 to 255.
        dataset: `Dataset`.
        crops: `"none"`, `"center"` or `"ten"` (corners, centre, all mirrored too): of pictures whose short side is 8/7
            of what the file takes.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: an argument is unknown, the file has another suffix, is missing or broken, or does not fit the data
            set.
    """
    _checks.one_of("crops", crops, tuple(CROPS))
    predictions = predict_test_split(path, dataset, crops)
    correct = int((predictions.argmax(axis=1) == dataset.test.labels).sum())
    return Evaluation(str(path), dataset.name, correct, len(dataset.test))


def predict_test_split(path, dataset, crops="none"):
    """The probabilities `(pictures, classes)` that a file gives the test split; arguments and errors as `evaluate`."""
    path = pathlib.Path(path)
    _check_labels(path, dataset)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} is neither a .keras nor a .tflite file.")
    shape, predict = _READERS[path.suffix](path)
    _check_shape(path, shape, dataset, crops)
    size = None if crops == "none" else shape[:2]
    views = [predict(held_out_batches(dataset, BATCH_SIZE, size, view)) for view in CROPS[crops]]
    if views[0].shape[1:] != (len(dataset.class_names),):
        classes = len(dataset.class_names)
        raise ValueError(
            f"{path} gives {views[0].shape[1:]} numbers a picture, but {dataset.name} has {classes} classes."
        )
    return np.mean(views, axis=0)


def _check_shape(path, shape, dataset, crops):
    if crops != "none" and len(shape) == 3 and None not in shape and shape[-1] == dataset.shape[-1]:
        return
    if len(shape) != 3 or any(side not in (None, given) for side, given in zip(shape, dataset.shape, strict=True)):
        raise ValueError(
            f"{path} takes pictures of the shape {shape}, but those of {dataset.name} are {dataset.shape}"
            f"{': `crops` takes what it needs of each.' if crops == 'none' else '.'}"
        )


def _check_labels(path, dataset):
    names = files.read_labels(path)
    if names not in (None, dataset.class_names):
        labels_file = path.with_name(files.LABELS)
        raise ValueError(f"The classes of {labels_file} ({', '.join(names)}) are not those of {dataset.name}.")


def _keras_file(path):
    model = files.load_model(path)
    return model.input_shape[1:], lambda batches: model.predict(batches, verbose=0)


def _tflite_file(path):
    from keras_sharenets.mobile import describe_tflite, predict_tflite

    def predict(batches):
        return np.concatenate([predict_tflite(path, batches[index][0]) for index in range(len(batches))])

    return tuple(describe_tflite(path)["inputs"][0]["shape"][1:]), predict


_READERS = {".keras": _keras_file, ".tflite": _tflite_file}


def add_arguments(parser):
    parser.add_argument("file", metavar="FILE", help=".keras or .tflite file")
    add_data_arguments(parser)
    parser.add_argument(
        "--crops",
        choices=CROPS,
        default="none",
        help="look at the middle of larger pictures, or at ten parts, corners and mirrors (default: none)",
    )


def run(args):
    """Prints one line: the accuracy, and on what."""
    dataset = load_data(args)
    result = evaluate(args.file, dataset, args.crops)
    print(f"accuracy {result.accuracy:.4f} ({result.correct} of {result.pictures} test pictures) on {dataset.note}")
