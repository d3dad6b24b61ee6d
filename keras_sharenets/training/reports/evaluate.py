"""Accuracy of a `.keras` or `.tflite` file on a test split."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_sharenets import _checks, files
from keras_sharenets.heads import Head, check_ends, head_of, load_classifier
from keras_sharenets.training.data.augmentation import CENTER, TEN
from keras_sharenets.training.data.batches import Batches, held_out_batches
from keras_sharenets.training.data.dataset import Dataset, Shape
from keras_sharenets.training.run.finished import warn_of_other_split
from keras_sharenets.training.run.record import FEW_CLASSES

BATCH_SIZE = 256
# The shape of an image, the head, and the function that predicts batches.
Reader = tuple[Shape, Head, Callable[[Batches], np.ndarray]]
# Views of an image: the whole image, the center crop, or ten crops with averaged probabilities.
CROPS = {"none": (None,), "center": (CENTER,), "ten": TEN}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Number of correct predictions among the `images` of a test split.

    A prediction is the class with the highest probability. For one sigmoid, 0.5 is the threshold. For several sigmoids,
    only the label may exceed 0.5.
    """

    file: str
    data: str
    correct: int
    images: int
    correct_top5: int | None = None  # Label among the five highest; `None` for at most `FEW_CLASSES` classes.

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    @property
    def top5_accuracy(self) -> float | None:
        return None if self.correct_top5 is None else self.correct_top5 / self.images


def evaluate(path: str | pathlib.Path, dataset: Dataset, crops: str = "none") -> Evaluation:
    """Evaluates a trained file on the test split.

    Args:
        path: `.keras` or `.tflite` file that takes raw pixels from 0 to 255.
        dataset: data set to test on.
        crops: `"none"`, `"center"` or `"ten"` (corners and center, each also flipped). Images are resized to cover 8/7
            of the input size before cropping.

    Issues a warning if the folder of images has changed since the file was trained on it.

    Raises:
        ValueError: `crops` is unknown, the file has another suffix, is missing or broken, or does not match the data
            set.
    """
    _checks.one_of("crops", crops, tuple(CROPS))
    head, outputs = _run(path, dataset, crops)
    labels = dataset.test.labels
    correct = int(head.correct(outputs, labels).sum())
    top5 = count_top5(head.by_class(outputs), labels) if head.classes > FEW_CLASSES else None
    return Evaluation(str(path), dataset.name, correct, len(dataset.test), top5)


def count_top5(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """The number of images whose label is among the five classes with the highest probabilities.

    >>> count_top5(np.array([[0.3, 0.2, 0.1, 0.15, 0.12, 0.13]] * 2), np.array([2, 4]))
    1
    """
    first = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return int((first == labels[:, None]).any(axis=1).sum())


def predict_test_split(path: str | pathlib.Path, dataset: Dataset, crops: str = "none") -> np.ndarray:
    """Class probabilities `(images, classes)` for the test split; arguments and errors as in `evaluate`."""
    head, outputs = _run(path, dataset, crops)
    return head.by_class(outputs)


def _run(path: str | pathlib.Path, dataset: Dataset, crops: str) -> tuple[Head, np.ndarray]:
    """The head of a file and its outputs `(images, units)`."""
    path = pathlib.Path(path)
    _check_labels(path, dataset)
    warn_of_other_split(path, dataset)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} is neither a .keras nor a .tflite file.")
    shape, head, predict = _READERS[path.suffix](path)
    _check_shape(path, shape, dataset, crops)
    if head.classes != len(dataset.class_names):
        found = (
            f"has {head.units} outputs for {head.classes} classes" if head.classes else "returns a value, no classes"
        )
        raise ValueError(f"{path} {found}, but {dataset.name} has {len(dataset.class_names)} classes.")
    size: Any = None if crops == "none" else shape[:2]
    views = [predict(held_out_batches(dataset, BATCH_SIZE, size, view)) for view in find_views(path, shape, crops)]
    return head, np.mean(views, axis=0)


def find_views(path: pathlib.Path, shape: Sequence[int | None], crops: str) -> tuple[Any, ...]:
    """The views of each image for these `crops`; a `ValueError` if they need a size that the network does not have."""
    if crops != "none" and None in shape[:2]:
        raise ValueError(f"`crops` (={crops!r}) must be 'none': {path} takes images of any size, {tuple(shape)}.")
    return CROPS[crops]


def _check_shape(path: pathlib.Path, shape: Shape, dataset: Dataset, crops: str) -> None:
    if crops != "none" and shape[-1] == dataset.shape[-1]:
        return
    if any(side not in (None, given) for side, given in zip(shape, dataset.shape, strict=True)):
        raise ValueError(
            f"{path} takes images of shape {shape}, but those of {dataset.name} have {dataset.shape}."
            f"{' Use `crops` to crop them.' if crops == 'none' else ''}"
        )


def _check_labels(path: pathlib.Path, dataset: Dataset) -> None:
    """Checks the class names in the file, or in `labels.txt` next to it."""
    place, names = path.with_name(files.LABELS), files.read_labels(path)
    if path.suffix == ".tflite":
        from keras_sharenets.mobile.inspect import file

        inside = file.read_labels(path)
        place, names = (place, names) if inside is None else (path, inside)
    if names not in (None, dataset.class_names):
        raise ValueError(f"The classes in {place} ({', '.join(names)}) differ from those of {dataset.name}.")


def _keras_file(path: pathlib.Path) -> Reader:
    model = load_classifier(path)
    shape = model.input_shape[1:]

    def predict(batches: Batches) -> np.ndarray:
        if None not in shape:
            return model.predict(batches, verbose=0)
        # Keras derives the shape of all batches from the first two.
        return np.concatenate([model.predict_on_batch(batches[index][0]) for index in range(len(batches))])

    return shape, head_of(model), predict


def _tflite_file(path: pathlib.Path) -> Reader:
    from keras_sharenets.mobile import describe_tflite, predict_tflite
    from keras_sharenets.mobile.inspect import file

    described = describe_tflite(path)
    inputs, outputs = ([tuple(end["shape"]) for end in described[ends]] for ends in ("inputs", "outputs"))
    check_ends(path, inputs, outputs)

    def predict(batches: Batches) -> np.ndarray:
        return np.concatenate([predict_tflite(path, batches[index][0]) for index in range(len(batches))])

    return inputs[0][1:], file.read_head(path), predict


_READERS = {".keras": _keras_file, ".tflite": _tflite_file}
