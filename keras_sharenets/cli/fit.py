"""Train a network and write its files, or resume a run.

sharenets fit --model hscnet_m32_g4_r2_b1_a2 --data digits --epochs 40 --output runs/digits
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import pathlib
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from keras_sharenets.cli.arguments import (
    FIELD_TYPES,
    add_data_arguments,
    add_model_option,
    add_recipe_arguments,
    chosen_recipe,
    data_source,
    given_fields,
    load_data,
    named_recipe,
)
from keras_sharenets.cli.command import Answer, say, say_over
from keras_sharenets.extras import require
from keras_sharenets.files import as_tuples, check_paths
from keras_sharenets.models import find_variant
from keras_sharenets.training.recipes.few_images import adapt
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.command import config_words, parse_option
from keras_sharenets.training.run.config import read_config
from keras_sharenets.training.run.record import (
    ON_DEVICE,
    PRECISIONS,
    STRATEGIES,
    TENSORBOARD,
    Run,
    RunOptions,
    read_metrics,
)
from keras_sharenets.training.run.start import look_up

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset

JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Also those that a file of `--config` may have."""
    parser.add_argument("--model", metavar="NAME", help="name of the network (`sharenets list`)")
    add_model_option(parser)
    parser.add_argument(
        "--from",
        metavar="RUN|FILE|NAME",
        help="begin with the weights of a run, of a .keras file or of a network that comes trained (`list --trained`), "
        "with a new head unless the classes are the same; images of a folder are resized to what it takes",
    )
    parser.add_argument("--freeze", action="store_true", default=None, help="train nothing but the head of `--from`")
    parser.add_argument(
        "--teacher",
        metavar="RUN_DIR|FILE",
        help="learn from the probabilities of this network too: a run or a .keras file, with the same classes",
    )
    parser.add_argument("--output", metavar="RUN_DIR", help="folder for the run; must not hold one")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="resume the run in this folder from its last checkpoint, with the arguments that it was started with",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="options of this command from a file, such as the run.yaml of a run; those on the command line win",
    )
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default: 0)")
    parser.add_argument(
        "--validation",
        metavar="SHARE|DIR",
        help="what the epochs are compared on: a part of each class of the training images, a folder of images, 'none' "
        "for the test split, or 'auto': a third split, else 0.1, of CIFAR and ImageNet nothing (default: auto)",
    )
    add_data_arguments(parser, required=False)
    add_recipe_arguments(parser)
    devices = parser.add_argument_group("devices and precision")
    devices.add_argument(
        "--precision",
        choices=(*PRECISIONS, "auto"),
        help="of what is computed; files stay float32. 'auto' takes a few steps in float32 and in bfloat16 and keeps "
        "the faster (default: float32, on a TPU bfloat16)",
    )
    devices.add_argument(
        "--epochs-on-device",
        choices=ON_DEVICE,
        help="images are changed on the device, which takes many steps at once, on JAX (default: auto: on a GPU, TPU)",
    )
    devices.add_argument("--jit-compile", choices=JIT_COMPILE, help="compile with XLA (default: auto)")
    devices.add_argument(
        "--deterministic", action="store_true", default=None, help="the same bits every time, also when resumed; slower"
    )
    devices.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="default",
        help="the devices: one; all of this machine ('mirrored'); the workers that TF_CONFIG lists, a process each "
        "('multi_worker'; through jax.distributed on JAX); a TPU",
    )
    devices.add_argument(
        "--cluster-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long the workers of TF_CONFIG wait for each other at the start (default: 600)",
    )
    kept = parser.add_argument_group("checkpoints and logs")
    kept.add_argument(
        "--checkpoint-minutes",
        type=float,
        metavar="M",
        help="a checkpoint M minutes after the last one, not only after each epoch (default: 2)",
    )
    kept.add_argument("--checkpoint-steps", type=int, metavar="N", help="also a checkpoint every N steps")
    kept.add_argument("--keep-checkpoints", type=int, metavar="K", help="how many checkpoints stay (default: 3)")
    kept.add_argument(
        "--tensorboard",
        nargs="*",
        metavar="EXTRA",
        help=f"write logs for TensorBoard: scalars, and what is named of {' and '.join(TENSORBOARD)}",
    )


class _ConfigParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _add_config(arguments: argparse.Namespace, path: pathlib.Path) -> None:
    """Gives options that were not typed their values in a file; none of its recipe beside a recipe that was typed.

    Raises:
        ValueError: an option is unknown, or its value will not do; the message names it.
    """
    parser = _ConfigParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    known = [action.dest for action in parser._actions if action.dest not in ("config", "resume")]
    config = read_config(path)
    for name in config:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"`{name}` in {path} is no option of `fit`.{hint}")
    if arguments.recipe is not None:
        # What the file says of a recipe are changes to another one.
        config = {name: value for name, value in config.items() if name not in FIELD_TYPES}
    try:
        found = parser.parse_args(config_words(config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # Words that were typed replace values in what was found, and are added to its model options.
    typed = shlex.split(arguments.command_line)
    parser.parse_known_args(typed[typed.index(arguments.command) + 1 :], found)
    vars(arguments).update(vars(found))


def check(arguments: argparse.Namespace) -> None:
    if arguments.config is not None and arguments.resume is not None:
        raise ValueError("`--config` is for a new run: `--resume` goes on with the options that it was started with.")
    if arguments.resume is not None:
        check_paths(arguments.resume)
        return
    if arguments.config is not None:
        _add_config(arguments, pathlib.Path(arguments.config))
    if arguments.tensorboard is not None:
        require("tensorboard")
    start = vars(arguments)["from"]
    for name in ("model", "data", "output") if start is None else ("data", "output"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`--{name}` is needed for a new run; `--resume RUN_DIR` continues an old one.")
    if start is not None:
        look_up(start, arguments.model, dict(map(parse_option, arguments.model_option)))
    check_paths(arguments.teacher)
    if arguments.freeze and start is None:
        raise ValueError("`--freeze` needs `--from`: an untrained network is of no use as it is.")
    if arguments.model is not None:
        find_variant(arguments.model)
    named_recipe(arguments)


def run(arguments: argparse.Namespace) -> Answer:
    """What is cheap to check is checked first; then the data is loaded and the network trained."""
    output = pathlib.Path(arguments.resume or arguments.output or ".")
    result = _begin(arguments) if arguments.resume is None else _go_on(arguments)
    folder = shlex.quote(str(output))
    text = (
        f"{result.model} on {result.data['name']} ({result.data['note']})\n"
        f"test accuracy {result.test_accuracy:.4f} after the last epoch; best epoch: {result.best.epoch}, by the "
        f"{result.split} split, {result.best.held_out_accuracy:.4f} there\n"
        f"{_further(result)}\n"
        f"{_precision(result)}"
        f"files in {output}\n"
        f"a page about it: sharenets report {folder}; files for phones and servers: sharenets export {folder}"
    )
    best = {"epoch": result.best.epoch, f"{result.split}_accuracy": result.best.held_out_accuracy}
    outcome = {"split": result.split, "test_accuracy": result.test_accuracy, "best": best, "seconds": result.seconds}
    data = {"model": result.model, "data": result.data["name"], "note": result.data["note"], "output": str(output)}
    return Answer(text, data | outcome)


def _further(result: Run) -> str:
    """Error rate, and top-5 accuracy where there are many classes; a line."""
    top5 = result.last.test_top5_accuracy
    return f"error rate {1 - (result.test_accuracy or 0):.4f}{'' if top5 is None else f', top-5 accuracy {top5:.4f}'}"


def _precision(result: Run) -> str:
    """Why it was trained in that precision, if that was measured; a line."""
    if result.step_seconds is None:
        return ""
    took = ", ".join(f"{1000 * seconds:.1f} ms in {name}" for name, seconds in result.step_seconds.items())
    return f"trained in {result.precision}: a step took {took}\n"


def tell_epochs(recipe: Recipe, dataset: Dataset, opening: str = "") -> dict[str, Any]:
    """Arguments of `fit` and `resume`: after an opening line, of each epoch one is told, on standard error."""
    from keras_sharenets.training.run.progress import Progress

    split = "test" if dataset.validation is None else "validation"
    return {"verbose": 0, "callbacks": [Progress(recipe.epochs, split, say, say_over, opening=opening)]}


def _begin(arguments: argparse.Namespace) -> Run:
    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import check_output, check_tensorboard, fit
    from keras_sharenets.training.run.network import check_options
    from keras_sharenets.training.run.start import find_start

    output = check_output(arguments.output)
    options = dict(map(parse_option, arguments.model_option))
    source = vars(arguments)["from"]
    if source is None:
        check_options(arguments.model, options)
    names = [field.name for field in dataclasses.fields(RunOptions)]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    run_options = RunOptions(**given | {"jit_compile": JIT_COMPILE[arguments.jit_compile or "auto"]})
    check_tensorboard(run_options.tensorboard)
    # Before anything is computed, so before there are data.
    connect(run_options.strategy, cluster_timeout=arguments.cluster_timeout)
    start = None if source is None else find_start(source, arguments.model, options)
    source = dataclasses.replace(data_source(arguments), validation=arguments.validation or "auto")
    if start is not None and source.input_shape is None and source.is_folder and None not in start.shape:
        source = dataclasses.replace(source, input_shape=start.shape)
    dataset = load_data(source)
    model, options = (str(arguments.model), options) if start is None else (start.model, start.options)
    recipe = adapt(
        chosen_recipe(arguments, model, dataset.name),
        len(dataset.train),
        given=given_fields(arguments),
        named=arguments.recipe is not None,
        trained=start is not None,
    )
    opening = _steps(recipe, len(dataset.train))
    if start is not None:
        opening += f"; begins with {start.source}{'' if start.source.startswith(model) else f' ({model})'}"
    settings = {"recipe": recipe, "options": options, "run_options": run_options, "start": start}
    settings |= tell_epochs(recipe, dataset, opening)
    return fit(model, dataset, output, **settings, frozen=bool(arguments.freeze))


def _steps(recipe: Recipe, images: int) -> str:
    """What a training makes of so many images, in one line: also how many do not fill a batch."""
    size = min(recipe.batch_size, images)
    steps = images // size
    left = f"; {images - steps * size} of them sit out each epoch, others each time" if images % size else ""
    return (
        f"{images:,} training images{left}: {steps:,} step{'s' * (steps > 1)} of {size} an epoch, {recipe.epochs} "
        f"epoch{'s' * (recipe.epochs > 1)}, learning rate {recipe.learning_rate:g} ({recipe.schedule})"
    )


def _go_on(arguments: argparse.Namespace) -> Run:
    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import resume

    recorded = read_metrics(pathlib.Path(arguments.resume) / "metrics.json")
    _check_unchanged(arguments, recorded)
    connect(arguments.strategy, cluster_timeout=arguments.cluster_timeout)
    # The images may lie elsewhere by now. Whether they are the same ones, `resume` finds out.
    source = data_source(arguments, recorded.source)
    if arguments.validation is not None:
        source = dataclasses.replace(source, validation=arguments.validation)
    dataset = load_data(source)
    names = ("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints", "epochs_on_device", "strategy")
    changes = {name: getattr(arguments, name) for name in names}
    return resume(arguments.resume, dataset, **changes, **tell_epochs(recorded.recipe, dataset))


def _check_unchanged(arguments: argparse.Namespace, recorded: Run) -> None:
    """Raises a `ValueError` if an argument is given that would make it another run."""
    names = ("model", "seed", "deterministic", "tensorboard", "precision", "teacher")
    given = {name: getattr(arguments, name) for name in names} | {"recipe": arguments.recipe}
    given |= {"from": vars(arguments)["from"], "freeze": arguments.freeze}
    given |= given_fields(arguments)
    before = {name: getattr(recorded, name) for name in names} | {"recipe": recorded.recipe.name}
    before |= dataclasses.asdict(recorded.recipe)
    before |= {"from": (recorded.start or {}).get("source"), "freeze": (recorded.start or {}).get("freeze")}
    if arguments.jit_compile is not None:
        given["jit_compile"], before["jit_compile"] = JIT_COMPILE[arguments.jit_compile], recorded.jit_compile
    if arguments.output is not None:
        places = (pathlib.Path(arguments.output).resolve(), pathlib.Path(arguments.resume).resolve())
        given["output"], before["output"] = places
    for name, value in map(parse_option, arguments.model_option):
        given[f"model-option {name}"], before[f"model-option {name}"] = as_tuples(value), recorded.options.get(name)
    for name, value in given.items():
        if value is not None and as_tuples(value) != as_tuples(before[name]):
            raise ValueError(
                f"`--{name.replace('_', '-')}` (={value}) must be that of the run in {arguments.resume} "
                f"(={before[name]}), or be left out. Choose another `--output` for another run."
            )
