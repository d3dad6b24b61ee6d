"""Results of the trials of a search: one folder each, with a `trial.json`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.files import as_tuples
from keras_sharenets.models.registry import current_arguments

FILE = "trial.json"
UNSHARED = "none"  # In a search of sharing: the choice of a convolution that shares nothing.
_FROM_DATA = ("input_shape", "num_classes")


@dataclasses.dataclass(frozen=True)
class Result:
    """A running or ended trial.

    Attributes:
        id: id of the trial, also the name of its folder.
        state: `"running"`, `"finished"` or `"failed"`.
        name, arguments: the network: `keras_sharenets.create_model(name, **arguments)`; in a search of sharing, the
            name of the trained network and the replacement of each convolution.
        parameters, multiply_adds: counts as in `keras_sharenets.profile`.
        epochs: passes over the training split, including those of the trial that this one continues.
        continues: id of that trial, or `None`.
        settings: KerasTuner's hyperparameters.
        worker: process that ran the trial.
        reason: reason of the failure.
        accuracy: accuracy on the held-out images after the last epoch. This and the following attributes are `None` for
            a failed trial, except `unsteady`.
        score: objective that the search maximizes.
        int8_bytes, latency_ms, float32_bytes, unsteady: costs of the files in its folder, as in `FileCosts`.
        within_budget: whether these files are within the limits.
        seconds: total time.
    """

    id: str
    state: str
    name: str
    arguments: dict[str, Any]
    parameters: int
    multiply_adds: int
    epochs: int
    continues: str | None
    settings: dict[str, Any]
    worker: str
    reason: str | None = None
    accuracy: float | None = None
    score: float | None = None
    float32_bytes: int | None = None
    int8_bytes: int | None = None
    latency_ms: float | None = None
    unsteady: bool = False
    within_budget: bool | None = None
    seconds: float | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """The chosen arguments, without those that the data set determines; JSON lists are converted to tuples."""
        return {name: as_tuples(value) for name, value in self.arguments.items() if name not in _FROM_DATA}


def describe_choices(choices: Mapping[str, Any], text: Callable[[Any], str] = str) -> str:
    """The arguments of a network of a space as text.

    >>> describe_choices({"groups": 2, "arrangements": 4})
    'groups 2, arrangements 4'
    """
    return ", ".join(f"{name} {text(value)}" for name, value in choices.items())


def describe_sharing(choices: Mapping[str, Any]) -> str:
    """The convolutions of a trained network that share, as text.

    >>> describe_sharing({"conv1": "none", "conv2": "HSC groups 1, arrangements 4"})
    'conv2: HSC groups 1, arrangements 4'
    """
    return "; ".join(f"{name}: {value}" for name, value in choices.items() if value != UNSHARED) or "nothing shared"


def write(result: Result, folder: pathlib.Path) -> None:
    """Atomically writes `trial.json` below the folder of a search."""
    files.write_json(folder / result.id / FILE, dataclasses.asdict(result))


def read(path: pathlib.Path) -> Result:
    """Reads a `trial.json`.

    Raises:
        ValueError: the file does not exist, or it is not the record of a trial.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    try:
        # Older records lack `unsteady`.
        values = {"unsteady": False, **files.read_json(path)}
        given = {field.name: values[field.name] for field in dataclasses.fields(Result)}
        # Older records use former names of arguments.
        for name in ("arguments", "settings"):
            given[name] = current_arguments(given[name])
        return Result(**given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a trial: {type(error).__name__} {error}") from error


def read_all(folder: pathlib.Path) -> list[Result]:
    """The trials in the folder of a search, ordered by id."""
    return sorted(map(read, folder.glob(f"*/{FILE}")), key=lambda result: int(result.id))


def candidates(results: Sequence[Result]) -> list[Result]:
    """The finished trials whose files are within the budget and that no finished trial continues.

    >>> common = {"name": "", "arguments": {}, "parameters": 0, "multiply_adds": 0, "settings": {}, "worker": ""}
    >>> common |= {"within_budget": True}
    >>> first = Result(id="0", state="finished", epochs=1, continues=None, **common)
    >>> second = Result(id="1", state="finished", epochs=3, continues="0", **common)
    >>> [result.id for result in candidates([first, second])]
    ['1']
    """
    continued = {result.continues for result in results if result.state == "finished"}
    return [result for result in results if result.within_budget and result.id not in continued]


def longest(results: Sequence[Result]) -> list[Result]:
    """The candidates with the highest number of epochs."""
    found = candidates(results)
    most = max((result.epochs for result in found), default=0)
    return [result for result in found if result.epochs == most]


def ranked(results: Sequence[Result]) -> list[Result]:
    """The candidates by descending score; ties in ascending order of file size."""

    def place(result: Result) -> tuple[float, int]:
        return -_checks.known("score", result.score), result.int8_bytes or 0

    return sorted(candidates(results), key=place)


def pareto_front(results: Sequence[Result], cost: str) -> list[Result]:
    """The candidates on the Pareto front of accuracy and a cost, cheapest first.

    Args:
        results: trials.
        cost: `"int8_bytes"`, `"latency_ms"` or another numeric field; trials without a value are ignored.
    """
    front = []
    known = [
        (getattr(result, cost), _checks.known("accuracy", result.accuracy), result)
        for result in candidates(results)
        if getattr(result, cost) is not None
    ]
    most = -math.inf
    for _, accuracy, result in sorted(known, key=lambda entry: (entry[0], -entry[1])):
        if accuracy > most:
            front.append(result)
            most = accuracy
    return front
