"""What became of the trials of a search: one folder each, with `trial.json` in it."""

import dataclasses
import json
import pathlib

from keras_sharenets import files
from keras_sharenets.training.run.record import as_tuples

FILE = "trial.json"
_FROM_DATA = ("input_shape", "num_classes")


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial that has ended.

    Attributes:
        id: str, also the name of its folder.
        state: `"finished"` or `"failed"`.
        name, arguments: the network: `keras_sharenets.create_model(name, **arguments)`.
        parameters, multiply_adds: int, as `keras_sharenets.profile` counts them.
        epochs: int, passes over the training split, those of the trial that it goes on with among them.
        continues: str, the id of that trial, or `None`.
        settings: dict, KerasTuner's hyperparameters.
        worker: str, which process ran it.
        reason: str, why it failed.
        accuracy: float, on the validation split after the last epoch. Like all that follows `None` if it failed.
        score: float, what the search tries to raise.
        float32_bytes, int8_bytes, latency_ms: as in `Costs`, of the files in its folder.
        within_budget: bool, whether these files keep the limits.
        seconds: float, for everything.
    """

    id: str
    state: str
    name: str
    arguments: dict
    parameters: int
    multiply_adds: int
    epochs: int
    continues: str | None
    settings: dict
    worker: str
    reason: str | None = None
    accuracy: float | None = None
    score: float | None = None
    float32_bytes: int | None = None
    int8_bytes: int | None = None
    latency_ms: float | None = None
    within_budget: bool | None = None
    seconds: float | None = None

    @property
    def choices(self):
        """The arguments that were chosen, without those that the data set gives; lists of JSON are tuples again."""
        return {name: as_tuples(value) for name, value in self.arguments.items() if name not in _FROM_DATA}


def write(result, folder):
    """Writes `trial.json` of a `Result` below the folder of a search, in one step."""
    files.write_json(pathlib.Path(folder) / result.id / FILE, dataclasses.asdict(result))


def read(path):
    """The `Result` in a `trial.json`; `None` if there is no such file.

    Raises:
        ValueError: it is not the record of a trial.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        return Result(**{field.name: values[field.name] for field in dataclasses.fields(Result)})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the record of a trial: {type(error).__name__} {error}") from error


def read_all(folder):
    """The `Result`s in the folder of a search, by number."""
    return sorted(map(read, pathlib.Path(folder).glob(f"*/{FILE}")), key=lambda result: int(result.id))


def candidates(results):
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


def longest(results):
    """The candidates that were trained for as many epochs as any."""
    found = candidates(results)
    most = max((result.epochs for result in found), default=0)
    return [result for result in found if result.epochs == most]


def ranked(results):
    """The candidates, that with the highest score first, of equal ones that with the smallest file."""
    return sorted(candidates(results), key=lambda result: (-result.score, result.int8_bytes))


def pareto_front(results, cost):
    """The candidates than which none is as accurate for less, or more accurate for as much: the cheapest first.

    Args:
        results: list of `Result`.
        cost: `"int8_bytes"` or `"latency_ms"`, or another field that is a number.

    Returns:
        A list of `Result`.
    """
    front = []
    for result in sorted(candidates(results), key=lambda result: (getattr(result, cost), -result.accuracy)):
        if not front or result.accuracy > front[-1].accuracy:
            front.append(result)
    return front
