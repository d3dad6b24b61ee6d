"""The files of a training run while it lasts: its record, its networks and its checkpoints.

A checkpoint is all that a run needs to continue, one `.npz` file: every variable of the model (the state of its random
numbers included), of its optimizer and of its metrics, and what is known of the run. Every file is written to the side
and renamed, so that it can be read at any moment.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_sharenets import files
from keras_sharenets.interruption import Interrupted, Request
from keras_sharenets.training.reports.plots import draw_curves
from keras_sharenets.training.run.config import CONFIG, write_config
from keras_sharenets.training.run.record import Epoch, Run, finite, run_from_dict, write_history, write_metrics

GROUPS = ("weights", "optimizer", "metrics")
_SECONDS, _CALLS = 5.0, 10_000  # Workers ask each other what to do after so much time, at most after so many batches.
CHECKPOINTS = "checkpoints"  # The folder in that of a run.
Checkpoint = tuple[pathlib.Path, dict[str, np.ndarray], dict[str, Any]]  # A path, and what `load_checkpoint` finds.


class Recorder(keras.callbacks.Callback):
    """Keeps a `Run` up to date, in memory and on disk.

    A finished epoch is in a checkpoint before anything else speaks of it: a run that continues from its last checkpoint
    knows every epoch that its files know, and writes these files again if it was killed before they were.

    Args:
        network: the model to save.
        folder: made here.
        run: as it starts or continues.
        steps: batches of an epoch.
        deliver: gives `network` the weights that are tested, those of the trained model or their average.
        request: tells of a signal that asks for an end.
        gather: as in `Devices`.
    """

    def __init__(
        self,
        network: keras.Model,
        folder: pathlib.Path,
        run: Run,
        *,
        steps: int,
        deliver: Callable[[], None],
        request: Request,
        gather: Callable[[int], list[int]],
    ) -> None:
        super().__init__()
        self.network = network
        self.deliver = deliver
        self.request = request
        self.gather = gather
        self.folder = folder
        self.run = run
        self.steps = steps
        self._start = time.perf_counter() - run.seconds
        self._epoch_start = self._rate = 0.0
        self._step = self._first = 0
        self._resumed = None
        self._checkpoint = None
        self._metrics: dict[str, np.ndarray] = {}  # Those of the epoch, while the network is tested.
        self._saved = time.monotonic()
        self._begin_agreeing()
        self._write()

    def resume(self, path: pathlib.Path, arrays: Mapping[str, np.ndarray], state: Mapping) -> None:
        """Continues from a checkpoint, whose weights the trained model has already."""
        self._checkpoint = path
        self._step = self._first = state["step"]
        if self._step:
            self._resumed = arrays, state
        else:
            self._publish()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin_agreeing()
        if self._resumed is None:
            self._step = self._first = 0
            self._epoch_start = time.perf_counter()
            self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            return
        # Only now: `model.fit` sets them to 0 at the beginning of every epoch, and this is the middle of one.
        arrays, state = self._resumed
        restore(self.model, arrays, ["metrics"])
        self._epoch_start = time.perf_counter() - state["epoch_seconds"]
        self._rate = state["learning_rate"]
        self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted by `model.fit`: some devices take several steps at once.
        self._step = min(self._first + batch + 1, self.steps)
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"The loss is {float(logs['loss'])} after step {self._step} of epoch {len(self.run.epochs) + 1}. "
                f"Try a smaller `learning_rate` (={self.run.recipe.learning_rate}) or a warm-up."
            )
        every = self.run.checkpoint_steps
        if every and self._step % every == 0 and self._step < self.steps:
            self._save_checkpoint()
        self._agree()

    def on_test_begin(self, logs: Any = None) -> None:
        # Testing sets the metrics to 0, but a run may be stopped in it.
        self._metrics = read_variables(self.model, ["metrics"])
        self._begin_agreeing()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._agree()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        record = Epoch(
            epoch=epoch + 1,
            loss=float(logs["loss"]),
            accuracy=float(logs["accuracy"]),
            learning_rate=self._rate,
            seconds=time.perf_counter() - self._epoch_start,
            **{"test_loss": None, "test_accuracy": None, **_figures(self.run.split, logs, "val_")},
        )
        self.run = dataclasses.replace(self.run, epochs=(*self.run.epochs, record))
        self._step, self._metrics = 0, {}
        self._save_checkpoint()
        self._publish()

    def note_test(self, logs: Mapping[str, float]) -> None:
        """Takes the figures of the test split for the last epoch, where the epochs have a validation split."""
        tested = dataclasses.replace(self.run.last, **_figures("test", logs))
        self.run = dataclasses.replace(self.run, epochs=(*self.run.epochs[:-1], tested))

    def _begin_agreeing(self) -> None:
        # In how many calls of `_agree` the workers look at each other again, and when they began to count.
        self._pause, self._calls, self._agreed = 1, 0, time.monotonic()

    def _agree(self) -> None:
        """Writes a checkpoint when the last one is old, and ends the run if a signal asks for it.

        All workers must do so after the same step. So they ask each other, about every `_SECONDS`.
        """
        self._calls += 1
        if self._calls < self._pause:
            return
        now = time.monotonic()
        pause = max(1, min(_CALLS, int(self._pause * _SECONDS / max(now - self._agreed, 1e-6))))
        due = now - self._saved >= 60 * self.run.checkpoint_minutes
        facts = self.gather(self.request.number + 128 * due + 256 * pause)
        number, due = max(fact % 128 for fact in facts), bool(facts[0] & 128)
        self._pause, self._calls, self._agreed = facts[0] // 256 if len(facts) > 1 else 1, 0, now
        if (number or due) and self._checkpoint != self._checkpoint_path():
            self._save_checkpoint()
        if number:
            raise Interrupted(number)

    def close(self, state: str, reason: str | None = None) -> None:
        """Writes the end of the run: its state, and the curves if there are any."""
        self.run = dataclasses.replace(self.run, state=state, reason=reason)
        self._write()
        if self.run.epochs:
            files.write_bytes(self.folder / "curves.png", draw_curves(self.run))

    def resume_hint(self) -> str:
        """How a run that was stopped can be resumed, as a sentence."""
        if self._checkpoint is None:
            return f"There is no checkpoint in {self.folder} yet."
        strategy = "" if self.run.strategy == "default" else f" --strategy {self.run.strategy}"
        command = f"sharenets fit --resume {self.folder}{strategy}"
        if self.run.trainer is not None:  # One step of several, each in a folder of its own.
            command = f"{self.run.trainer['program']} --resume {self.folder.parent}"
        return f"The last good checkpoint is {self._checkpoint}; `{command}` continues from there."

    def _save_checkpoint(self) -> None:
        self._count_seconds()
        state = {
            "run": dataclasses.asdict(self.run),
            "step": self._step,
            "learning_rate": self._rate,
            "epoch_seconds": time.perf_counter() - self._epoch_start,
        }
        arrays = read_variables(self.model) | self._metrics
        save_checkpoint(self._checkpoint_path(), arrays, state, keep=self.run.keep_checkpoints)
        self._note_checkpoint()

    def _note_checkpoint(self) -> None:
        self._checkpoint, self._saved = self._checkpoint_path(), time.monotonic()

    def _checkpoint_path(self) -> pathlib.Path:
        return checkpoint_path(self.folder / CHECKPOINTS, len(self.run.epochs) * self.steps + self._step)

    def _publish(self) -> None:
        self.deliver()
        # The models first: the figures never speak of a file that is not there.
        files.save_model(self.network, self.folder / "last.keras")
        if self.run.best is self.run.last:
            files.save_model(self.network, self.folder / "best.keras")
        self._write()

    def _write(self) -> None:
        self._count_seconds()
        record = self.folder / "metrics.json"
        if not record.exists():  # A folder that has it can be resumed, whatever is still to be written there.
            write_metrics(self.run, record)
        files.write_labels(self.folder, self.run.data["class_names"])
        write_history(self.run, self.folder / "history.csv")
        write_config(self.run, self.folder / CONFIG)
        write_metrics(self.run, record)

    def _count_seconds(self) -> None:
        self.run = dataclasses.replace(self.run, seconds=time.perf_counter() - self._start)


def _figures(split: str, logs: Mapping[str, float], prefix: str = "") -> dict[str, float | None]:
    names = [name for name in ("loss", "accuracy", "top5_accuracy") if prefix + name in logs]
    return {f"{split}_{name}": finite(logs[prefix + name]) for name in names}


class Follower(Recorder):
    """What a worker other than worker 0 has: a `Recorder` that knows the same and writes nothing."""

    def __init__(self, network: keras.Model, folder: pathlib.Path, run: Run, **more: Any) -> None:
        super().__init__(network, folder, dataclasses.replace(run, tensorboard=None), **more)

    def close(self, state: str, reason: str | None = None) -> None:
        self.run = dataclasses.replace(self.run, state=state, reason=reason)

    def _save_checkpoint(self) -> None:
        read_variables(self.model)  # Some are sums over all workers.
        self._note_checkpoint()

    def _publish(self) -> None:
        pass

    def _write(self) -> None:
        self._count_seconds()


def save_checkpoint(path: pathlib.Path, arrays: Mapping[str, np.ndarray], state: Mapping, *, keep: int) -> None:
    """Writes a checkpoint in one step, and removes all but the last `keep` in its folder, which is made.

    Args:
        path: as `checkpoint_path` says it.
        arrays: as `read_variables` finds them.
        state: what JSON can hold.
        keep: at least 1.

    Raises:
        ValueError: a weight is not finite; nothing is written.
    """
    for name, array in arrays.items():
        if name.startswith("weights") and not np.isfinite(array).all():
            raise ValueError(f"The weights are no longer finite after {int(path.stem)} steps.")
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, state=json.dumps(state), **arrays)
    files.write_bytes(path, data.getvalue())
    for old in list_checkpoints(path.parent)[:-keep]:
        old.unlink()


def checkpoint_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the checkpoint after `number` steps is."""
    return folder / f"{number:09d}.npz"


def list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints in `folder`, the oldest first."""
    return sorted(folder.glob("[0-9]*.npz"))


def read_variables(model: keras.Model, groups: Iterable[str] = GROUPS) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint of `model`, called `group/index`. Workers must all call it."""
    variables = _variables(model)
    return {
        f"{group}/{index}": keras.ops.convert_to_numpy(variable)
        for group in groups
        for index, variable in enumerate(variables[group])
    }


def load_checkpoint(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """The `(arrays, state)` of a checkpoint; arrays are called `group/index`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive")
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("state").item())
    # What is damaged may raise anything: BadZipFile, KeyError, EOFError, NotImplementedError, zlib.error ...
    except Exception as error:
        # Of objects numpy advises to load them all the same, which would run whatever is in the file.
        what = "it holds objects, not arrays" if "allow_pickle" in str(error) else f"{type(error).__name__}: {error}"
        raise ValueError(f"The checkpoint {path} is damaged: {what}") from error


def last_checkpoint(folder: pathlib.Path, *, clean: bool = True) -> Checkpoint | None:
    """The newest checkpoint that is whole, `None` without any; damaged ones are told of and, to `clean`, renamed.

    Raises:
        ValueError: all are damaged.
    """
    damaged: list[pathlib.Path] = []
    reasons: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            arrays, state = load_checkpoint(path)
            run_from_dict(state["run"])  # A `KeyError` or a `TypeError` unless it is one.
        except (ValueError, KeyError, TypeError) as error:
            damaged.append(path)
            reasons.append(str(error) if isinstance(error, ValueError) else f"The checkpoint {path} has no run")
            continue
        if damaged:
            warnings.warn(f"{'. '.join(reasons)}. The run continues from the one before, {path}.", stacklevel=3)
        # Its number is higher than that of the next ones, so it would stay in their place.
        for old in damaged if clean else ():
            old.rename(f"{old}.damaged")
        return path, arrays, state
    if damaged:
        raise ValueError(f"{'. '.join(reasons)}. Without {folder}, the run starts from the beginning.")
    return None


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray], groups: Iterable[str]) -> None:
    """Gives the variables of `groups`, some of `GROUPS`, their values in a checkpoint.

    Args:
        model: compiled; its optimizer and metrics are built.
        arrays: as `load_checkpoint` returns them.
        groups: names.

    Raises:
        ValueError: the checkpoint is that of another model.
    """
    variables = _variables(model)
    for group in groups:
        saved = {name for name in arrays if name.startswith(f"{group}/")}
        # Older checkpoints lack the metric of top-5 accuracy, the last one, which matters in tests alone.
        known = variables[group][: len(saved)] if group == "metrics" else variables[group]
        if len(saved) != len(known):
            raise ValueError(f"The checkpoint has {len(saved)} {group}, the model {len(variables[group])}.")
        for index, variable in enumerate(known):
            array = arrays[f"{group}/{index}"]
            if array.shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} has the shape {variable.shape}, in the checkpoint {array.shape}.")
            variable.assign(array)


def _variables(model: keras.Model) -> dict[str, list]:
    # On JAX, a model in training has its values elsewhere until they are asked for.
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    # What TFMOT keeps is no variable of the model: it is in no file.
    weights = [*model.variables, *getattr(model, "training_state", ())]
    return {"weights": weights, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
