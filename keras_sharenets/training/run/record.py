"""What is known of a training run, and its files: `metrics.json` and `history.csv`."""

import csv
import dataclasses
import io
import json
import math

from keras_sharenets import files
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.recipes.recipe import Recipe

ACCURACY_NOTE = (
    "All test figures are measured on the test split, which is also the validation data. `test_accuracy`, the figure "
    "to quote, is that of the last epoch (last.keras). best.keras is chosen on the test split, so its accuracy "
    "flatters. `loss` and `test_loss` include the penalty of the weight decay."
)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1. A figure of the test split that is not finite is `None`.

    `loss` and `accuracy` are means over the epoch, on changed pictures and while the weights move; `learning_rate` is
    that of its first step.
    """

    epoch: int
    loss: float
    accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: what went in, and how far it has come.

    Attributes:
        model: str, name of the network.
        options: dict, arguments of its factory beyond the name.
        data: dict: name, note, class names, shape, pictures in each split, mean and variance.
        recipe: `Recipe`, as it was used.
        seed: int.
        backend: str, Keras' backend.
        jit_compile: `"auto"` or bool, as given to `compile`.
        versions: dict, package to version.
        state: `"running"` (also what a killed run leaves), `"finished"` or `"stopped"`.
        reason: str, why it was stopped.
        epochs: tuple of `Epoch`.
        seconds: float, of training; the time between a kill and what continues it does not count.
        deterministic: bool, whether the same run gives the same bits again.
        tensorboard: tuple of what TensorBoard gets beyond scalars, of "graph" and "histograms"; `None`: nothing at all.
        checkpoint_steps: int, or `None`: checkpoints are written every so many steps of an epoch, and at its end.
        keep_checkpoints: int, how many of them stay.
        source: dict, arguments of `data.sources.load` that give the data set again; `None` if it was made otherwise.
    """

    model: str
    options: dict
    data: dict
    recipe: Recipe
    seed: int
    backend: str
    jit_compile: bool | str
    versions: dict
    state: str = "running"
    reason: str | None = None
    epochs: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    deterministic: bool = False
    tensorboard: tuple[str, ...] | None = None
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 3
    source: dict | None = None

    @property
    def last(self):
        """The last epoch; `None` before the first has ended."""
        return self.epochs[-1] if self.epochs else None

    @property
    def best(self):
        """The first of the epochs with the highest test accuracy; `None` before the first has ended."""
        return max(self.epochs, key=lambda epoch: epoch.test_accuracy or 0.0, default=None)

    @property
    def test_accuracy(self):
        """The figure to quote: the last epoch's test accuracy; `None` unless the run is finished."""
        return self.last.test_accuracy if self.state == "finished" else None


def finite(value):
    """`value` as a float, or `None` where it is no finite number: JSON has no other."""
    return float(value) if math.isfinite(value) else None


def write_metrics(run, path):
    """Writes a `Run` as JSON in one step, the outcome first."""
    outcome = {
        "state": run.state,
        "reason": run.reason,
        "test_accuracy": run.test_accuracy,
        "last": _outcome(run.last, "last.keras"),
        "best": _outcome(run.best, "best.keras"),
        "recipe_changes": changed_fields(run.recipe),
        "accuracy_note": ACCURACY_NOTE,
    }
    files.write_json(path, outcome | dataclasses.asdict(run))


def read_metrics(path):
    """The `Run` that `write_metrics` wrote.

    Raises:
        ValueError: there is no such file, or it was not written by this version.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: {path.parent} holds no run.")
    try:
        return run_from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the record of a run of this version: {type(error).__name__} {error}"
        ) from error


def run_from_dict(values):
    """A `Run` from the dict that `dataclasses.asdict` made of it, also after a way through JSON."""
    values = {field.name: values[field.name] for field in dataclasses.fields(Run)}
    # JSON knows no tuples, and factories of networks want them.
    options = {name: as_tuples(value) for name, value in values["options"].items()}
    recipe = Recipe(**values["recipe"])
    epochs = tuple(Epoch(**epoch) for epoch in values["epochs"])
    tensorboard = as_tuples(values["tensorboard"])
    return Run(**(values | {"options": options, "recipe": recipe, "epochs": epochs, "tensorboard": tensorboard}))


def as_tuples(value):
    """`value` with tuples for all lists, also inside each other."""
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _outcome(epoch, file):
    return epoch and {"epoch": epoch.epoch, "test_accuracy": epoch.test_accuracy, "file": file}


def write_history(run, path):
    """Writes the epochs of a `Run` as CSV in one step, one line an epoch under a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, run.epochs))
    files.write_text(path, text.getvalue())
