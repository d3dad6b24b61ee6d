"""Progress of a training run: one line per epoch, with the estimated time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets.timing import in_words

_EPOCHS = 5  # Number of recent epochs for estimating the time left, since the speed of a machine varies.
_SECONDS = 0.5  # Minimum time between two lines about steps.


class Progress(keras.callbacks.Callback):
    """Reports training progress in place of the Keras bar, which shows the time left in an epoch but not in the run.

    Args:
        epochs: total number of epochs.
        split: split that the network is evaluated on after each epoch, `"validation"` or `"test"`.
        tell: receives a line at the end of each epoch.
        show: receives a line about steps, at most twice a second; each replaces the previous one, `""` clears it.
        opening: line to print when training starts, that is, after its settings have been checked.
    """

    def __init__(
        self,
        epochs: int,
        split: str,
        tell: Callable[[str], object],
        show: Callable[[str], object],
        *,
        opening: str = "",
    ) -> None:
        super().__init__()
        self.epochs, self.split = epochs, split
        self.tell, self.show, self.opening = tell, show, opening
        self._taken: list[float] = []  # Seconds of the last complete epochs.
        self._epoch = 0
        self._began = self._shown = 0.0
        self._first: tuple[int, float] | None = None  # The first step of this epoch, and the time it ended.
        self._step: float | None = None  # Average seconds of the other steps.

    def on_train_begin(self, logs: Any = None) -> None:
        if self.opening:
            self.tell(self.opening)
            self.opening = ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._began, self._first, self._step = epoch, time.perf_counter(), None, None
        self.show(f"{self._head()}first step")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        first, then = self._first = self._first or (batch, now)
        # The very first step compiles: until an epoch has ended, its time is estimated from the other steps.
        self._step = (now - then) / (batch - first) if batch > first else None
        if now - self._shown < _SECONDS:
            return
        self._shown, steps = now, self.params["steps"]
        # `steps` are those of a complete epoch, unless a run is resumed in the middle of one.
        guess = [self._step * steps] if self._step is not None and self._is_complete() else []
        left = self._left(self._taken or guess, 1 - (batch + 1) / steps)
        self.show(f"{self._head()}step {batch + 1} of {steps}{left}")

    def on_test_begin(self, logs: Any = None) -> None:
        self.show(f"{self._head()}evaluating on the {self.split} split")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs, seconds = logs or {}, time.perf_counter() - self._began
        if self._is_complete():
            self._taken = [*self._taken, seconds - self._compiling()][-_EPOCHS:]
        figures = {name: logs[name] for name in ("loss", "accuracy")}
        figures[f"{self.split} accuracy"] = logs["val_accuracy"]
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.show("")
        self.tell(f"{self._head()}{told}; {in_words(seconds)}{self._left(self._taken)}")

    def _is_complete(self) -> bool:
        """False in the rest of an epoch in which the run was resumed: `model.fit` is called for that epoch alone."""
        return (self.params or {}).get("epochs") == self.epochs

    def _compiling(self) -> float:
        """Seconds of one-time work, such as compilation, in the first complete epoch."""
        if self._taken or self._first is None or self._step is None:
            return 0.0
        batch, then = self._first
        return max(then - self._began - (batch + 1) * self._step, 0.0)

    def _head(self) -> str:
        return f"epoch {self._epoch + 1} of {self.epochs}: "

    def _left(self, taken: Sequence[float], of_this_epoch: float = 0.0) -> str:
        """The end of a line with the time left, if the seconds per epoch are known."""
        epochs = self.epochs - self._epoch - 1 + of_this_epoch
        # The lower of two: the first epoch also compiles the evaluation step.
        return f", about {in_words(epochs * statistics.median_low(taken))} left" if taken and epochs else ""
