"""List the training recipes, or show all fields of one.

sharenets recipes shardnet-cifar10
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets.cli.command import Answer
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.training.recipes.named import RECIPES, find_recipe
from keras_sharenets.training.recipes.recipe import OPTIONS, Recipe

NEEDS_KERAS = False
HEADER = ("name", "epochs", "batch", "rate", "schedule", "decay", "momentum", "crop", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show all fields of this recipe")


def run(arguments: argparse.Namespace) -> Answer:
    """A table with the names for `fit --recipe`."""
    if arguments.name is None:
        table = text_table([HEADER, *map(_figures, RECIPES.values())])
        return Answer(table, [dataclasses.asdict(recipe) for recipe in RECIPES.values()])
    recipe = find_recipe(arguments.name)
    rows = [(field.name, _text(getattr(recipe, field.name)), field.metadata["help"]) for field in OPTIONS]
    return Answer(f"{recipe.name}: {recipe.source}\n\n{text_table(rows)}", dataclasses.asdict(recipe))


def _figures(recipe: Recipe) -> tuple[str, ...]:
    momentum = f"{recipe.momentum:g}" + (" Nesterov" if recipe.nesterov else "")
    figures = (f"{recipe.learning_rate:g}", describe_schedule(recipe), f"{recipe.weight_decay:g}", momentum)
    return (recipe.name, str(recipe.epochs), str(recipe.batch_size), *figures, _crop(recipe), recipe.source)


def describe_schedule(recipe: Recipe) -> str:
    """The schedule and its parameters, in epochs.

    >>> describe_schedule(RECIPES["hscnet-cifar10"]), describe_schedule(RECIPES["shardnet-cifar10"])
    ('x0.2 at 60, 120, 160', 'x0.5 after plateau of 10')
    """
    if recipe.schedule == "step":
        return f"x{recipe.decay_factor:g} at {', '.join(f'{part * recipe.epochs:.4g}' for part in recipe.milestones)}"
    if recipe.schedule == "plateau":
        return f"x{recipe.decay_factor:g} after plateau of {recipe.patience}"
    return recipe.schedule


def _crop(recipe: Recipe) -> str:
    crop = f"pad {recipe.pad} {recipe.border}" if recipe.crop == "shift" else f"{recipe.crop} {recipe.crop_size or ''}"
    return f"{crop.rstrip()}{', flip' if recipe.flip else ''}"


def _text(value: object) -> str:
    return ", ".join(f"{part:g}" for part in value) or "none" if isinstance(value, tuple) else str(value)
