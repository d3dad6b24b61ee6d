"""Knowledge distillation: a trained teacher whose class probabilities complement the labels."""

from __future__ import annotations

import os
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


def open_teacher(
    place: str | os.PathLike,
    dataset: Dataset,
    recipe: Recipe,
    *,
    argument: str = "teacher",
    name: str | None = None,
) -> tuple[keras.Model, str]:
    """The network in a run or a `.keras` file, and the SHA-256 of its file.

    Args:
        place: the folder of a run, or a file.
        dataset: must have the classes of the teacher in the same order, if `labels.txt` next to the file lists them.
        recipe: determines the image size.
        argument, name: the argument that stands for the network in messages, and its value (by default, the place).

    Raises:
        ValueError: the network does not exist, is damaged, takes other images, has other classes, or does not return
            probabilities.
    """
    told = f"`{argument}` (={name or str(place)!r})"
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
        theirs = f"{len(network.outputs)} outputs" if count is None else theirs
        raise ValueError(f"{told} has {theirs}, but {dataset.name} has {_short(classes)}.")
    images = (1, *input_shape(dataset, recipe))
    expected = network.input_shape
    if len(expected) != 4 or any(want not in (None, size) for want, size in zip(expected, images, strict=True)):
        raise ValueError(
            f"{told} takes images of shape {expected[1:]}, but the images of {dataset.name} have shape {images[1:]}."
        )
    answer = ops.convert_to_numpy(network(np.zeros(images, "float32"), training=False))
    if answer.shape != (1, count) or (answer < 0).any() or abs(answer.sum() - 1) > 1e-2:
        raise ValueError(f"{told} must return class probabilities: it must end in a softmax.")
    return network, files.sha256(path)


def _short(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"


def learn_from(model: keras.Model, teacher: keras.Model, recipe: Recipe) -> None:
    """Adds a distillation loss to a compiled model.

    The loss is `(1 - w) * L + w * D`: L is the loss of the labels including penalties, D is
    `keras.distillation.LogitsDistillation` between the log probabilities of both networks, and w is `teacher_weight` of
    the recipe. Both networks see the same augmented images. `keras.distillation.Distiller` is not used: it ignores
    penalties, and would store the teacher in every checkpoint.
    """
    divergence = logits_divergence(recipe.temperature)

    def distance(x: Any, y_pred: Any) -> Any:
        return divergence.compute_loss(as_logits(teacher(x, training=False)), as_logits(y_pred))

    add_distillation_loss(model, distance, recipe.teacher_weight)
