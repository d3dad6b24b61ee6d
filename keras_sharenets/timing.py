"""Interleaved timing of callables, and formatting of durations."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from keras_sharenets import _checks

Name = TypeVar("Name", bound=Hashable)
UNSTEADY = 0.1  # Fraction of the median; with four other programs on two cores, the spread was 0.14.
UNSTEADY_NOTE = f"~: unsteady, the spread is above {UNSTEADY:.0%} of the time: measure again on an idle machine."


@dataclasses.dataclass(frozen=True)
class Timing:
    """Statistics of repeated time measurements.

    Attributes:
        median_ms: median in milliseconds.
        spread_ms: interquartile range in milliseconds.
    """

    median_ms: float
    spread_ms: float

    @property
    def unsteady(self) -> bool:
        """Whether `spread_ms` is above `UNSTEADY` times the median, as on a machine with other work."""
        return self.spread_ms > UNSTEADY * self.median_ms


def timing_of(seconds: Sequence[float]) -> Timing:
    """The median and the spread of a sequence of times.

    >>> timing_of([0.001, 0.002, 0.003])
    Timing(median_ms=2.0, spread_ms=1.0)
    """
    low, middle, high = statistics.quantiles([1000 * each for each in seconds], n=4, method="inclusive")
    return Timing(middle, high - low)


def take_turns(
    calls: Mapping[Name, Callable[[], object]], repetitions: int, *, warmup: int = 3
) -> dict[Name, list[float]]:
    """Measures callables in interleaved rounds: each round runs every callable once.

    The speed of a machine varies over time; interleaving affects all callables equally. With several callables, each
    measured run follows an unmeasured run of the same callable, so that its data is in the caches.

    Args:
        calls: callables by name; each returns when its work is done.
        repetitions: number of rounds.
        warmup: number of runs of each callable before the first round, for compilation and memory allocation.

    Returns:
        Seconds by name, one number per round.

    Raises:
        ValueError: `repetitions` is not a positive integer, or `warmup` is neither a positive integer nor 0.
    """
    _checks.positive("repetitions", repetitions)
    if warmup != 0:
        _checks.positive("warmup", warmup)
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            if len(calls) > 1:
                call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def in_milliseconds(milliseconds: float, *, unsteady: bool = False) -> str:
    """Formats a time with three digits for a table column in ms, with a ~ if the timing is unsteady.

    >>> in_milliseconds(0.19349), in_milliseconds(12.04, unsteady=True), in_milliseconds(1234.5)
    ('0.193', '~12.0', '1234')
    """
    digits = 0 if milliseconds >= 99.95 else 1 if milliseconds >= 9.995 else 2 if milliseconds >= 0.9995 else 3
    return f"{'~' * unsteady}{milliseconds:.{digits}f}"


def in_words(seconds: float) -> str:
    """Formats a duration with about two digits in a suitable unit.

    >>> in_words(0.583), in_words(42.3), in_words(600), in_words(9000)
    ('0.58 s', '42 s', '10 min', '2.5 h')
    """
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
