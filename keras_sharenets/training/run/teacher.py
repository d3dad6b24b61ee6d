"""A trained network that another one learns from: beside the labels, from the probabilities that it gives."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import files
from keras_sharenets.sharing.distillation import add_distillation_loss, as_logits, logits_divergence
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.finished import network_file, open_run


def open_teacher(place: str, dataset: Dataset, recipe: Recipe, *, argument: str = "teacher") -> tuple[keras.Model, str]:
    """The network in a run or a `.keras` file, and the SHA-256 of its file.

    Args:
        place: a folder of a run, or a file.
        dataset: its classes must be those of the teacher, in order, as far as `labels.txt` beside the file tells.
        recipe: gives the size of images.
        argument: what messages call the network.

    Raises:
        ValueError: there is no such network, it is damaged, it takes other images, has other classes, or gives no
            probabilities.
    """
    path = pathlib.Path(place)
    if path.is_dir():
        open_run(path)
        path = network_file(path)
    network = files.load_model(path)
    network.trainable = False
    labels, classes = files.read_labels(path), tuple(" ".join(name.splitlines()) for name in dataset.class_names)
    count = network.output_shape[-1] if isinstance(network.output_shape, tuple) else None
    if count != len(classes) or labels not in (None, classes):
        theirs = f"{count} classes" if labels is None else f"the classes {_short(labels)}"
        raise ValueError(f"`{argument}` (={place!r}) has {theirs}, but {dataset.name} has {_short(classes)}.")
    images = (1, *input_shape(dataset, recipe))
    expected = network.input_shape
    if len(expected) != 4 or any(want not in (None, size) for want, size in zip(expected, images, strict=True)):
        raise ValueError(
            f"`{argument}` (={place!r}) takes images of the shape {expected[1:]}, but those of {dataset.name} have "
            f"{images[1:]}."
        )
    answer = ops.convert_to_numpy(network(np.zeros(images, "float32"), training=False))
    if answer.shape != (1, count) or (answer < 0).any() or abs(answer.sum() - 1) > 1e-2:
        raise ValueError(f"`{argument}` (={place!r}) must give the probabilities of the classes: a softmax at its end.")
    return network, hashlib.sha256(path.read_bytes()).hexdigest()


def _short(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"


def learn_from(model: keras.Model, teacher: keras.Model, recipe: Recipe) -> None:
    """Lets a compiled model train on what a teacher says as well.

    The loss is `(1 - w) * L + w * D`: L that of the labels with the penalties, D
    `keras.distillation.LogitsDistillation` between the logarithms of both networks' probabilities, w the recipe's
    `teacher_weight`. Both see the same changed images. `keras.distillation.Distiller` itself has no penalties, and the
    teacher would be part of every checkpoint.
    """
    divergence = logits_divergence(recipe.temperature)

    def distance(x: Any, y_pred: Any) -> Any:
        return divergence.compute_loss(as_logits(teacher(x, training=False)), as_logits(y_pred))

    add_distillation_loss(model, distance, recipe.teacher_weight)
