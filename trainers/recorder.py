"""Keeps the files of a training run up to date."""

import dataclasses
import math
import time

import keras

from keras_sharenets import files
from trainers.plots import draw_curves
from trainers.report import Epoch, finite, write_history, write_metrics


class Recorder(keras.callbacks.Callback):
    """Keeps a `Run` up to date, in memory and on disk.

    Args:
        network: the model to save; shares its layers with the one that is trained.
        folder: path, made here.
        run: `Run` as it starts.
    """

    def __init__(self, network, folder, run):
        super().__init__()
        self.network = network
        self.folder = folder
        self.run = run
        self._start = self._epoch_start = time.perf_counter()
        self._rate = None
        files.write_text(folder / "labels.txt", "".join(f"{name}\n" for name in run.data["class_names"]))
        self._write()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = time.perf_counter()
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"The loss is {float(logs['loss'])} after step {batch + 1} of epoch {len(self.run.epochs) + 1}. "
                f"Try a smaller `learning_rate` (={self.run.recipe.learning_rate}) or a warm-up."
            )

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
        # The models first: the figures never speak of a file that is not there.
        files.save_model(self.network, self.folder / "last.keras")
        if self.run.best is record:
            files.save_model(self.network, self.folder / "best.keras")
        self._write()

    def close(self, state, reason=None):
        """Writes the end of the run: its state, and the curves if there are any."""
        self.run = dataclasses.replace(self.run, state=state, reason=reason)
        self._write()
        if self.run.epochs:
            files.write_bytes(self.folder / "curves.png", draw_curves(self.run))

    def _write(self):
        self.run = dataclasses.replace(self.run, seconds=time.perf_counter() - self._start)
        write_history(self.run, self.folder / "history.csv")
        write_metrics(self.run, self.folder / "metrics.json")
