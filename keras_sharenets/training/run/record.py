"""The record of a training run, and its files: `metrics.json` and `history.csv`."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.dtype_policies import POLICIES
from keras_sharenets.models import hscnet, igcnet
from keras_sharenets.rendering.tables import csv_table
from keras_sharenets.training.recipes.named import changed_fields, describe_changes
from keras_sharenets.training.recipes.recipe import Recipe

EXPORT_RECORD = "export.json"  # Among the exported files of a run.
VERSION = 2  # Version of `metrics.json`. Records without one have version 1 and lack some of the current fields.
STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")
TENSORBOARD = ("graph", "histograms")
PRECISIONS = tuple(POLICIES)
ON_DEVICE = ("auto", "yes", "no")
FEW_CLASSES = 10  # With more classes, top-5 accuracy is reported, too.
_QUOTED = "`test_accuracy`, the value to report, is measured after the last epoch (last.keras)"
_PENALTY = "Losses include the weight decay penalty."
# Keyed by the split that epochs are evaluated on.
ACCURACY_NOTES = {
    "test": (
        "All test metrics are measured on the test split, which also serves as validation data. "
        f"{_QUOTED}. best.keras is chosen on the test split, so its accuracy is optimistic. {_PENALTY}"
    ),
    "validation": (
        "Epochs are evaluated on the validation split, and best.keras is chosen there. The test split was evaluated "
        f"once, at the end: {_QUOTED}. {_PENALTY}"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run that are independent of the network, the data, and the recipe.

    Attributes:
        seed: random seed for initialization, shuffling, and augmentation; from 0 to 2**32 - 1.
        jit_compile: as in `model.compile`: `"auto"`, `True`, or `False`.
        deterministic: whether the same arguments give bit-for-bit the same results on the same machine, also if the run
            is killed and resumed. Slower on TensorFlow, where it applies to the rest of the process. On JAX, CPUs are
            always deterministic, and other devices ignore it.
        checkpoint_minutes: write a checkpoint when the last one is this old, in addition to after each epoch.
        checkpoint_steps: also write checkpoints at this interval of steps within an epoch, unless `None`.
        keep_checkpoints: number of checkpoints to keep.
        tensorboard: TensorBoard data for `logs/` in addition to scalars: "graph" (on TensorFlow) and "histograms";
            `None` for no logs.
        strategy: the devices, as in `keras_sharenets.training.devices.devices.connect`. Results do not depend on them
            except for rounding (and random numbers inside the network on TensorFlow); the batches are the same as for
            one device.
        precision: precision of the computation, one of `PRECISIONS`, or `"auto"` to measure the first two and use the
            faster. Weights, files, loss, and class probabilities are always float32. `None`: float32, or bfloat16 on a
            TPU.
        epochs_on_device: whether to augment images on the device and run many steps per call, on JAX: `"yes"`, `"no"`,
            or `"auto"` for yes on a GPU or TPU. Results do not depend on it except for rounding.
        teacher: folder of a run, or a `.keras` file, of a teacher for knowledge distillation.

    Raises:
        ValueError: a field is invalid.
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
    teacher: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(RunOptions):
            object.__setattr__(self, field.name, files.as_tuples(getattr(self, field.name)))
        _checks.seed("seed", self.seed)
        _checks.one_of("jit_compile", self.jit_compile, ("auto", True, False))
        _checks.above_zero("checkpoint_minutes", self.checkpoint_minutes)
        if self.checkpoint_steps is not None:
            _checks.positive("checkpoint_steps", self.checkpoint_steps)
        _checks.positive("keep_checkpoints", self.keep_checkpoints)
        if self.tensorboard is not None:
            for extra in self.tensorboard:
                _checks.one_of("tensorboard", extra, TENSORBOARD)
            object.__setattr__(self, "tensorboard", tuple(self.tensorboard))
        if self.teacher is not None:
            object.__setattr__(self, "teacher", os.fspath(self.teacher))
        _checks.one_of("strategy", self.strategy, STRATEGIES)
        if self.precision is not None:
            _checks.one_of("precision", self.precision, (*PRECISIONS, "auto"))
        if self.deterministic and self.precision == "auto":
            raise ValueError("`precision` (='auto') depends on times: with `deterministic` (=True), name a precision.")
        _checks.one_of("epochs_on_device", self.epochs_on_device, ON_DEVICE)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1. A metric is `None` if it was not measured, or if a test metric is not finite.

    `loss` and `accuracy` are means over the epoch, on augmented images and changing weights; `learning_rate` is the
    rate of its first step. Test metrics are measured in every epoch or, with a validation split, only in the last.
    Top-5 accuracy is measured for more than `FEW_CLASSES` classes.
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
        """The accuracy for comparing epochs: on the validation split if there is one, else on the test split."""
        return self.test_accuracy if self.validation_accuracy is None else self.validation_accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """A training run: its options, inputs, and progress.

    Attributes:
        model: name of the network.
        options: further arguments of its factory.
        data: name, note, class names, shape, number of images in each split (`"validation"` is missing or 0 if there is
            no such split), mean, and variance.
        recipe: the recipe that was used.
        backend: Keras backend.
        versions: maps packages to versions.
        state: `"running"` (also after a kill), `"finished"`, or `"stopped"`.
        reason: reason for stopping.
        epochs: the finished epochs.
        seconds: training time, without the time between a kill and the resumption.
        source: data source for reloading the data set, as in `DataSource.to_record`; `None` if unavailable.
        step_seconds: maps precisions to seconds per step if `precision` was `"auto"`; that is then the chosen one.
        teacher_sha256: checksum of the teacher's file.
        trainer: `None` for `fit`. For a network trained by another program: `program`, `device`, `precision`,
            `test_accuracy` (measured there in that precision, if at all; the accuracy of the last epoch is that of the
            file), `changes` (deviations from the recipe, in a few words each; such runs have separate rows in tables),
            and `notes` (what that program does differently for all networks).
        start: the pretrained network that the run starts from: `source`, `file`, `sha256`, `class_names`, whether all
            but the head is frozen (`freeze`), and the newly initialized layers (`new_layers`). `None` without one.
        dropout_rate: the highest rate of the network's dropout layers, 0 without any, whether from an option, the
            recipe, or the network. `None` in older records, and before the network is built.
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
        """Deviations from the recipe, in a few words: program, starting point, teacher, held-out images, and split."""
        changes = list((self.trainer or {}).get("changes", ()))
        if self.start:
            changes.append(f"from {self.start['source']}{', frozen' if self.start['freeze'] else ''}")
        if self.teacher is not None:
            changes.append(f"teacher {self.teacher}")
        held, seed = self.data.get("validation", 0), (self.source or {}).get("split_seed", 0)
        changes += [f"{held:,} images for validation"] if held else []
        # The note names the seed of a split that is drawn: that of other data has no effect.
        changes += [f"split seed {seed}"] if seed and f"(seed {seed})" in self.data["note"] else []
        return tuple(changes)

    @property
    def split(self) -> str:
        """The split on which epochs are evaluated: `"validation"` if there is one, else `"test"`."""
        return "validation" if self.data.get("validation") else "test"

    @property
    def network(self) -> tuple[str, str]:
        """The key for the network in tables: its name, and its options in whatever order they were given."""
        return network_key(self.model, self.options)

    @property
    def conditions(self) -> tuple[Any, ...]:
        """The key for grouping runs in a table: data, recipe, and other changes."""
        data = self.data
        images = (tuple(data["shape"]), data.get("train"), data.get("test"))
        return (data["name"], *images, tuple(data["class_names"]), self.recipe, self.changes)

    @property
    def last(self) -> Epoch:
        """The last epoch; an `IndexError` if no epoch has finished."""
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest accuracy on `split`; a `ValueError` if no epoch has finished."""
        return max(self.epochs, key=lambda epoch: epoch.held_out_accuracy or 0.0)

    @property
    def test_accuracy(self) -> float | None:
        """The value to report: test accuracy after the last epoch; `None` unless the run is finished."""
        return self.last.test_accuracy if self.state == "finished" and self.epochs else None


def network_key(model: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """A key that is equal for equal options of a network, also after a JSON round trip.

    >>> network_key("net", {"width": 8, "stem": [1, 2]}) == network_key("net", {"stem": (1, 2), "width": 8})
    True
    """
    return model, str(sorted((name, files.as_tuples(value)) for name, value in options.items()))


def describe_training(run: Run) -> str:
    """The name of the recipe, its changed fields except the epochs, and the other changes to the training."""
    changes = describe_changes(run.recipe)
    changes.pop("epochs", None)
    return ", ".join([run.recipe.name, *changes.values(), *run.changes])


def finite(value: float) -> float | None:
    """`value` as a float, or `None` if it is not finite, since JSON supports finite numbers only."""
    return float(value) if math.isfinite(value) else None


def write_metrics(run: Run, path: pathlib.Path) -> None:
    """Writes a `Run` as JSON atomically, with the outcome first."""
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
    """Reads a `Run` written by `write_metrics` in this version or an earlier one.

    Raises:
        ValueError: the file does not exist or is not a record of a run.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: {path.parent} contains no run.")
    try:
        return run_from_dict(files.read_json(path))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the record of a run: {type(error).__name__} {error}") from error


def run_from_dict(values: Mapping[str, Any]) -> Run:
    """A `Run` from the output of `dataclasses.asdict`, also after a JSON round trip.

    Fields missing in earlier versions get their defaults, which match the former behavior. Before the field `start`
    existed, the stem of IGC networks had stride 1 for all image sizes: this is now an option. So are the plane orders
    for more than two arrangements in HSC-Net, which `fit` has written into every record since.

    Raises:
        ValueError, KeyError, TypeError: the values are not a record, or have a later version.
    """
    if values.get("version", 1) > VERSION:
        raise ValueError(f"its version (={values['version']}) must be at most {VERSION}: update keras_sharenets.")
    values = {field.name: values[field.name] for field in dataclasses.fields(Run) if field.name in values}
    # JSON has no tuples, but network factories expect them.
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
    """Writes the epochs of a `Run` as CSV atomically, one line per epoch below a header."""
    names = [field.name for field in dataclasses.fields(Epoch)]
    # Without metrics of a missing split, and without top-5 accuracies that were not measured.
    names = names if run.split == "validation" else [name for name in names if not name.startswith("validation")]
    has_top5 = any((epoch.test_top5_accuracy or epoch.validation_top5_accuracy) is not None for epoch in run.epochs)
    names = names if has_top5 else [name for name in names if "top5" not in name]
    files.write_text(path, csv_table([dataclasses.asdict(epoch) for epoch in run.epochs], names))
