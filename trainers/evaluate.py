"""Measures the accuracy of a .keras or .tflite file on a test split.

python -m trainers evaluate runs/digits/last.keras --data digits
"""

import dataclasses
import pathlib

import numpy as np

from keras_sharenets import files
from trainers.arguments import add_data_arguments, load_data
from trainers.batches import held_out_batches

BATCH_SIZE = 256


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


def evaluate(path, dataset):
    """Runs a trained file over the test split.

    Args:
        path: `.keras` or `.tflite` file that takes raw pixels from 0 to 255.
        dataset: `Dataset`.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: the file has another suffix, is missing or broken, or does not fit the data set.
    """
    path = pathlib.Path(path)
    _check_labels(path.with_name("labels.txt"), dataset)
    if path.suffix == ".keras":
        predictions = _predict_keras(path, dataset)
    elif path.suffix == ".tflite":
        predictions = _predict_tflite(path, dataset)
    else:
        raise ValueError(f"{path} is neither a .keras nor a .tflite file.")
    if predictions.shape[1:] != (len(dataset.class_names),):
        classes = len(dataset.class_names)
        raise ValueError(
            f"{path} gives {predictions.shape[1:]} numbers a picture, but {dataset.name} has {classes} classes."
        )
    correct = int((predictions.argmax(axis=1) == dataset.test.labels).sum())
    return Evaluation(str(path), dataset.name, correct, len(dataset.test))


def _check_labels(labels_file, dataset):
    if labels_file.is_file():
        names = tuple(labels_file.read_text().splitlines())
        if names != dataset.class_names:
            raise ValueError(f"The classes of {labels_file} ({', '.join(names)}) are not those of {dataset.name}.")


def _predict_keras(path, dataset):
    model = files.load_model(path)
    expected = model.input_shape[1:]
    if len(expected) != 3 or any(
        side not in (None, given) for side, given in zip(expected, dataset.shape, strict=True)
    ):
        raise ValueError(
            f"{path} takes pictures of the shape {expected}, but those of {dataset.name} are {dataset.shape}."
        )
    return model.predict(held_out_batches(dataset, BATCH_SIZE), verbose=0)


def _predict_tflite(path, dataset):
    from keras_sharenets.mobile import predict_tflite

    batches = held_out_batches(dataset, BATCH_SIZE)
    return np.concatenate([predict_tflite(path, batches[index][0]) for index in range(len(batches))])


def add_arguments(parser):
    parser.add_argument("file", metavar="FILE", help=".keras or .tflite file")
    add_data_arguments(parser)


def run(args):
    """Prints one line: the accuracy, and on what."""
    dataset = load_data(args)
    result = evaluate(args.file, dataset)
    print(f"accuracy {result.accuracy:.4f} ({result.correct} of {result.pictures} test pictures) on {dataset.note}")
