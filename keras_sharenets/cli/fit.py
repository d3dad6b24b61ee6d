"""Trains a network and writes its files.

python -m trainers fit --model hscnet_m32_g4_r2_b1_a2 --data digits --epochs 40 --output runs/digits
"""

import dataclasses
import pathlib

from keras_sharenets.cli.arguments import add_data_arguments, load_data, parse_option
from keras_sharenets.cli.recipe_arguments import add_recipe_arguments, chosen_recipe, given_fields, named_recipe
from keras_sharenets.models import find_variant
from keras_sharenets.training.devices.devices import STRATEGIES, connect
from keras_sharenets.training.run.callbacks import EXTRAS, check_tensorboard
from keras_sharenets.training.run.finished import SOURCE, fill_source
from keras_sharenets.training.run.fit import check_output, fit, resume
from keras_sharenets.training.run.record import as_tuples, read_metrics

JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", help="name of the network (`sharenets list`)")
    add_data_arguments(parser, required=False)
    parser.add_argument("--output", metavar="RUN_DIR", help="folder for the run; must not hold one")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="go on with the run in this folder from its last checkpoint, with the arguments that it began with",
    )
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default: 0)")
    parser.add_argument(
        "--model-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="argument of the network's factory, a Python literal; repeatable",
    )
    parser.add_argument("--jit-compile", choices=JIT_COMPILE, help="compile with XLA (default: auto)")
    parser.add_argument(
        "--deterministic", action="store_true", default=None, help="the same bits every time, also when resumed; slower"
    )
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="a checkpoint every N steps, not only after each epoch"
    )
    parser.add_argument("--keep-checkpoints", type=int, metavar="K", help="how many checkpoints stay (default: 3)")
    parser.add_argument(
        "--tensorboard",
        nargs="*",
        metavar="EXTRA",
        help=f"write logs for TensorBoard: scalars, and what is named of {' and '.join(EXTRAS)}",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="default",
        help="the devices: one; all of this machine ('mirrored'); the workers that TF_CONFIG lists, a process each "
        "('multi_worker'; through jax.distributed on JAX); a TPU",
    )
    add_recipe_arguments(parser)


def run(args):
    """Checks what is cheap to check, then loads the data and trains; prints where the files are."""
    output = pathlib.Path(args.resume or args.output or ".")
    result = _begin(args) if args.resume is None else _go_on(args)
    print(f"{result.model} on {result.data['name']} ({result.data['note']})")
    print(f"test accuracy {result.test_accuracy:.4f} after the last epoch; best epoch: {result.best.epoch}")
    print(f"files in {output}")


def _begin(args):
    for name in ("model", "data", "output"):
        if getattr(args, name) is None:
            raise ValueError(f"`--{name}` is needed for a new run; `--resume RUN_DIR` goes on with an old one.")
    output = check_output(args.output)
    find_variant(args.model)
    check_tensorboard(args.tensorboard)
    options = dict(map(parse_option, args.model_option))
    connect(args.strategy)  # Before anything is computed, so before there are data.
    named_recipe(args)  # An error of it comes before the data are read.
    dataset = load_data(args)
    recipe = chosen_recipe(args, args.model, dataset.name)
    source = {name: getattr(args, name) for name in SOURCE}
    # What is not given is left to `fit`.
    names = ("seed", "deterministic", "checkpoint_steps", "keep_checkpoints", "tensorboard")
    choices = {name: getattr(args, name) for name in names}
    choices = {name: value for name, value in choices.items() if value is not None} | {"strategy": args.strategy}
    jit_compile = JIT_COMPILE[args.jit_compile or "auto"]
    return fit(
        args.model, dataset, output, recipe=recipe, options=options, jit_compile=jit_compile, source=source, **choices
    )


def _go_on(args):
    recorded = read_metrics(pathlib.Path(args.resume) / "metrics.json")
    _check_unchanged(args, recorded)
    connect(args.strategy)
    # The pictures may lie elsewhere by now. Whether they are the same ones, `resume` finds out.
    fill_source(args, args.resume, recorded)
    dataset = load_data(args)
    kept = {"checkpoint_steps": args.checkpoint_steps, "keep_checkpoints": args.keep_checkpoints}
    return resume(args.resume, dataset, strategy=args.strategy, **kept)


def _check_unchanged(args, recorded):
    """Raises a `ValueError` if an argument is given that would make it another run."""
    names = ("model", "seed", "deterministic", "tensorboard")
    given = {name: getattr(args, name) for name in names} | {"recipe": args.recipe} | given_fields(args)
    before = {name: getattr(recorded, name) for name in names} | {"recipe": recorded.recipe.name}
    before |= dataclasses.asdict(recorded.recipe)
    if args.jit_compile is not None:
        given["jit_compile"], before["jit_compile"] = JIT_COMPILE[args.jit_compile], recorded.jit_compile
    if args.output is not None:
        given["output"], before["output"] = pathlib.Path(args.output).resolve(), pathlib.Path(args.resume).resolve()
    for name, value in map(parse_option, args.model_option):
        given[f"model-option {name}"], before[f"model-option {name}"] = as_tuples(value), recorded.options.get(name)
    for name, value in given.items():
        if value is not None and as_tuples(value) != as_tuples(before[name]):
            raise ValueError(
                f"`--{name.replace('_', '-')}` (={value}) must be that of the run in {args.resume} (={before[name]}), "
                "or be left out. Choose another `--output` for another run."
            )
