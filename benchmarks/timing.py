"""Times as columns of a table, how fast the machine multiplies matrices, and the memory that work needs."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

_ACCOUNT = "/proc/self/clear_refs"


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median between its quartiles: a quarter of the values is below `low`, a quarter above `high`."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of some numbers.

    >>> spread([4, 1, 2, 3, 10])
    Spread(low=2.0, median=3.0, high=4.0)
    """
    return Spread(*np.percentile(values, (25, 50, 75)).tolist())


def ratio(seconds: Sequence[float], peer: Sequence[float]) -> Spread:
    """How many times as long something takes as its peer, round by round of the same `take_turns`.

    What slows the machine down for a while slows both runs of a round: it does not show in their ratio.

    >>> ratio([2.0, 6.0, 30.0], [1.0, 2.0, 10.0]).median
    3.0
    """
    return spread(np.divide(seconds, peer))


def columns(seconds: Mapping[Hashable, Sequence[float]], peer: Hashable, *, share: int = 1) -> dict[Any, dict]:
    """What `take_turns` measured, as columns of a table: `milliseconds` for each of `share` images that a run works on.

    Returns:
        By name a dict of `milliseconds` and `ratio` to a peer, each also with `_low` and `_high`, the quartiles.
    """
    found = {}
    for name, times in seconds.items():
        found[name] = {}
        of_run = {"milliseconds": spread(np.multiply(times, 1000 / share)), "ratio": ratio(times, seconds[peer])}
        for column, values in of_run.items():
            found[name] |= {column: values.median, f"{column}_low": values.low, f"{column}_high": values.high}
    return found


def measure_peak(quick: bool) -> float:
    """What [`matmul_peak`] gives; with `quick` a glance at one small size."""
    return matmul_peak(sizes=(512,), seconds=0.1) if quick else matmul_peak()


def matmul_peak(*, sizes: Sequence[int] = (512, 1024, 2048, 4096), seconds: float = 1.0) -> float:
    """The most multiply-adds a second that square float32 matrices get from this machine, with all its threads.

    On a machine with other work it comes out too low: the largest of several moments is nearer to the truth. Each size
    of matrix is tried for so many seconds; its fastest product counts.
    """
    # Not above: a fresh process of `peak_memory` imports this module.
    import keras

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


def peak_memory(function: Callable[..., object], *arguments: object) -> int | None:
    """By how many bytes the resident memory of a fresh process grows at most while it runs a function.

    What importing the function's module takes is not in it. `None` on systems without `/proc`. The arguments are
    pickled.
    """
    if not os.access(_ACCOUNT, os.W_OK):
        return None
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_growth, function, arguments).result()


def _growth(function: Callable[..., object], arguments: Sequence[object]) -> int:
    # Forgets the peak of what came before, such as the imports.
    pathlib.Path(_ACCOUNT).write_text("5", encoding="utf-8")
    before = _peak_resident()
    function(*arguments)
    return _peak_resident() - before


def _peak_resident() -> int:
    """The largest resident memory of this process since the account was cleared, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text(encoding="utf-8"))[1])
