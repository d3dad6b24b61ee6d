"""What few images change in a recipe: smaller batches, more epochs, another rate. Measured: docs/training.md."""

from __future__ import annotations

import math
from collections.abc import Collection

from keras_sharenets.training.recipes.named import override
from keras_sharenets.training.recipes.recipe import Recipe

FEWEST_STEPS, SMALLEST = 20, 8  # Of an epoch; images of a batch, below which a normalization knows too little.
FEWEST_STEPS_IN_ALL = 1_000  # Of a training by the recipe that a network has for other images.
FEW_IMAGES = 2  # What a rate is divided by for smaller batches than the recipe's; with `one_cycle`.
FINE_TUNING = 10  # What it is divided by for a network that begins trained.


def batch_size_for(images: int, most: int, *, steps: int = 2 * FEWEST_STEPS) -> int:
    """How many images a step takes: `most`, or with fewer than 20 steps an epoch, a power of two that gives `steps`.

    >>> batch_size_for(50_000, 128), batch_size_for(1_000, 128), batch_size_for(432, 128), batch_size_for(30, 4)
    (128, 16, 8, 4)
    """
    if images >= FEWEST_STEPS * most:
        return most
    return min(most, max(SMALLEST, 2 ** max(images // steps, 1).bit_length() // 2))


def adapt(recipe: Recipe, images: int, *, given: Collection[str], named: bool, trained: bool) -> Recipe:
    """The recipe with batches, steps, rate and schedule for so many images.

    With few of them, batches are small. Half of a rate for batches of 128, that rises first, was best for those; a
    network that begins trained has a low rate anyway, and did worse.

    Args:
        recipe: of a network and a data set, with the fields that were given.
        images: of the training split.
        given: names of fields that stay as they are.
        named: whether the recipe was asked for by name: then the schedule and the number of epochs stay, too.
        trained: whether the network begins with the weights of a training.

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
