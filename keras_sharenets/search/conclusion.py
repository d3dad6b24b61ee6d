"""The end of a search: the finalists are compared again, and the winner is tested on the test split, once."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras_tuner

from keras_sharenets import _checks, files
from keras_sharenets.search import trials
from keras_sharenets.search.settings import Search
from keras_sharenets.search.training import hold_out, starting_network, train, train_and_measure
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.finished import tested_crops

FILE, FOLDER, FINALS = "conclusion.json", "winner", "finals"
# Held-out parts that every finalist is compared on, including the one of its trial.
PARTS = 3


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A trial in the final round.

    Attributes:
        id: id of the trial.
        accuracies: one for each held-out part after all epochs, starting with the part of the trial.
        score: mean accuracy minus the penalty of the search for bytes and time.
    """

    id: str
    accuracies: tuple[float, ...]
    score: float


def seconds_left(search: Search) -> float | None:
    """Estimates the remaining time of a search: trials on all workers, then finalists and winner on one.

    The estimate uses the mean time of the finished trials and of their epochs; it is `None` before the first one.
    """
    results = {result.id: result for result in trials.read_all(search.folder)}
    finished = [result for result in results.values() if result.seconds is not None]
    if not finished:
        return None
    seconds = sum(_checks.known("seconds", result.seconds) for result in finished)
    before = [results[result.continues].epochs for result in finished if result.continues in results]
    epochs = sum(result.epochs for result in finished) - sum(before)
    trainings = 1 + _finals(search, list(results.values()))
    workers = len({result.worker for result in results.values()})
    in_trials = seconds / len(finished) * max(search.trials - len(results), 0) / workers
    return in_trials + trainings * search.recipe.epochs * seconds / epochs


def _finals(search: Search, results: Sequence[trials.Result]) -> int:
    """The number of trainings of the final round: `PARTS - 1` for each finalist, one more for a shorter trial."""
    if search.finalists < 2:
        return 0
    shorter = [result for result in trials.ranked(results)[: search.finalists] if _is_shorter(search, result)]
    return min(search.finalists, search.trials) * (PARTS - 1) + len(shorter)


def _is_shorter(search: Search, result: trials.Result) -> bool:
    """Whether a trial had fewer epochs than the recipe, as in Hyperband."""
    return result.epochs < search.recipe.epochs


def compare_finalists(search: Search, tell: Callable[[str], object]) -> tuple[trials.Result | None, list[Finalist]]:
    """Compares the best trials of a search again, if it has more than one finalist.

    One held-out part is a coarse measure when images are few: one of 287 digits is 0.35 %. The best of many networks
    on a single part is partly lucky. Each finalist is therefore trained from scratch for all epochs on each further
    part, with another seed, and on the part of its trial if that had fewer epochs, as in Hyperband. Results are kept in
    `finals/`, so an interrupted round can resume.

    Args:
        search: search whose trials have ended.
        tell: function that is called with a line for each training run.

    Returns:
        The winner (`None` if there is no candidate) and the finalists, best first. With one finalist the best trial
        wins, and the list is empty.
    """
    ranked = trials.ranked(trials.read_all(search.folder))[: search.finalists]
    if len(ranked) < 2:
        return next(iter(ranked), None), []
    finalists = []
    for result in ranked:
        first = _checks.known("accuracy", result.accuracy)
        costs = first - _checks.known("score", result.score)
        if _is_shorter(search, result):
            first = _accuracy(search, result, 0, tell)
        accuracies = (first, *(_accuracy(search, result, part, tell) for part in range(1, PARTS)))
        finalists.append(Finalist(result.id, accuracies, statistics.mean(accuracies) - costs))
    # The sort is stable: ties keep the order of the trials.
    finalists.sort(key=lambda finalist: -finalist.score)
    return next(result for result in ranked if result.id == finalists[0].id), finalists


def _accuracy(search: Search, result: trials.Result, part: int, tell: Callable[[str], object]) -> float:
    """Accuracy of a network on a held-out part, whose number also determines the training seed; 0 as in the trials."""
    path = search.folder / FINALS / f"{result.id}-{part}.json"
    if not path.is_file():
        started, other = time.perf_counter(), dataclasses.replace(search, seed=search.seed + part)
        held = hold_out(search.dataset, search.validation, other.seed)
        network, _ = starting_network(other, dataclasses.replace(result, continues=None), held)
        accuracy = train(network, held, recipe=search.recipe, seed=other.seed, last_epoch=search.recipe.epochs)
        files.write_json(path, {"accuracy": accuracy})
        seconds = time.perf_counter() - started
        tell(f"finalist {result.id}, part {part + 1} of {PARTS}: validation accuracy {accuracy:.4f}; {seconds:.0f} s")
    return files.read_json(path)["accuracy"]


def conclude(search: Search, tell: Callable[[str], object]) -> None:
    """Retrains the winner on the whole training split for all epochs and writes `conclusion.json`.

    Trials do not train on the held-out images that they are compared on; the final network does. Its files are in
    `winner/`. The test split is not used for any selection.

    Args:
        search: search whose trials have ended.
        tell: function that is called with a line for each training run.

    Raises:
        ValueError: no trial finished with a network within the budget, or training the winner failed.
    """
    best, finalists = compare_finalists(search, tell)
    if best is None:
        raise ValueError(f"No trial in {search.folder} finished with a network within the limits on files.")
    tell("retraining the winner on the whole training split")
    started = time.perf_counter()
    network, _ = starting_network(search, dataclasses.replace(best, continues=None), search.dataset)
    folder = search.folder / FOLDER
    try:
        accuracy, costs = train_and_measure(
            network,
            folder,
            search=search,
            dataset=search.dataset,
            # Calibrate int8 ranges on images of the training split: the test split stays unseen.
            held=hold_out(search.dataset, search.validation, search.seed),
            last_epoch=search.recipe.epochs,
        )
    except keras_tuner.errors.FailedTrialError as error:
        raise ValueError(
            f"Trial {best.id} wins, but its training on the whole training split failed: {error}. "
            f"The files of the trial are in {search.folder / best.id}."
        ) from error
    crops = tested_crops(search.recipe)
    int8_file = folder / "int8.tflite"
    files.write_json(
        search.folder / FILE,
        {
            "winner": best.id,
            "finalists": [dataclasses.asdict(finalist) for finalist in finalists],
            "validation_accuracy": best.accuracy,
            "test_accuracy": accuracy,
            "int8_test_accuracy": evaluate(int8_file, search.dataset, crops).accuracy if costs.int8_bytes else None,
            **dataclasses.asdict(costs),
            "within_budget": search.file_budget.allows(costs),
            "seconds": time.perf_counter() - started,
        },
    )


def read_conclusion(folder: pathlib.Path) -> dict[str, Any] | None:
    """The record that `conclude` wrote, or `None` if the search has not finished."""
    path = folder / FILE
    # Older records lack `unsteady`.
    return {"unsteady": False, **files.read_json(path)} if path.is_file() else None
