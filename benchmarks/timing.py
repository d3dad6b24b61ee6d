"""How long callables take beside each other, and how fast the machine multiplies matrices."""

import dataclasses
import time

import keras
import numpy as np

from keras_sharenets import _checks


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median between its quartiles: a quarter of the values is below `low`, a quarter above `high`."""

    low: float
    median: float
    high: float


def spread(values):
    """The `Spread` of some numbers.

    >>> spread([4, 1, 2, 3, 10])
    Spread(low=2.0, median=3.0, high=4.0)
    """
    return Spread(*np.percentile(values, (25, 50, 75)).tolist())


def ratio(seconds, peer):
    """The `Spread` of how many times as long something takes as its peer, round by round.

    What slows the machine down for a while slows both runs of a round: it does not show in their ratio.

    Args:
        seconds, peer: sequences of times, one a round of the same `take_turns`.

    >>> ratio([2.0, 6.0, 30.0], [1.0, 2.0, 10.0]).median
    3.0
    """
    return spread(np.divide(seconds, peer))


def take_turns(calls, repetitions, warmup=3):
    """Measures callables in rounds: each round runs every one of them.

    A machine is slower at one time than at another; taking turns, that meets all alike. Each measured run comes after
    one of the same callable that is not measured: what ran before has the caches.

    Args:
        calls: dict, name to a function without arguments that returns when its work is done.
        repetitions: int, rounds.
        warmup: int, runs of each before the first round: they compile and fetch memory.

    Returns:
        A dict, name to a list of seconds, one a round.

    Raises:
        ValueError: `repetitions` or `warmup` is not a positive integer.
    """
    _checks.positive("repetitions", repetitions)
    _checks.positive("warmup", warmup)
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def figures(seconds, peer, share=1):
    """What `take_turns` measured, as columns of a table.

    Args:
        seconds: dict, name to its times.
        peer: the name to which the ratios are.
        share: int, pictures that one run works on: times are for one of them.

    Returns:
        A dict, name to a dict of floats: `milliseconds` and `ratio`, each also with `_low` and `_high`, the quartiles.
    """
    columns = {}
    for name, times in seconds.items():
        milliseconds = spread(np.multiply(times, 1000 / share))
        columns[name] = _columns("milliseconds", milliseconds) | _columns("ratio", ratio(times, seconds[peer]))
    return columns


def _columns(name, values):
    return {name: values.median, f"{name}_low": values.low, f"{name}_high": values.high}


def measure_peak(quick):
    """What [`matmul_peak`] gives; with `quick` a glance at one small size."""
    return matmul_peak(sizes=(512,), seconds=0.1) if quick else matmul_peak()


def matmul_peak(sizes=(512, 1024, 2048, 4096), seconds=1.0):
    """The most multiply-adds a second that square float32 matrices get from this machine, with all its threads.

    On a machine with other work it comes out too low: the largest of several moments is nearer to the truth.

    Args:
        sizes: sequence of int, sides of the matrices to try.
        seconds: float, how long each size is tried; its fastest product counts.

    Returns:
        float.
    """
    speeds = []
    for size in sizes:
        left, right = (keras.random.normal((size, size), seed=seed) for seed in (0, 1))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            # Reading a number waits until all of them are there.
            keras.ops.convert_to_numpy(keras.ops.matmul(left, right)[0, 0])
            speeds.append(size**3 / (time.perf_counter() - start))
    return max(speeds)
