"""A recipe on the command line: one by name, and an option for each of its fields."""

import argparse
import typing

from keras_sharenets.training.recipes.named import find_recipe, override, recipe_for
from keras_sharenets.training.recipes.recipe import OPTIONS


def add_recipe_arguments(parser):
    """`--recipe` and an option for each field."""
    group = parser.add_argument_group("recipe", "Without these, the recipe of the network's paper for this data set.")
    group.add_argument("--recipe", metavar="NAME", help="another recipe (`python -m trainers recipes` lists them)")
    for field in OPTIONS:
        _add_field(group, field)


def _add_field(group, field):
    flag, help_text = f"--{field.name.replace('_', '-')}", field.metadata["help"].replace("%", "%%")
    if field.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
    elif typing.get_origin(field.type) is tuple:
        group.add_argument(flag, type=typing.get_args(field.type)[0], nargs="*", metavar="X", help=help_text)
    else:
        group.add_argument(flag, type=field.type, metavar="X", help=help_text)


def given_fields(args):
    """The fields that were given, a dict."""
    given = {field.name: getattr(args, field.name) for field in OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def named_recipe(args):
    """The recipe of `--recipe`, with the fields that were given; `None` without a name."""
    return None if args.recipe is None else override(find_recipe(args.recipe), **given_fields(args))


def chosen_recipe(args, model_name, data_name):
    """The recipe that the options ask for: the named one, or that of the network for the data set."""
    return named_recipe(args) or override(recipe_for(model_name, data_name), **given_fields(args))
