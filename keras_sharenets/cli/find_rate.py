"""Suggest a learning rate for a network and a recipe, and plot the loss against the rate.

sharenets find-rate --model resnet_8 --data digits --recipe fast --output rates.png
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets.cli.arguments import (
    adapted_recipe,
    add_data_arguments,
    add_model_option,
    add_recipe_arguments,
    data_source,
    load_data,
    named_recipe,
)
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_writable, write_bytes
from keras_sharenets.models import find_variant
from keras_sharenets.training.run.command import parse_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the network (see `sharenets list`)")
    add_data_arguments(parser)
    parser.add_argument("--output", required=True, metavar="FILE.png", help="file for the figure")
    parser.add_argument("--steps", type=int, default=100, help="number of steps while the rate rises (default: 100)")
    parser.add_argument("--lowest", type=float, default=1e-5, metavar="RATE", help="first rate (default: 1e-5)")
    parser.add_argument("--highest", type=float, default=10.0, metavar="RATE", help="last rate (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for initialization, shuffling, and augmentation (default: 0)"
    )
    add_model_option(parser)
    add_recipe_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    find_variant(arguments.model)
    named_recipe(arguments)
    if not arguments.output.endswith(".png"):
        raise ValueError(f"`--output` (={arguments.output}) must end in .png.")
    check_writable(arguments.output, "--output")


def run(arguments: argparse.Namespace) -> Answer:
    """The rate at which the smoothed loss falls fastest; the figure shows how reliable it is."""
    from keras_sharenets.training.run.rates import draw_rates, find_rate

    # As in `fit`: the same training images and, if they are few, smaller batches.
    dataset = load_data(dataclasses.replace(data_source(arguments), validation="auto"))
    recipe = adapted_recipe(arguments, arguments.model, dataset)
    found = find_rate(
        arguments.model,
        dataset,
        recipe=recipe,
        options=dict(map(parse_option, arguments.model_option)),
        **{name: getattr(arguments, name) for name in ("seed", "steps", "lowest", "highest")},
    )
    title = f"{arguments.model} on {dataset.name}, {recipe.optimizer}, batch {recipe.batch_size}"
    write_bytes(arguments.output, draw_rates(found, title))
    text = (
        f"the loss falls fastest at a learning rate of {found.suggested:.2g}; the recipe has {recipe.learning_rate:g}\n"
        f"figure: {arguments.output}"
    )
    data = {"model": arguments.model, "data": dataset.name, "output": arguments.output}
    return Answer(text, data | {"recipe_learning_rate": recipe.learning_rate} | dataclasses.asdict(found))
