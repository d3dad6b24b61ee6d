"""What is told of a training while it goes on: a line an epoch, with the time that the rest will take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets.timing import in_words

_EPOCHS = 5  # The last ones, by which the time left is estimated: a machine is not equally fast all day.
_SECONDS = 0.5  # Between two lines about steps.


class Progress(keras.callbacks.Callback):
    """Tells of a training in place of Keras' bar, which knows what is left of an epoch but not of the whole.

    Args:
        epochs: of the whole training.
        split: what the network is tested on after each, `"validation"` or `"test"`.
        tell: takes a line about each epoch, when it is over.
        show: takes a line about steps, twice a second at most; each replaces the one before, and `""` the last.
        opening: is told when the training begins, so not before an error of its settings.
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
        self._taken: list[float] = []  # Seconds of the last whole epochs.
        self._epoch = 0
        self._began = self._shown = 0.0
        self._first: tuple[int, float] | None = None  # The first step of this epoch, and when it was taken.
        self._step: float | None = None  # Seconds of the others, on average.

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
        # The first step of all compiles: the others say how long an epoch takes until one is over.
        self._step = (now - then) / (batch - first) if batch > first else None
        if now - self._shown < _SECONDS:
            return
        self._shown, steps = now, self.params["steps"]
        guess = [] if self._step is None else [self._step * steps]
        left = self._left(self._taken or guess, 1 - (batch + 1) / steps)
        self.show(f"{self._head()}step {batch + 1} of {steps}{left}")

    def on_test_begin(self, logs: Any = None) -> None:
        self.show(f"{self._head()}the {self.split} split")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs, seconds = logs or {}, time.perf_counter() - self._began
        # Of an epoch that a resumed run was in the middle of, `model.fit` is asked alone.
        if (self.params or {}).get("epochs") == self.epochs:
            self._taken = [*self._taken, seconds - self._compiling()][-_EPOCHS:]
        figures = {name: logs[name] for name in ("loss", "accuracy")}
        figures[f"{self.split} accuracy"] = logs["val_accuracy"]
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.show("")
        self.tell(f"{self._head()}{told}; {in_words(seconds)}{self._left(self._taken)}")

    def _compiling(self) -> float:
        """Seconds that the first whole epoch spent on what the others need not do."""
        if self._taken or self._first is None or self._step is None:
            return 0.0
        batch, then = self._first
        return max(then - self._began - (batch + 1) * self._step, 0.0)

    def _head(self) -> str:
        return f"epoch {self._epoch + 1} of {self.epochs}: "

    def _left(self, taken: Sequence[float], of_this_epoch: float = 0.0) -> str:
        """The end of a line, if it is known how many seconds epochs take."""
        epochs = self.epochs - self._epoch - 1 + of_this_epoch
        # The lower one of two: the first epoch compiles what tests, too.
        return f", about {in_words(epochs * statistics.median_low(taken))} left" if taken and epochs else ""
