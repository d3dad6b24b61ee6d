"""Options shared by several commands, and functions that turn them into values."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras_sharenets.cli.command import say
from keras_sharenets.training.data.sources import KNOWN, DataSource
from keras_sharenets.training.recipes.named import adapt, find_recipe, override, recipe_for
from keras_sharenets.training.recipes.recipe import OPTIONS, Recipe, unused_fields

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset

FINE_TUNING_EPOCHS = 10  # The default of `--epochs`.
_OF_NEW_NETWORKS = ("dropout", "normalization", "initialization")  # Recipe fields for building a network.


def add_data_arguments(parser: argparse.ArgumentParser, required: bool = True, note: str | None = None) -> None:
    """Adds a group with `--data` and related options; `note` describes the default."""
    group = parser.add_argument_group("data", note)
    group.add_argument(
        "--data",
        required=required,
        help=f"{', '.join(KNOWN)}, any name in TensorFlow Datasets, or a folder with one folder of images per class",
    )
    group.add_argument(
        "--data-dir",
        metavar="D",
        help="TensorFlow Datasets folder (default: TFDS_DATA_DIR), or folder of the unpacked data set",
    )
    group.add_argument(
        "--download", action="store_true", default=None, help="let TensorFlow Datasets download the data"
    )
    group.add_argument(
        "--skip-unreadable",
        action="store_true",
        default=None,
        help="skip files that are not images, and list them",
    )
    seed_help = "seed of the test split of a folder without one, and of the validation split (default: 0)"
    group.add_argument("--split-seed", type=int, metavar="N", help=seed_help)
    resized = "resize images to this size (default: all images have the same size already); 0 0 C: keep each size"
    add_input_shape(group, resized)


def add_input_shape(parser: argparse._ActionsContainer, text: str, default: tuple[int, int, int] | None = None) -> None:
    """`--input-shape HEIGHT WIDTH CHANNELS`."""
    sides = ("HEIGHT", "WIDTH", "CHANNELS")
    parser.add_argument("--input-shape", type=int, nargs=3, default=default, metavar=sides, help=text)


def data_source(arguments: argparse.Namespace, recorded: Mapping[str, object] | None = None) -> DataSource:
    """The data source selected by the options of `add_data_arguments`; `recorded` supplies missing options.

    Raises:
        ValueError: no data set is given.
    """
    names = ("data", "data_dir", "input_shape", "skip_unreadable", "split_seed", "download")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return DataSource.from_record(recorded, **given)


def load_data(source: DataSource) -> Dataset:
    """Loads the data set. For image files, prints a summary with the skipped ones to standard error."""
    from keras_sharenets.training.data.dataset import Files, describe_dataset

    dataset = source.load()
    if isinstance(dataset.train, Files):
        say(describe_dataset(dataset))
    return dataset


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--recipe` and an option for each field of a recipe."""
    group = parser.add_argument_group("recipe", "Default: the recipe of the network's paper for this data set.")
    group.add_argument("--recipe", metavar="NAME", help="use another recipe (see the command `recipes`)")
    for field in OPTIONS:
        flag, help_text = f"--{field.name.replace('_', '-')}", field.metadata["help"].replace("%", "%%")
        kind = FIELD_TYPES[field.name]
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        elif typing.get_origin(kind) is tuple:
            group.add_argument(flag, type=typing.get_args(kind)[0], nargs="*", metavar="X", help=help_text)
        else:
            group.add_argument(flag, type=kind, metavar="X", help=help_text)


FIELD_TYPES = typing.get_type_hints(Recipe)


def given_fields(arguments: argparse.Namespace) -> dict[str, object]:
    """The recipe fields that were given as options."""
    given = {field.name: getattr(arguments, field.name) for field in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def named_recipe(arguments: argparse.Namespace) -> Recipe | None:
    """The recipe named by `--recipe`, with the given fields; `None` without `--recipe`."""
    return None if arguments.recipe is None else _overridden(find_recipe(arguments.recipe), arguments)


def chosen_recipe(arguments: argparse.Namespace, model_name: str, data_name: str) -> Recipe:
    """The recipe selected by the options: the named one, or the default of the network for the data set."""
    return named_recipe(arguments) or _overridden(recipe_for(model_name, data_name), arguments)


def _overridden(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with the given fields, all of which must have an effect."""
    given = given_fields(arguments)
    return _check_used(override(recipe, **given), recipe, given)


def _check_used(recipe: Recipe, before: Recipe, given: Mapping[str, object]) -> Recipe:
    """The recipe; a `ValueError` if a given field, which differs from the recipe `before`, has no effect in it."""
    for name, (other, values) in unused_fields(recipe).items():
        if name in given and getattr(recipe, name) != getattr(before, name):
            raise ValueError(
                f"`--{name.replace('_', '-')}` (={given[name]}) has no effect with the {other} "
                f"{getattr(recipe, other)!r}: also give `--{other} {' or '.join(values)}`."
            )
    return recipe


def adapted_recipe(
    arguments: argparse.Namespace, model_name: str, dataset: Dataset, *, trained: bool = False
) -> Recipe:
    """As [`chosen_recipe`], adapted to the number of training images; `trained`: for a pretrained network."""
    chosen, given = chosen_recipe(arguments, model_name, dataset.name), given_fields(arguments)
    adapted = adapt(chosen, len(dataset.train), given=given, named=arguments.recipe is not None, trained=trained)
    if arguments.recipe is None:  # Its schedule may have changed.
        _check_used(adapted, recipe_for(model_name, dataset.name), given)
    return adapted


def fine_tuning_recipe(arguments: argparse.Namespace, model_name: str, dataset: Dataset) -> Recipe:
    """The recipe for fine-tuning a trained network: its own, with few epochs and a low rate unless given otherwise.

    Raises:
        ValueError: an option is given that applies to new networks only.
    """
    from keras_sharenets.models.registry import VARIANTS

    for name in _OF_NEW_NETWORKS:
        if (value := getattr(arguments, name)) is not None:
            raise ValueError(f"`--{name}` (={value}) must be omitted: a trained network keeps its layers and weights.")
    own = recipe_for(model_name, dataset.name) if model_name in VARIANTS else find_recipe("default")
    recipe = own if arguments.recipe is None else find_recipe(arguments.recipe)
    given = {"epochs": FINE_TUNING_EPOCHS, "ema": 0.0, **given_fields(arguments)}
    _check_used(override(recipe, **given), recipe, given)
    return adapt(override(recipe, **given), len(dataset.train), given=given, named=True, trained=True)


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--model-option`: arguments of a network's factory, parsed by `training.run.command.parse_option`."""
    option_help = "argument of the network's factory, as a Python literal; repeatable"
    parser.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE", help=option_help)
