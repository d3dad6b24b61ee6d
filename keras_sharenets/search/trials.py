"""What became of the trials of a search: one folder each, with `trial.json` in it."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.files import as_tuples
from keras_sharenets.models.registry import current_arguments

FILE = "trial.json"
UNSHARED = "none"  # What a convolution becomes that shares nothing, in a search of sharing.
_FROM_DATA = ("input_shape", "num_classes")


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial that runs or has ended.

    Attributes:
        id: also the name of its folder.
        state: `"running"`, `"finished"` or `"failed"`.
        name, arguments: the network: `keras_sharenets.create_model(name, **arguments)`; of a search of sharing the name
            of the network that shares, and for each convolution what it becomes.
        parameters, multiply_adds: as `keras_sharenets.profile` counts them.
        epochs: passes over the training split, those of the trial that it goes on with among them.
        continues: the id of that trial, or `None`.
        settings: KerasTuner's hyperparameters.
        worker: which process ran it.
        reason: why it failed.
        accuracy: on the validation split after the last epoch. Like all that follows `None` if it failed.
        score: what the search tries to raise.
        int8_bytes, latency_ms, float32_bytes, unsteady: as in `FileCosts`, of the files in its folder.
        within_budget: whether these files keep the limits.
        seconds: for everything.
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
        """The arguments that were chosen, without those that the data set gives; lists of JSON are tuples again."""
        return {name: as_tuples(value) for name, value in self.arguments.items() if name not in _FROM_DATA}


def describe_choices(choices: Mapping[str, Any], *, sharing: bool, text: Callable[[Any], str] = str) -> str:
    """What was chosen, in words; of the `sharing` of a network, the convolutions that share alone.

    >>> describe_choices({"groups": 2, "arrangements": 4}, sharing=False)
    'groups 2, arrangements 4'
    >>> describe_choices({"conv1": "none", "conv2": "HSC groups 1, arrangements 4"}, sharing=True)
    'conv2: HSC groups 1, arrangements 4'
    """
    if not sharing:
        return ", ".join(f"{name} {text(value)}" for name, value in choices.items())
    return "; ".join(f"{name}: {value}" for name, value in choices.items() if value != UNSHARED) or "nothing shared"


def write(result: Result, folder: pathlib.Path) -> None:
    """Writes `trial.json` below the folder of a search, in one step."""
    files.write_json(folder / result.id / FILE, dataclasses.asdict(result))


def read(path: pathlib.Path) -> Result:
    """What is in a `trial.json`.

    Raises:
        ValueError: there is no such file, or it is not the record of a trial.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    try:
        # Older records do not say whether the machine had other work.
        values = {"unsteady": False, **json.loads(path.read_text(encoding="utf-8"))}
        given = {field.name: values[field.name] for field in dataclasses.fields(Result)}
        # Older records have former names of arguments.
        for name in ("arguments", "settings"):
            given[name] = current_arguments(given[name])
        return Result(**given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a trial: {type(error).__name__} {error}") from error


def read_all(folder: pathlib.Path) -> list[Result]:
    """The trials in the folder of a search, by number."""
    return sorted(map(read, folder.glob(f"*/{FILE}")), key=lambda result: int(result.id))


def candidates(results: Sequence[Result]) -> list[Result]:
    """The finished trials whose files are within the budget and that no other one goes on with.

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
    """The candidates that were trained for as many epochs as any."""
    found = candidates(results)
    most = max((result.epochs for result in found), default=0)
    return [result for result in found if result.epochs == most]


def ranked(results: Sequence[Result]) -> list[Result]:
    """The candidates, that with the highest score first, of equal ones that with the smallest file."""

    def place(result: Result) -> tuple[float, int]:
        return -_checks.known("score", result.score), result.int8_bytes or 0

    return sorted(candidates(results), key=place)


def pareto_front(results: Sequence[Result], cost: str) -> list[Result]:
    """The candidates than which none is as accurate for less, or more accurate for as much: the cheapest first.

    Args:
        results: trials.
        cost: `"int8_bytes"` or `"latency_ms"`, or another field that is a number; trials without it are left out.
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
