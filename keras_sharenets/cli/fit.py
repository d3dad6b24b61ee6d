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
    adapted_recipe,
    add_data_arguments,
    add_model_option,
    add_recipe_arguments,
    data_source,
    given_fields,
    load_data,
    named_recipe,
)
from keras_sharenets.cli.command import Answer, say, say_over
from keras_sharenets.extras import require
from keras_sharenets.files import as_tuples, check_paths
from keras_sharenets.models import find_variant
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
from keras_sharenets.training.run.start import locate_network

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset
    from keras_sharenets.training.run.start import Start

JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, including those that a `--config` file may contain."""
    parser.add_argument("--model", metavar="NAME", help="name of the network (see `sharenets list`)")
    add_model_option(parser)
    parser.add_argument(
        "--from",
        metavar="RUN|FILE|NAME",
        help="start from the weights of a run, a .keras file, or a pretrained network (`list --trained`); the head is "
        "new unless the classes match; images from a folder are resized to the input size of the network",
    )
    parser.add_argument("--freeze", action="store_true", default=None, help="with --from: train only the head")
    parser.add_argument(
        "--teacher",
        metavar="RUN_DIR|FILE",
        help="teacher for knowledge distillation: a run or a .keras file with the same classes",
    )
    parser.add_argument("--output", metavar="RUN_DIR", help="folder for the run; must be empty or new")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="resume the run in this folder from its last checkpoint, with its original arguments",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="read options from a file, such as the run.yaml of a run; command-line options take precedence",
    )
    parser.add_argument(
        "--seed", type=int, help="random seed for initialization, shuffling, and augmentation (default: 0)"
    )
    parser.add_argument(
        "--validation",
        metavar="FRACTION|DIR",
        help="data to compare epochs on: a fraction of each class of the training images, a folder of images, 'none' "
        "for the test split, or 'auto': the third split if there is one, else 0.1, but 'none' for CIFAR and ImageNet "
        "(default: auto)",
    )
    add_data_arguments(parser, required=False)
    add_recipe_arguments(parser)
    devices = parser.add_argument_group("devices and precision")
    devices.add_argument(
        "--precision",
        choices=(*PRECISIONS, "auto"),
        help="precision of the computation; files stay float32. 'auto' times a few steps in float32 and bfloat16 and "
        "picks the faster one (default: float32; bfloat16 on a TPU)",
    )
    devices.add_argument(
        "--epochs-on-device",
        choices=ON_DEVICE,
        help="on JAX: augment images on the device and run many steps per call (default: auto, on GPUs and TPUs)",
    )
    devices.add_argument("--jit-compile", choices=JIT_COMPILE, help="compile with XLA (default: auto)")
    devices.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="bit-for-bit reproducible, also after `--resume`; slower",
    )
    devices.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="default",
        help="devices to train on: one ('default'); all of this machine ('mirrored'); the workers listed in TF_CONFIG, "
        "one process each ('multi_worker'; through jax.distributed on JAX); a TPU ('tpu')",
    )
    devices.add_argument(
        "--cluster-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long the workers in TF_CONFIG wait for each other at startup (default: 600)",
    )
    kept = parser.add_argument_group("checkpoints and logs")
    kept.add_argument(
        "--checkpoint-minutes",
        type=float,
        metavar="M",
        help="write a checkpoint M minutes after the last one, in addition to each epoch (default: 2)",
    )
    kept.add_argument("--checkpoint-steps", type=int, metavar="N", help="also write a checkpoint every N steps")
    kept.add_argument("--keep-checkpoints", type=int, metavar="K", help="number of checkpoints to keep (default: 3)")
    kept.add_argument(
        "--tensorboard",
        nargs="*",
        metavar="EXTRA",
        help=f"write TensorBoard logs: scalars, and optionally {' and '.join(TENSORBOARD)}",
    )


class _ConfigParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _add_config(arguments: argparse.Namespace, path: pathlib.Path) -> None:
    """Fills in options that were not typed from a file; its recipe is ignored if a recipe was typed.

    Raises:
        ValueError: an option is unknown or its value is invalid; the message names it.
    """
    parser = _ConfigParser(add_help=False)
    add_arguments(parser)
    known = [action.dest for action in parser._actions if action.dest not in ("config", "resume")]
    config = read_config(path)
    for name in config:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"`{name}` in {path} is not an option of `fit`.{hint}")
    if arguments.recipe is not None:
        # The recipe fields in the file are changes to another recipe.
        config = {name: value for name, value in config.items() if name not in FIELD_TYPES}
    try:
        found = parser.parse_args(config_words(config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # Typed words override the values from the file and extend its model options.
    typed = shlex.split(arguments.command_line)
    parser.parse_known_args(typed[typed.index(arguments.command) + 1 :], found)
    vars(arguments).update(vars(found))


def check(arguments: argparse.Namespace) -> None:
    if arguments.config is not None and arguments.resume is not None:
        raise ValueError("`--config` is for a new run; `--resume` continues with the original options of the run.")
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
            raise ValueError(f"`--{name}` is required for a new run; `--resume RUN_DIR` continues an existing one.")
    if start is not None:
        options = dict(map(parse_option, arguments.model_option))
        arguments.location = locate_network(start, arguments.model, options)
    check_paths(arguments.teacher)
    if arguments.freeze and start is None:
        raise ValueError("`--freeze` requires `--from`: frozen layers must be pretrained.")
    if arguments.model is not None:
        find_variant(arguments.model)
    named_recipe(arguments)


def run(arguments: argparse.Namespace) -> Answer:
    """Runs the cheap checks first, then loads the data and trains the network."""
    output = pathlib.Path(arguments.resume or arguments.output or ".")
    result = _start(arguments) if arguments.resume is None else _resume(arguments)
    folder = shlex.quote(str(output))
    text = (
        f"{result.model} on {result.data['name']} ({result.data['note']})\n"
        f"test accuracy {result.test_accuracy:.4f} after the last epoch; best epoch: {result.best.epoch} "
        f"({result.split} accuracy {result.best.held_out_accuracy:.4f})\n"
        f"{_further(result)}\n"
        f"{_precision(result)}"
        f"files in {output}\n"
        f"report: sharenets report {folder}; files for phones and servers: sharenets export {folder}"
    )
    best = {"epoch": result.best.epoch, f"{result.split}_accuracy": result.best.held_out_accuracy}
    outcome = {"split": result.split, "test_accuracy": result.test_accuracy, "best": best, "seconds": result.seconds}
    data = {"model": result.model, "data": result.data["name"], "note": result.data["note"], "output": str(output)}
    return Answer(text, data | outcome)


def _further(result: Run) -> str:
    """A line with the error rate and, for many classes, the top-5 accuracy."""
    top5 = result.last.test_top5_accuracy
    return f"error rate {1 - (result.test_accuracy or 0):.4f}{'' if top5 is None else f', top-5 accuracy {top5:.4f}'}"


def _precision(result: Run) -> str:
    """A line with the step times behind the choice of precision, if they were measured."""
    if result.step_seconds is None:
        return ""
    took = ", ".join(f"{1000 * seconds:.1f} ms in {name}" for name, seconds in result.step_seconds.items())
    return f"trained in {result.precision}; time per step: {took}\n"


def tell_epochs(recipe: Recipe, dataset: Dataset, opening: str = "") -> dict[str, Any]:
    """Arguments of `fit` and `resume` that print an opening line and a line per epoch to standard error."""
    from keras_sharenets.training.run.progress import Progress

    split = "test" if dataset.validation is None else "validation"
    return {"verbose": 0, "callbacks": [Progress(recipe.epochs, split, say, say_over, opening=opening)]}


def _start(arguments: argparse.Namespace) -> Run:
    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import check_output, check_tensorboard, fit
    from keras_sharenets.training.run.network import check_options
    from keras_sharenets.training.run.start import load_start

    output = check_output(arguments.output)
    options = dict(map(parse_option, arguments.model_option))
    source = vars(arguments)["from"]
    if source is None:
        check_options(arguments.model, options)
    names = [field.name for field in dataclasses.fields(RunOptions)]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    run_options = RunOptions(**given | {"jit_compile": JIT_COMPILE[arguments.jit_compile or "auto"]})
    check_tensorboard(run_options.tensorboard)
    # Before any computation, and so before loading data.
    connect(run_options.strategy, cluster_timeout=arguments.cluster_timeout)
    start = None if source is None else load_start(arguments.location, arguments.model, options)
    source = dataclasses.replace(data_source(arguments), validation=arguments.validation or "auto")
    if start is not None and source.input_shape is None and source.is_folder and None not in start.shape:
        source = dataclasses.replace(source, input_shape=start.shape)
    source.check_outside(output)
    dataset = load_data(source)
    model, options = (str(arguments.model), options) if start is None else (start.model, start.options)
    recipe = adapted_recipe(arguments, model, dataset, trained=start is not None)
    opening = _steps(recipe, len(dataset.train))
    if start is not None:
        opening += f"; starts from {start.source}{'' if start.source.startswith(model) else f' ({model})'}"
        # With several workers, each would run the network.
        opening += accuracy_before(start, dataset, recipe) if run_options.strategy == "default" else ""
    settings = {"recipe": recipe, "options": options, "run_options": run_options, "start": start}
    settings |= tell_epochs(recipe, dataset, opening)
    return fit(model, dataset, output, **settings, frozen=bool(arguments.freeze))


def accuracy_before(start: Start, dataset: Dataset, recipe: Recipe) -> str:
    """A line with the accuracy of a pretrained network before training, if it has the classes and size of the data."""
    import numpy as np

    from keras_sharenets.training.data.batches import held_out_batches, held_out_size, input_shape

    if not start.has_classes(dataset.class_names) or start.shape != input_shape(dataset, recipe):
        return ""
    split, source = ("test", dataset.test) if dataset.validation is None else ("validation", dataset.validation)
    held = dataclasses.replace(dataset, test=source)
    batches = held_out_batches(held, recipe.batch_size, held_out_size(dataset, recipe))
    classes = start.network.predict(batches, verbose=0).argmax(axis=-1)
    return f"\n{split} accuracy before training: {np.mean(classes == source.labels):.4f}"


def _steps(recipe: Recipe, images: int) -> str:
    """A line on how the recipe applies to the number of images, including the rest that does not fill a batch."""
    size = min(recipe.batch_size, images)
    steps = images // size
    rest = f" (a random {images - steps * size} are skipped)" if images % size else ""
    called = ("step" if recipe.accumulate == 1 else "batch", "steps" if recipe.accumulate == 1 else "batches")
    return (
        f"{images:,} training images: {steps:,} {called[steps > 1]} of {size} per epoch{rest}, {recipe.epochs} "
        f"epoch{'s' * (recipe.epochs > 1)}, learning rate {recipe.learning_rate:g} ({recipe.schedule})"
        f"{_accumulation(recipe, recipe.epochs * steps)}"
    )


def _accumulation(recipe: Recipe, batches: int) -> str:
    """The end of the line on steps, with the batches at the end of a run that do not complete an optimizer step."""
    if recipe.accumulate == 1:
        return ""
    left = batches % recipe.accumulate
    # Keras applies no mean of fewer gradients.
    unused = f" (the last {left} of the run make none)" if left else ""
    return f"; every {recipe.accumulate} batches make one optimizer step{unused}"


def _resume(arguments: argparse.Namespace) -> Run:
    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import resume

    recorded = read_metrics(pathlib.Path(arguments.resume) / "metrics.json")
    _check_unchanged(arguments, recorded)
    connect(arguments.strategy, cluster_timeout=arguments.cluster_timeout)
    # The images may have moved. `resume` checks that they are the same.
    source = data_source(arguments, recorded.source)
    if arguments.validation is not None:
        source = dataclasses.replace(source, validation=arguments.validation)
    dataset = load_data(source)
    names = ("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints", "epochs_on_device", "strategy")
    changes = {name: getattr(arguments, name) for name in names}
    return resume(arguments.resume, dataset, **changes, **tell_epochs(recorded.recipe, dataset))


def _check_unchanged(arguments: argparse.Namespace, recorded: Run) -> None:
    """Raises a `ValueError` if a given argument differs from the run."""
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
                f"`--{name.replace('_', '-')}` (={value}) must match the run in {arguments.resume} "
                f"(={before[name]}) or be omitted. For a different run, choose another `--output`."
            )
