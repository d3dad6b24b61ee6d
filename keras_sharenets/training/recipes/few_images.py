"""Adapts a recipe to small data sets: smaller batches, more epochs, another rate. Measured in docs/training.md."""

from __future__ import annotations

import math
from collections.abc import Collection

from keras_sharenets.training.recipes.named import override
from keras_sharenets.training.recipes.recipe import Recipe

FEWEST_STEPS, SMALLEST = 20, 8  # Per epoch; smallest batch size with usable normalization statistics.
FEWEST_STEPS_IN_ALL = 1_000  # Per run, with the default recipe of a network.
FEW_IMAGES = 2  # Divisor of the rate if batches are smaller than in the recipe; with `one_cycle`.
FINE_TUNING = 10  # Divisor of the rate for pretrained networks.


def batch_size_for(images: int, most: int, *, steps: int = 2 * FEWEST_STEPS) -> int:
    """The batch size: `most`, or with fewer than 20 steps per epoch, a power of two that gives `steps`.

    >>> batch_size_for(50_000, 128), batch_size_for(1_000, 128), batch_size_for(432, 128), batch_size_for(30, 4)
    (128, 16, 8, 4)
    """
    if images >= FEWEST_STEPS * most:
        return most
    return min(most, max(SMALLEST, 2 ** max(images // steps, 1).bit_length() // 2))


def adapt(recipe: Recipe, images: int, *, given: Collection[str], named: bool, trained: bool) -> Recipe:
    """Adapts batch size, steps, rate, and schedule of a recipe to the number of images.

    Batches are small for few images. For small batches, half the rate of batches of 128, with a warm-up, worked best;
    for pretrained networks, which have a low rate anyway, it was worse.

    Args:
        recipe: recipe for a network and a data set, with the given fields.
        images: number of training images.
        given: names of fields to keep unchanged.
        named: whether the recipe was selected by name: this also keeps the schedule and the number of epochs.
        trained: whether the network is pretrained.

    >>> adapt(Recipe(100, 0.1, 5e-4, "cosine"), 432, given=(), named=False, trained=False).learning_rate
    0.05
    """
    size, epochs, rate, schedule = recipe.batch_size, recipe.epochs, recipe.learning_rate, recipe.schedule
    if "batch_size" not in given:
        size = batch_size_for(images, size, steps=FEWEST_STEPS if trained else 2 * FEWEST_STEPS)
    if not named:
        epochs = max(epochs, math.ceil(FEWEST_STEPS_IN_ALL / max(images // size, 1)))
        if size < recipe.batch_size and not trained and not recipe.warmup_epochs:
            schedule, rate = "one_cycle", rate / FEW_IMAGES
    changed = {"batch_size": size, "epochs": epochs, "schedule": schedule}
    changed["learning_rate"] = rate / FINE_TUNING if trained else rate
    return override(recipe, **{name: value for name, value in changed.items() if name not in given})
