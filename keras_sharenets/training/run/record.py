"""What is known of a training run, and its files: `metrics.json` and `history.csv`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.dtype_policies import POLICIES
from keras_sharenets.models import hscnet, igcnet
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.recipes.recipe import Recipe

VERSION = 2  # Of `metrics.json`. Records without a version are of version 1, and lack some of today's fields.
STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")
TENSORBOARD = ("graph", "histograms")
PRECISIONS = tuple(POLICIES)
ON_DEVICE = ("auto", "yes", "no")
FEW_CLASSES = 10  # With more of them, top-5 accuracy is told too.
_QUOTED = "`test_accuracy`, the figure to quote, is that of the last epoch (last.keras)"
_PENALTY = "Losses include the penalty of the weight decay."
# By the split that the epochs are measured on.
ACCURACY_NOTES = {
    "test": (
        "All test figures are measured on the test split, which is also the validation data. "
        f"{_QUOTED}. best.keras is chosen on the test split, so its accuracy flatters. {_PENALTY}"
    ),
    "validation": (
        "Epochs are measured on the validation split, and best.keras is chosen there. The test split was gone through "
        f"once, at the end: {_QUOTED}. {_PENALTY}"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out, whatever is trained and by which recipe.

    Attributes:
        seed: at least 0; of the weights, the order of the images and their changes.
        jit_compile: as in `model.compile`: `"auto"`, `True` or `False`.
        deterministic: whether the same arguments give the same bits on the same machine, also when the run is killed
            and resumed. It takes longer on TensorFlow, where it holds for the rest of the process; on JAX, a CPU does
            so always, and another device is not asked to.
        checkpoint_minutes: a checkpoint is written when the last one is so old, and after each epoch.
        checkpoint_steps: checkpoints are also written every so many steps of an epoch; `None`: they are not.
        keep_checkpoints: how many checkpoints stay.
        tensorboard: what `logs/` gets for TensorBoard beyond scalars, of "graph" (on TensorFlow) and "histograms";
            `None`: there are no logs.
        strategy: the devices, as in `keras_sharenets.training.devices.devices.connect`. What is trained does not depend
            on them but for rounding (and random numbers inside the network on TensorFlow); the batches are those of one
            device.
        precision: of what is computed, one of `PRECISIONS`, or `"auto"` for the faster of the first two, which is
            measured. Weights, files, loss and class probabilities are float32 in any case. `None`: float32, or bfloat16
            on a TPU.
        epochs_on_device: whether images are changed on the device, which takes many steps at once, on JAX: `"yes"`,
            `"no"`, or `"auto"` for a GPU or TPU. What is trained does not depend on it but for rounding.
        teacher: folder of a run, or a `.keras` file: a network from whose probabilities this one learns too.

    Raises:
        ValueError: a field breaks its rule.
    """

    seed: int = 0
    jit_compile: bool | str = "auto"
    deterministic: bool = False
    checkpoint_minutes: float = 2.0
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 3
    tensorboard: tuple[str, ...] | None = None
    strategy: str = "default"
    precision: str | None = None
    epochs_on_device: str = "auto"
    teacher: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"`seed` (={self.seed!r}) must be a non-negative integer.")
        _checks.one_of("jit_compile", self.jit_compile, ("auto", True, False))
        _checks.above_zero("checkpoint_minutes", self.checkpoint_minutes)
        if self.checkpoint_steps is not None:
            _checks.positive("checkpoint_steps", self.checkpoint_steps)
        _checks.positive("keep_checkpoints", self.keep_checkpoints)
        if self.tensorboard is not None:
            for extra in self.tensorboard:
                _checks.one_of("tensorboard", extra, TENSORBOARD)
            object.__setattr__(self, "tensorboard", tuple(self.tensorboard))
        _checks.one_of("strategy", self.strategy, STRATEGIES)
        if self.precision is not None:
            _checks.one_of("precision", self.precision, (*PRECISIONS, "auto"))
        _checks.one_of("epochs_on_device", self.epochs_on_device, ON_DEVICE)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1. A figure is `None` if it was not measured, or is one of the test split and not finite.

    `loss` and `accuracy` are means over the epoch, on changed images and while the weights move; `learning_rate` is
    that of its first step. Test figures are those of every epoch, or where there is a validation split of the last one.
    Top-5 is measured where there are more than `FEW_CLASSES`.
    """

    epoch: int
    loss: float
    accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    learning_rate: float
    seconds: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_top5_accuracy: float | None = None
    validation_top5_accuracy: float | None = None

    @property
    def held_out_accuracy(self) -> float | None:
        """What epochs are compared by: the accuracy on the validation split, or else on the test split."""
        return self.test_accuracy if self.validation_accuracy is None else self.validation_accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """A training run: the options, what went in, and how far it has come.

    Attributes:
        model: name of the network.
        options: arguments of its factory beyond the name.
        data: name, note, class names, shape, images in each split (`"validation"` is missing or 0 where there is none),
            mean and variance.
        recipe: as it was used.
        backend: Keras' backend.
        versions: package to version.
        state: `"running"` (also what a killed run leaves), `"finished"` or `"stopped"`.
        reason: why it was stopped.
        epochs: those that are finished.
        seconds: of training; the time between a kill and what continues it does not count.
        source: what loads the data set again, as `DataSource.to_record` says it; `None` if it was made otherwise.
        step_seconds: precision to what one step took, where `precision` was `"auto"`; it is the chosen one by now.
        teacher_sha256: of the teacher's file.
        trainer: `None` for `fit`. Of a network that another program trained: `program`, `device`, `precision`,
            `test_accuracy` (there, in that precision, if it was taken; that of the last epoch is of the file),
            `changes` (what makes it another training than the recipe, each in few words; such runs are rows of their
            own) and `notes` (what is done otherwise with every network of that program).
        start: the trained network that the run begins with: `source`, `file`, `sha256`, `class_names`, whether all but
            the head is frozen (`freeze`), and the layers that begin untrained (`new_layers`). `None`: none.
        dropout_rate: the highest rate of the network's dropout layers, 0 without any, whoever chose it: option, recipe
            or the network itself. `None` in older records, and before the network was built.
    """

    model: str
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    recipe: Recipe
    backend: str
    versions: Mapping[str, str]
    state: str = "running"
    reason: str | None = None
    epochs: tuple[Epoch, ...] = ()
    seconds: float = 0.0
    source: Mapping[str, Any] | None = None
    step_seconds: Mapping[str, float] | None = None
    teacher_sha256: str | None = None
    trainer: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    dropout_rate: float | None = None

    @property
    def changes(self) -> tuple[str, ...]:
        """What makes it another training than the recipe, in few words: its program, its beginning, images held out."""
        changes = list((self.trainer or {}).get("changes", ()))
        if self.start:
            changes.append(f"from {self.start['source']}{', frozen' if self.start['freeze'] else ''}")
        held = self.data.get("validation", 0)
        return (*changes, *([f"{held:,} images for validation"] if held else []))

    @property
    def split(self) -> str:
        """The split on which the epochs are measured: `"validation"`, or `"test"` without one."""
        return "validation" if self.data.get("validation") else "test"

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What is the same for runs that stand together in a table: data, recipe, and what was changed beyond that."""
        return (self.data["name"], self.data.get("train"), self.recipe, self.changes)

    @property
    def last(self) -> Epoch:
        """The last epoch; an `IndexError` before the first has ended."""
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The first of the epochs with the highest accuracy on `split`; a `ValueError` before the first has ended."""
        return max(self.epochs, key=lambda epoch: epoch.held_out_accuracy or 0.0)

    @property
    def test_accuracy(self) -> float | None:
        """The figure to quote: the last epoch's test accuracy; `None` unless the run is finished."""
        return self.last.test_accuracy if self.state == "finished" and self.epochs else None


def finite(value: float) -> float | None:
    """`value` as a float, or `None` where it is not finite: JSON has no other numbers."""
    return float(value) if math.isfinite(value) else None


def write_metrics(run: Run, path: pathlib.Path) -> None:
    """Writes a `Run` as JSON in one step, the outcome first."""
    outcome = {
        "version": VERSION,
        "state": run.state,
        "reason": run.reason,
        "test_accuracy": run.test_accuracy,
        "last": _outcome(run.last, "last.keras") if run.epochs else None,
        "best": _outcome(run.best, "best.keras") if run.epochs else None,
        "recipe_changes": changed_fields(run.recipe),
        "accuracy_note": ACCURACY_NOTES[run.split],
    }
    for name in ("last", "best") if run.epochs and run.split == "validation" else ():
        outcome[name]["validation_accuracy"] = getattr(run, name).validation_accuracy
    files.write_json(path, outcome | dataclasses.asdict(run))


def read_metrics(path: pathlib.Path) -> Run:
    """The `Run` that `write_metrics` wrote, in this version or an earlier one.

    Raises:
        ValueError: there is no such file, or it is not such a record.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: {path.parent} holds no run.")
    try:
        return run_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the record of a run: {type(error).__name__} {error}") from error


def run_from_dict(values: Mapping[str, Any]) -> Run:
    """A `Run` from what `dataclasses.asdict` made of it, also after a way through JSON.

    What a record of an earlier version lacks is what was always so then: the defaults of the fields. Before there was
    a `start`, the stem of IGC networks had stride 1 for images of any size: that is an option today. So are the orders
    of more than two arrangements in HSC-Net, which `fit` writes into every record since then.

    Raises:
        ValueError, KeyError, TypeError: it is not such a record, or one of a later version.
    """
    if values.get("version", 1) > VERSION:
        raise ValueError(f"its version (={values['version']}) must be at most {VERSION}: update keras_sharenets.")
    values = {field.name: values[field.name] for field in dataclasses.fields(Run) if field.name in values}
    # JSON knows no tuples, and factories of networks want them.
    options = {name: files.as_tuples(value) for name, value in values["options"].items()}
    recipe = Recipe(**values["recipe"])
    if "start" not in values and getattr(igcnet.VARIANTS.get(values["model"]), "factory_name", None) == "IGCNet":
        sides = [recipe.crop_size] * 2 if recipe.crop_size else values["data"]["shape"][:2]
        if min(side or 0 for side in sides) >= igcnet.LARGE_IMAGE:
            options.setdefault("stem_strides", 1)
    if values["model"] in hscnet.VARIANTS and options.get("arrangements", 2) > 2:
        options.setdefault("plane_orders", "shuffled")
    epochs = tuple(Epoch(**epoch) for epoch in values["epochs"])
    return Run(**(values | {"options": options, "recipe": recipe, "epochs": epochs}))


def _outcome(epoch: Epoch, file: str) -> dict[str, Any]:
    return {"epoch": epoch.epoch, "test_accuracy": epoch.test_accuracy, "file": file}


def write_history(run: Run, path: pathlib.Path) -> None:
    """Writes the epochs of a `Run` as CSV in one step, one line per epoch under a header."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Epoch)]
    # Without figures of a split that there is not, and of top-5 accuracies that are not measured.
    names = names if run.split == "validation" else [name for name in names if not name.startswith("validation")]
    has_top5 = any((epoch.test_top5_accuracy or epoch.validation_top5_accuracy) is not None for epoch in run.epochs)
    names = names if has_top5 else [name for name in names if "top5" not in name]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in run.epochs)
    files.write_text(path, text.getvalue())
