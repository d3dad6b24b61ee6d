"""Batch augmentations by random layers of Keras, as part of the training step.

Their random numbers depend only on the seed of the run and the step number, so that a resumed run sees the same
images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets.training.recipes.recipe import BATCH_CHANGES, Recipe

STREAM = 2  # Random number stream derived from the seed of a run; `training.data.batches` uses 0 and 1.
_DRAWS = 1 << 10  # Upper bound of random draws per layer and step.
_PIXELS = (0, 255)
# Maps recipe fields to layers.
LAYERS: dict[str, Callable[[float], keras.layers.Layer]] = {
    "rand_augment": lambda strength: keras.layers.RandAugment(_PIXELS, factor=strength, dtype="float32"),
    "random_erasing": lambda part: keras.layers.RandomErasing((part, part), value_range=_PIXELS, dtype="float32"),
    "mixup": lambda alpha: keras.layers.MixUp(alpha, dtype="float32"),
    # Keras draws alpha from a range.
    "cutmix": lambda alpha: keras.layers.CutMix((alpha, alpha), dtype="float32"),
}


def changes(recipe: Recipe) -> tuple[str, ...]:
    """The names of the batch augmentations in a recipe.

    >>> changes(Recipe(1, 0.1, 0.0, mixup=0.2, rand_augment=0.3))
    ('rand_augment', 'mixup')
    """
    return tuple(name for name in BATCH_CHANGES if getattr(recipe, name))


def compiles(recipe: Recipe) -> bool:
    """Whether XLA can compile a step with these augmentations: on TensorFlow it lacks random gamma numbers and
    rotation."""
    return keras.backend.backend() != "tensorflow" or set(changes(recipe)) <= {"random_erasing"}


def batch_changer(recipe: Recipe, seed: int, image_shape: tuple[int, ...]) -> Callable[[Any, Any, Any], tuple]:
    """A function `(images, labels, step)` that returns augmented images and labels, and that any backend can compile.

    Args:
        recipe: determines the augmentations and their strength.
        seed: seed of the run.
        image_shape: `(height, width, channels)`.
    """
    made = []
    for number, name in enumerate(BATCH_CHANGES):
        if name in changes(recipe):
            layer = LAYERS[name](getattr(recipe, name))
            layer.build((None, *image_shape))
            made.append((name, layer, int(np.random.SeedSequence((seed, STREAM, number)).generate_state(1)[0])))

    def apply(layer: Any, first: int, images: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        state = ops.stack([ops.cast(first, "uint32"), ops.cast(step, "uint32") * _DRAWS])
        with keras.StatelessScope([(layer.generator.state, state)]):
            changed = layer({"images": images, "labels": labels}, training=True)
        return changed["images"], changed["labels"]

    def change(images: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        mixed = []
        for name, layer, first in made:
            after = apply(layer, first, images, labels, step)
            if name in ("mixup", "cutmix"):
                mixed.append(after)
            else:
                images, labels = after
        if len(mixed) < 2:
            return mixed[0] if mixed else (images, labels)
        one, other = mixed
        return tuple(ops.where(ops.equal(step % 2, 0), *pair) for pair in zip(one, other, strict=True))

    return change


def change_batches(model: keras.Model, recipe: Recipe, seed: int) -> None:
    """Adds batch augmentation to a compiled model, if the recipe has any."""
    if not changes(recipe):
        return
    change, train_step = batch_changer(recipe, seed, model.input_shape[1:]), model.train_step
    counter = getattr(model.optimizer, "inner_optimizer", model.optimizer).variables[0]
    place = next(place for place, each in enumerate(model.optimizer.variables) if each is counter)

    def changed(data: Any, step: Any) -> tuple[Any, ...]:
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        return keras.utils.pack_x_y_sample_weight(*change(images, labels, step), weights)

    # On JAX, a step takes its state as an argument: the weights, then the variables of the optimizer.
    def stateless_step(state: Any, data: Any) -> Any:
        return train_step(state, changed(data, state[2][place]))

    def stateful_step(data: Any) -> Any:
        return train_step(changed(data, counter.value))

    model.train_step = stateless_step if keras.backend.backend() == "jax" else stateful_step
