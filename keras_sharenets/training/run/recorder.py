"""Writes the files of a training run: its record, its networks, and its checkpoints.

A checkpoint is a single `.npz` file with everything that a run needs to continue: all variables of the model (including
random number states), of its optimizer, and of its metrics, and the record of the run. Every file is written to a
temporary file and renamed, so that it can be read at any time.
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
from keras_sharenets.training.run.command import resume_command
from keras_sharenets.training.run.config import CONFIG, write_config
from keras_sharenets.training.run.record import Epoch, Run, finite, run_from_dict, write_history, write_metrics

GROUPS = ("weights", "optimizer", "metrics")
_SECONDS, _CALLS = 5.0, 10_000  # Workers synchronize at this interval of time, at most after this many batches.
CHECKPOINTS = "checkpoints"  # Subfolder of a run.
Checkpoint = tuple[pathlib.Path, dict[str, np.ndarray], dict[str, Any]]  # A path, and the result of `load_checkpoint`.


class Recorder(keras.callbacks.Callback):
    """Keeps a `Run` up to date, in memory and on disk.

    A finished epoch is saved in a checkpoint before any other file mentions it: a run that resumes from its last
    checkpoint has every epoch in its files, and rewrites these files if it was killed before they were written.

    Args:
        network: the model to save.
        folder: created here.
        run: the run to start or continue.
        steps: batches per epoch.
        deliver: copies the weights to evaluate into `network`, those of the trained model or their average.
        request: reports a signal to stop.
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
        self._metrics: dict[str, np.ndarray] = {}  # Metrics of the epoch during evaluation.
        self._saved = time.monotonic()
        self._begin_agreeing()
        self._write()

    def resume(self, path: pathlib.Path, arrays: Mapping[str, np.ndarray], state: Mapping) -> None:
        """Continues from a checkpoint whose weights have been restored."""
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
        # Only now, since `model.fit` resets metrics at the start of every epoch, but this run resumes within one.
        arrays, state = self._resumed
        restore(self.model, arrays, ["metrics"])
        self._epoch_start = time.perf_counter() - state["epoch_seconds"]
        self._rate = state["learning_rate"]
        self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted by `model.fit`: some devices run several steps per call.
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
        # Evaluation resets the metrics, but a run may be stopped during it.
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
        """Adds the test metrics to the last epoch, for runs with a validation split."""
        tested = dataclasses.replace(self.run.last, **_figures("test", logs))
        self.run = dataclasses.replace(self.run, epochs=(*self.run.epochs[:-1], tested))

    def _begin_agreeing(self) -> None:
        # Number of calls of `_agree` until the workers synchronize again, and the start time of the count.
        self._pause, self._calls, self._agreed = 1, 0, time.monotonic()

    def _agree(self) -> None:
        """Writes a checkpoint if the last one is too old, and stops the run if a signal was received.

        All workers must do this after the same step, so they synchronize about every `_SECONDS`.
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
        """Writes the final state of the run, and its curves if there are any."""
        self.run = dataclasses.replace(self.run, state=state, reason=reason)
        self._write()
        if self.run.epochs:
            files.write_bytes(self.folder / "curves.png", draw_curves(self.run))

    def resume_hint(self) -> str:
        """A sentence that says how to resume a stopped run."""
        if self._checkpoint is None:
            return f"There is no checkpoint in {self.folder} yet."
        command = resume_command(self.folder, strategy=self.run.strategy)
        if self.run.trainer is not None:  # One of several steps, each in a separate folder.
            command = resume_command(self.folder.parent, self.run.trainer["program"])
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
        # Models first, so that the record never refers to a missing file.
        files.save_model(self.network, self.folder / "last.keras")
        if self.run.best is self.run.last:
            files.save_model(self.network, self.folder / "best.keras")
        self._write()

    def _write(self) -> None:
        self._count_seconds()
        record = self.folder / "metrics.json"
        if not record.exists():  # A folder with a record can be resumed, even if other files are missing.
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
    """The `Recorder` of workers other than worker 0: keeps the same state and writes nothing."""

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
    """Writes a checkpoint atomically, and removes all but the last `keep` in its folder, which is created if needed.

    Args:
        path: as returned by `checkpoint_path`.
        arrays: as returned by `read_variables`.
        state: data for JSON.
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
    """The path of the checkpoint after `number` steps."""
    return folder / f"{number:09d}.npz"


def list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("[0-9]*.npz"))


def read_variables(model: keras.Model, groups: Iterable[str] = GROUPS) -> dict[str, np.ndarray]:
    """The arrays for a checkpoint of `model`, named `group/index`. All workers must call this."""
    variables = _variables(model)
    return {
        f"{group}/{index}": keras.ops.convert_to_numpy(variable)
        for group in groups
        for index, variable in enumerate(variables[group])
    }


def load_checkpoint(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """The `(arrays, state)` of a checkpoint; arrays are named `group/index`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an archive")
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("state").item())
    # A damaged file may raise anything: BadZipFile, KeyError, EOFError, NotImplementedError, zlib.error, ...
    except Exception as error:
        # For objects, the numpy message suggests loading them anyway, which would run code from the file.
        what = "it contains objects, not arrays" if "allow_pickle" in str(error) else f"{type(error).__name__}: {error}"
        raise ValueError(f"The checkpoint {path} is damaged: {what}") from error


def last_checkpoint(folder: pathlib.Path, *, clean: bool = True) -> Checkpoint | None:
    """The newest intact checkpoint, or `None` without any; warns about damaged ones and, if `clean`, renames them.

    Raises:
        ValueError: all checkpoints are damaged.
    """
    damaged: list[pathlib.Path] = []
    reasons: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            arrays, state = load_checkpoint(path)
            run_from_dict(state["run"])  # Raises a `KeyError` or a `TypeError` for an invalid record.
        except (ValueError, KeyError, TypeError) as error:
            damaged.append(path)
            reasons.append(str(error) if isinstance(error, ValueError) else f"The checkpoint {path} contains no run")
            continue
        if damaged:
            warnings.warn(f"{'. '.join(reasons)}. The run continues from the previous one, {path}.", stacklevel=3)
        # Its number is higher than those of the next checkpoints, so it would be kept instead of them.
        for old in damaged if clean else ():
            old.rename(f"{old}.damaged")
        return path, arrays, state
    if damaged:
        raise ValueError(f"{'. '.join(reasons)}. Remove {folder} to restart the run from the beginning.")
    return None


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray], groups: Iterable[str]) -> None:
    """Restores the variables of `groups` from a checkpoint.

    Args:
        model: compiled, with built optimizer and metrics.
        arrays: as returned by `load_checkpoint`.
        groups: some of `GROUPS`.

    Raises:
        ValueError: the checkpoint belongs to another model.
    """
    variables = _variables(model)
    for group in groups:
        saved = {name for name in arrays if name.startswith(f"{group}/")}
        # Older checkpoints lack the top-5 metric, which is the last one and matters in evaluation only.
        known = variables[group][: len(saved)] if group == "metrics" else variables[group]
        if len(saved) != len(known):
            raise ValueError(f"The checkpoint has {len(saved)} {group}, but the model has {len(variables[group])}.")
        for index, variable in enumerate(known):
            array = arrays[f"{group}/{index}"]
            if array.shape != tuple(variable.shape):
                raise ValueError(
                    f"{variable.path} has the shape {variable.shape}, but {array.shape} in the checkpoint."
                )
            variable.assign(array)


def _variables(model: keras.Model) -> dict[str, list]:
    # On JAX, the values of a model in training are stored elsewhere until synchronized.
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    # The state of TFMOT is not part of the model variables or of its files.
    weights = [*model.variables, *getattr(model, "training_state", ())]
    return {"weights": weights, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
