"""Trains a network and writes its files.

python -m trainers fit --model hscnet_m32_g4_r2_b1_a2 --data digits --epochs 40 --output runs/digits
"""

import argparse
import dataclasses
import typing

from keras_sharenets.models import find_variant
from trainers.arguments import add_data_arguments, load_data, parse_option
from trainers.fit import check_output, fit
from trainers.recipes import Recipe, override, recipe_for

JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def add_arguments(parser):
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the network (`sharenets list`)")
    add_data_arguments(parser)
    parser.add_argument("--output", required=True, metavar="RUN_DIR", help="folder for the run; must not hold one")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument(
        "--model-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="argument of the network's factory, a Python literal; repeatable",
    )
    parser.add_argument("--jit-compile", choices=JIT_COMPILE, default="auto", help="compile with XLA (default: auto)")
    group = parser.add_argument_group("recipe", "Without these, the recipe of the network's paper for this data set.")
    for field in dataclasses.fields(Recipe):
        _add_recipe_argument(group, field)


def _add_recipe_argument(group, field):
    flag = f"--{field.name.replace('_', '-')}"
    help_text = field.metadata["help"].replace("%", "%%")
    if field.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
    elif typing.get_origin(field.type) is tuple:
        group.add_argument(flag, type=typing.get_args(field.type)[0], nargs="*", metavar="X", help=help_text)
    else:
        group.add_argument(flag, type=field.type, metavar="X", help=help_text)


def run(args):
    """Checks what is cheap to check, then loads the data and trains; prints where the files are."""
    output = check_output(args.output)
    find_variant(args.model)
    options = dict(map(parse_option, args.model_option))
    dataset = load_data(args)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    recipe = override(
        recipe_for(args.model, dataset.name), **{name: value for name, value in given.items() if value is not None}
    )
    result = fit(
        args.model,
        dataset,
        output,
        recipe=recipe,
        options=options,
        seed=args.seed,
        jit_compile=JIT_COMPILE[args.jit_compile],
    )
    print(f"{result.model} on {dataset.name} ({dataset.note})")
    print(f"test accuracy {result.test_accuracy:.4f} after the last epoch; best epoch: {result.best.epoch}")
    print(f"files in {output}")
