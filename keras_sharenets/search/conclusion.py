"""The end of a search: its best networks are compared once more, and the winner meets the test split, once."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras_tuner

from keras_sharenets import _checks, files
from keras_sharenets.search import trials
from keras_sharenets.search.settings import Search
from keras_sharenets.search.training import hold_out, starting_network, train, train_and_measure
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.finished import tested_crops

FILE, FOLDER, FINALS = "conclusion.json", "winner", "finals"
# Parts that every finalist is compared on, that of its trial among them.
PARTS = 3


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A trial in the last round.

    Attributes:
        id: of the trial.
        accuracies: one for each held-out part, that of the trial first.
        score: their mean, less what the search takes off for bytes and time.
    """

    id: str
    accuracies: tuple[float, ...]
    score: float


def seconds_left(search: Search) -> float | None:
    """About how long the rest of a search takes: its trials, by all workers, then finalists and winner, by one.

    `None` before a trial has finished. A trial takes the mean of those before; at the end, epochs take what theirs did.
    """
    results = {result.id: result for result in trials.read_all(search.folder)}
    finished = [result for result in results.values() if result.seconds is not None]
    if not finished:
        return None
    seconds = sum(_checks.known("seconds", result.seconds) for result in finished)
    before = [results[result.continues].epochs for result in finished if result.continues in results]
    epochs = sum(result.epochs for result in finished) - sum(before)
    trainings = 1 + (PARTS - 1) * search.finalists * (search.finalists > 1)
    workers = len({result.worker for result in results.values()})
    in_trials = seconds / len(finished) * max(search.trials - len(results), 0) / workers
    return in_trials + trainings * search.recipe.epochs * seconds / epochs


def compare_finalists(search: Search, tell: Callable[[str], object]) -> tuple[trials.Result | None, list[Finalist]]:
    """Compares the best trials of a search anew, if it wants more than one.

    The part that a search holds out is a coarse measure where images are few: of 287 digits one is 0.35 %. The best of
    many networks on one such part is the luckiest as well as the best; on other parts it has no such luck. So a
    finalist is trained from its start through all epochs once for each further part, with another seed. What was found
    stays in `finals/`, so that an interrupted round goes on.

    Args:
        search: its trials have ended.
        tell: function that is called with a line for each training.

    Returns:
        The winner (`None` if no trial can win), and the finalists, the best first; with one finalist, which wins by its
        trial, there are none.
    """
    ranked = trials.ranked(trials.read_all(search.folder))[: search.finalists]
    if len(ranked) < 2:
        return next(iter(ranked), None), []
    finalists = []
    for result in ranked:
        first, score = _checks.known("accuracy", result.accuracy), _checks.known("score", result.score)
        accuracies = (first, *(_accuracy(search, result, part, tell) for part in range(1, PARTS)))
        costs = first - score
        finalists.append(Finalist(result.id, accuracies, statistics.mean(accuracies) - costs))
    # Of equals the one that was ahead before: sorting keeps their order.
    finalists.sort(key=lambda finalist: -finalist.score)
    return next(result for result in ranked if result.id == finalists[0].id), finalists


def _accuracy(search: Search, result: trials.Result, part: int, tell: Callable[[str], object]) -> float:
    """The accuracy of a network on another held-out part, which also gives the seed of its training."""
    path = search.folder / FINALS / f"{result.id}-{part}.json"
    if not path.is_file():
        started, other = time.perf_counter(), dataclasses.replace(search, seed=search.seed + part)
        held = hold_out(search.dataset, search.validation, other.seed)
        network, _ = starting_network(other, dataclasses.replace(result, continues=None), held)
        accuracy = train(network, held, recipe=search.recipe, seed=other.seed, last_epoch=search.recipe.epochs)
        files.write_json(path, {"accuracy": accuracy})
        seconds = time.perf_counter() - started
        tell(f"finalist {result.id}, part {part + 1} of {PARTS}: validation accuracy {accuracy:.4f}; {seconds:.0f} s")
    return json.loads(path.read_text(encoding="utf-8"))["accuracy"]


def conclude(search: Search, tell: Callable[[str], object]) -> None:
    """Trains the winner's network anew, on the whole training split for all epochs; writes `conclusion.json`.

    The trials had to do without the images that they were compared on; a network that is used need not. Its files are
    in `winner/`. The test split decides nothing, neither here nor before.

    Args:
        search: its trials have ended.
        tell: function that is called with a line for each training.

    Raises:
        ValueError: no trial ended with a network within the budget, or the winner's training failed.
    """
    best, finalists = compare_finalists(search, tell)
    if best is None:
        raise ValueError(f"No trial in {search.folder} ended with a network within the limits on files.")
    tell("the winner's network is trained anew, on the whole training split")
    started = time.perf_counter()
    network, _ = starting_network(search, dataclasses.replace(best, continues=None), search.dataset)
    folder = search.folder / FOLDER
    try:
        accuracy, costs = train_and_measure(
            network,
            folder,
            search=search,
            dataset=search.dataset,
            # The ranges of int8 are measured on images of the training split: the test split stays unseen.
            held=hold_out(search.dataset, search.validation, search.seed),
            last_epoch=search.recipe.epochs,
        )
    except keras_tuner.errors.FailedTrialError as error:
        raise ValueError(
            f"Trial {best.id} wins, but its training on the whole training split failed: {error}. "
            f"What the trial left is in {search.folder / best.id}."
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
    """What `conclude` wrote; `None` if the search has not come to its end."""
    path = folder / FILE
    # Older ones do not say whether the machine had other work.
    return {"unsteady": False, **json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else None
