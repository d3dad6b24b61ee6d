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
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_sharenets import files
from keras_sharenets.training.reports.plots import draw_curves
from keras_sharenets.training.run.record import Epoch, Run, finite, write_history, write_metrics

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
        trained: the model that is trained, if it does not share its layers with `network`.
    """

    def __init__(
        self, network: keras.Model, folder: pathlib.Path, run: Run, steps: int, trained: keras.Model | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.trained = trained or network
        self.folder = folder
        self.run = run
        self.steps = steps
        self._start = time.perf_counter() - run.seconds
        self._epoch_start = self._rate = 0.0
        self._step = self._first = 0
        self._resumed = None
        self._checkpoint = None
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

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        record = Epoch(
            epoch + 1,
            float(logs["loss"]),
            float(logs["accuracy"]),
            finite(logs["val_loss"]),
            finite(logs["val_accuracy"]),
            self._rate,
            time.perf_counter() - self._epoch_start,
        )
        self.run = dataclasses.replace(self.run, epochs=(*self.run.epochs, record))
        self._step = 0
        self._save_checkpoint()
        self._publish()

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
        return f"The last good checkpoint is {self._checkpoint}; `fit --resume {self.folder}` continues from there."

    def _save_checkpoint(self) -> None:
        self._count_seconds()
        state = {
            "run": dataclasses.asdict(self.run),
            "step": self._step,
            "learning_rate": self._rate,
            "epoch_seconds": time.perf_counter() - self._epoch_start,
        }
        self._checkpoint = save_checkpoint(
            self.folder / CHECKPOINTS, self.model, state, self._steps_so_far(), keep=self.run.keep_checkpoints
        )

    def _steps_so_far(self) -> int:
        return len(self.run.epochs) * self.steps + self._step

    def _publish(self) -> None:
        if self.trained is not self.network:
            self.network.set_weights(self.trained.get_weights())
        # The models first: the figures never speak of a file that is not there.
        files.save_model(self.network, self.folder / "last.keras")
        if self.run.best is self.run.last:
            files.save_model(self.network, self.folder / "best.keras")
        self._write()

    def _write(self) -> None:
        self._count_seconds()
        files.write_labels(self.folder, self.run.data["class_names"])
        write_history(self.run, self.folder / "history.csv")
        write_metrics(self.run, self.folder / "metrics.json")

    def _count_seconds(self) -> None:
        self.run = dataclasses.replace(self.run, seconds=time.perf_counter() - self._start)


class Follower(Recorder):
    """What a worker other than worker 0 has: a `Recorder` that knows the same and writes nothing."""

    def __init__(
        self, network: keras.Model, folder: pathlib.Path, run: Run, steps: int, trained: keras.Model | None = None
    ) -> None:
        super().__init__(network, folder, dataclasses.replace(run, tensorboard=None), steps, trained)

    def close(self, state: str, reason: str | None = None) -> None:
        self.run = dataclasses.replace(self.run, state=state, reason=reason)

    def _save_checkpoint(self) -> None:
        read_variables(self.model)  # Some are sums over all workers.
        self._checkpoint = checkpoint_path(self.folder / CHECKPOINTS, self._steps_so_far())

    def _publish(self) -> None:
        pass

    def _write(self) -> None:
        self._count_seconds()


def save_checkpoint(
    folder: pathlib.Path, model: keras.Model, state: Mapping, number: int, *, keep: int
) -> pathlib.Path:
    """Writes `folder/<number>.npz` in one step, and removes all but the last `keep` checkpoints.

    Args:
        folder: made here.
        model: compiled.
        state: what JSON can hold.
        number: the steps so far; later checkpoints have higher ones.
        keep: at least 1.

    Returns:
        The path of the file.

    Raises:
        ValueError: a weight is not finite; nothing is written.
    """
    arrays = read_variables(model)
    for name, array in arrays.items():
        if name.startswith("weights") and not np.isfinite(array).all():
            raise ValueError(f"The weights are no longer finite after {number} steps.")
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, state=json.dumps(state), **arrays)
    path = checkpoint_path(folder, number)
    files.write_bytes(path, data.getvalue())
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoint_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the checkpoint after `number` steps is."""
    return folder / f"{number:09d}.npz"


def list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints in `folder`, the oldest first."""
    return sorted(folder.glob("[0-9]*.npz"))


def read_variables(model: keras.Model) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint of `model`, called `group/index`. Workers must all call it."""
    return {
        f"{group}/{index}": keras.ops.convert_to_numpy(variable)
        for group, variables in _variables(model).items()
        for index, variable in enumerate(variables)
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
        raise ValueError(f"The checkpoint {path} is damaged: {type(error).__name__}: {error}") from error


def restore(model: keras.Model, arrays: Mapping[str, np.ndarray], groups: Iterable[str]) -> None:
    """Gives the variables of `groups`, some of "weights", "optimizer" and "metrics", their values in a checkpoint.

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
        if len(saved) != len(variables[group]):
            raise ValueError(f"The checkpoint has {len(saved)} {group}, the model {len(variables[group])}.")
        for index, variable in enumerate(variables[group]):
            array = arrays[f"{group}/{index}"]
            if array.shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} has the shape {variable.shape}, in the checkpoint {array.shape}.")
            variable.assign(array)


def _variables(model: keras.Model) -> dict[str, list]:
    # On JAX, a model in training has its values elsewhere until they are asked for.
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    return {"weights": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
