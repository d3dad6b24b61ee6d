"""Keeps the files of a training run up to date."""

import dataclasses
import math
import time

import keras

from keras_sharenets import files
from keras_sharenets.training.reports.plots import draw_curves
from keras_sharenets.training.run.checkpoints import FOLDER, restore, save_checkpoint
from keras_sharenets.training.run.record import Epoch, finite, write_history, write_metrics


class Recorder(keras.callbacks.Callback):
    """Keeps a `Run` up to date, in memory and on disk.

    A finished epoch is in a checkpoint before anything else speaks of it: a run that goes on from its last checkpoint
    knows every epoch that its files know, and writes these files again if it was killed before they were.

    Args:
        network: the model to save.
        folder: path, made here.
        run: `Run` as it starts, or goes on.
        steps: int, batches of an epoch.
        trained: the model that is trained, if it does not share its layers with `network`.
    """

    def __init__(self, network, folder, run, steps, trained=None):
        super().__init__()
        self.network = network
        self.trained = trained or network
        self.folder = folder
        self.run = run
        self.steps = steps
        self._start = time.perf_counter() - run.seconds
        self._epoch_start = self._rate = None
        self._step = self._first = 0
        self._resumed = None
        self._checkpoint = None
        self._write()

    def resume(self, path, arrays, state):
        """Goes on from a checkpoint, whose weights the trained model has already."""
        self._checkpoint = path
        self._step = self._first = state["step"]
        if self._step:
            self._resumed = arrays, state
        else:
            self._publish()

    def on_epoch_begin(self, epoch, logs=None):
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

    def on_train_batch_end(self, batch, logs=None):
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

    def on_epoch_end(self, epoch, logs=None):
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

    def close(self, state, reason=None):
        """Writes the end of the run: its state, and the curves if there are any."""
        self.run = dataclasses.replace(self.run, state=state, reason=reason)
        self._write()
        if self.run.epochs:
            files.write_bytes(self.folder / "curves.png", draw_curves(self.run))

    def way_on(self):
        """What is left of a run that was stopped, as a sentence."""
        if self._checkpoint is None:
            return f"There is no checkpoint in {self.folder} yet."
        return f"The last good checkpoint is {self._checkpoint}; `fit --resume {self.folder}` goes on from there."

    def _save_checkpoint(self):
        self._count_seconds()
        state = {
            "run": dataclasses.asdict(self.run),
            "step": self._step,
            "learning_rate": self._rate,
            "epoch_seconds": time.perf_counter() - self._epoch_start,
        }
        number = len(self.run.epochs) * self.steps + self._step
        self._checkpoint = save_checkpoint(self.folder / FOLDER, self.model, state, number, self.run.keep_checkpoints)

    def _publish(self):
        if self.trained is not self.network:
            self.network.set_weights(self.trained.get_weights())
        # The models first: the figures never speak of a file that is not there.
        files.save_model(self.network, self.folder / "last.keras")
        if self.run.best is self.run.last:
            files.save_model(self.network, self.folder / "best.keras")
        self._write()

    def _write(self):
        self._count_seconds()
        files.write_labels(self.folder, self.run.data["class_names"])
        write_history(self.run, self.folder / "history.csv")
        write_metrics(self.run, self.folder / "metrics.json")

    def _count_seconds(self):
        self.run = dataclasses.replace(self.run, seconds=time.perf_counter() - self._start)
