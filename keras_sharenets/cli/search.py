"""Search for the best network of a space, or the best way to share a trained one; rerun the command to resume.

sharenets search --space hscnet --data digits --tuner hyperband --trials 12 --output runs/search
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks, files
from keras_sharenets._checks import known
from keras_sharenets.cli.arguments import (
    add_data_arguments,
    add_recipe_arguments,
    chosen_recipe,
    data_source,
    fine_tuning_recipe,
    load_data,
)
from keras_sharenets.cli.command import Answer, say
from keras_sharenets.cli.enumerate import add_space_arguments, checked_budget
from keras_sharenets.extras import require
from keras_sharenets.folder_lock import hold_folder
from keras_sharenets.search.budgets import FileBudget
from keras_sharenets.search.settings import TUNERS, check_numbers
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds, in_words
from keras_sharenets.training.run.start import locate_network

if TYPE_CHECKING:
    from keras_sharenets.search.settings import Search
    from keras_sharenets.search.trials import Result
    from keras_sharenets.training.data.dataset import Dataset

_IMAGES = 200
_NUMBERS = ("trials", "seed", "validation", "halving_worth", "finalists")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    networks = parser.add_mutually_exclusive_group(required=True)
    add_space_arguments(parser, networks)
    from_help = "share a trained network: a run, a .keras file, or a pretrained network (`list --trained`)"
    networks.add_argument("--from", dest="trained", metavar="RUN|FILE|NAME", help=from_help)
    where_help = "with --from: names or patterns of the convolutions that may be shared, quoted (default: all)"
    parser.add_argument("--where", nargs="+", metavar="NAME", help=where_help)
    images_help = f"with --from: number of training images for sharing (default: {_IMAGES})"
    parser.add_argument("--images", type=int, metavar="N", help=images_help)
    add_data_arguments(parser)
    parser.add_argument("--tuner", choices=TUNERS, default="random", help="search algorithm (default: random)")
    trials_help = "number of trials; with hyperband, trials that continue others count too"
    parser.add_argument("--trials", type=int, required=True, metavar="N", help=trials_help)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the search")
    parser.add_argument("--max-tflite-bytes", type=int, metavar="N", help="maximum size of the int8 file")
    latency_help = "maximum latency of the int8 file in LiteRT on this machine, one thread"
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help=latency_help)
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for sampling, splits, and training (default: 0)"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="fraction of the training split that is held out to compare networks (default: 0.2)",
    )
    parser.add_argument(
        "--halving-worth",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="accuracy worth giving up to halve the bytes or the time; 0.01 is one percent (default: 0, accuracy only)",
    )
    parser.add_argument(
        "--finalists",
        type=int,
        default=1,
        metavar="N",
        help="compare the N best networks on two more held-out parts to choose the winner (default: 1, the best trial "
        "wins directly)",
    )
    add_recipe_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    require("keras_tuner")
    checked_budget(arguments)
    if arguments.trained is None:
        for name in ("where", "images"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"`--{name}` requires `--from`: a space has no trained network.")
    elif arguments.max_multiply_adds is not None:
        raise ValueError("`--max-multiply-adds` requires `--space`: sharing a trained network saves none.")
    if arguments.images is not None:
        _checks.positive("--images", arguments.images)
    FileBudget(arguments.max_tflite_bytes, arguments.max_latency_ms)
    check_numbers(**{name: getattr(arguments, name) for name in _NUMBERS})
    if arguments.trained is not None:
        arguments.location = locate_network(arguments.trained)


def _trial_line(result: Result, seconds_left: float | None, describe: Callable[[Mapping[str, Any]], str]) -> str:
    """The line printed when a trial starts or ends; at the end, with the remaining time of the search.

    `describe` is the function that describes the choices of a trial.
    """
    head = f"trial {result.id}:" if result.worker == "tuner0" else f"{result.worker}, trial {result.id}:"
    if result.state == "running":
        choices = describe(result.choices)
        going_on = "" if result.continues is None else f", continuing trial {result.continues}"
        epochs = "1 epoch" if result.epochs == 1 else f"{result.epochs} epochs"
        return f"{head} {choices}; {result.parameters:,} parameters; {epochs}{going_on}"
    left = f", about {in_words(seconds_left)} left" if seconds_left else ""
    if result.state == "failed":
        return f"{head} failed: {result.reason}{left}"
    costs = ""
    if result.int8_bytes is not None:
        over = "" if result.within_budget else ", exceeds the file limits"
        time = in_milliseconds(known("latency_ms", result.latency_ms), unsteady=result.unsteady)
        costs = f", int8 file {result.int8_bytes:,} bytes, {time} ms{over}"
    return (
        f"{head} validation accuracy {result.accuracy:.4f}{costs}; {in_words(known('seconds', result.seconds))}{left}"
    )


def _outcome(found: dict[str, Any], folder: pathlib.Path) -> str:
    """The lines printed about the winner."""
    int8 = ""
    if found["int8_bytes"] is not None:
        over = "" if found["within_budget"] else ", exceeds the file limits"
        int8 = f", its int8 file {found['int8_test_accuracy']:.4f}, {found['int8_bytes']:,} bytes, "
        int8 += f"{in_milliseconds(found['latency_ms'], unsteady=found['unsteady'])} ms{over}"
    return (
        f"winner: trial {found['winner']}, validation accuracy {found['validation_accuracy']:.4f}\n"
        f"trained on the full training split: test accuracy {found['test_accuracy']:.4f}{int8}\n"
        f"files in {folder}"
    )


def _run_trials(asked: Search) -> bool:
    """Runs the remaining trials, or the share of this process; returns whether the search is finished."""
    from keras_sharenets.search import conclusion, search, trials

    done = len(trials.read_all(asked.folder))
    say(f"{asked.space} on {asked.dataset.name}: {done} of {asked.trials} trials finished")
    try:
        describe = trials.describe_choices if asked.sharing is None else trials.describe_sharing
        search.run(asked, lambda result: say(_trial_line(result, conclusion.seconds_left(asked), describe)))
        if search.process_role() == "worker":
            say("no trials left")
            return False
        done = len(trials.read_all(asked.folder))
        if done < asked.trials:
            say(f"{done} trials: no further network is within the limits")
        conclusion.conclude(asked, say)
    except KeyboardInterrupt as stop:
        done = len(trials.read_all(asked.folder))
        stop.args = (f"{done} of {asked.trials} trials finished; run the same command to resume",)
        raise
    return True


def _asked(arguments: argparse.Namespace, dataset: Dataset) -> Search:
    """The search given by the options."""
    from keras_sharenets.search.settings import Search
    from keras_sharenets.search.sharing import open_sharing
    from keras_sharenets.search.spaces import find_space

    budget, space, sharing = checked_budget(arguments), arguments.space, None
    if arguments.trained is None:
        network = next(iter(find_space(space).networks.values()))
        recipe = chosen_recipe(arguments, network, dataset.name)
    else:
        space = f"sharing of {arguments.trained}"
        recipe = fine_tuning_recipe(arguments, arguments.location.model or "", dataset)
        sharing = open_sharing(
            arguments.location,
            dataset,
            recipe,
            budget=budget,
            where=None if arguments.where is None else tuple(arguments.where),
            images=arguments.images or _IMAGES,
            validation=arguments.validation,
            seed=arguments.seed,
        )
    return Search(
        folder=pathlib.Path(arguments.output),
        space=space,
        dataset=dataset,
        tuner=arguments.tuner,
        recipe=recipe,
        budget=budget,
        file_budget=FileBudget(arguments.max_tflite_bytes, arguments.max_latency_ms),
        sharing=sharing,
        **{name: getattr(arguments, name) for name in _NUMBERS},
    )


def run(arguments: argparse.Namespace) -> Answer | None:
    """Prints two lines per trial; the answer is the winner with its test accuracy."""
    from keras_sharenets.search import conclusion, search, settings, trials
    from keras_sharenets.search.report import full_training

    role, folder = search.process_role(), pathlib.Path(arguments.output)
    source = data_source(arguments)
    source.check_outside(folder)
    asked = _asked(arguments, load_data(source))
    search.check(asked)
    record = settings.record(asked, source)
    # A worker writes into the folder of its chief.
    with contextlib.nullcontext() if role == "worker" else hold_folder(folder):
        if role != "worker":
            settings.forget_unbegun(folder, record)
        settings.claim_folder(folder, record)
        if role == "alone":
            files.remove_partials(folder)
        if conclusion.read_conclusion(folder) is None and not _run_trials(asked):
            return None
    found = known("conclusion", conclusion.read_conclusion(folder))
    command = full_training(trials.read(folder / found["winner"] / trials.FILE), folder, record)
    lines = [_outcome(found, folder / conclusion.FOLDER)]
    lines += [f"train it with checkpoints or for longer: {command}"] if command else []
    lines.append(f"report on all trials: sharenets report {shlex.quote(str(folder))}")
    if found["unsteady"] or any(result.unsteady for result in trials.read_all(folder)):
        lines.append(UNSTEADY_NOTE)
    return Answer("\n".join(lines), {**found, "folder": str(folder), "command": command})
