"""Times as columns of a table, the peak speed of matrix multiplication, and the memory used by a function."""

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
    """A median and its quartiles: a quarter of the values is below `low`, a quarter above `high`."""

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
    """Time relative to a peer, for each round of the same `take_turns`.

    A temporary slowdown of the machine affects both runs of a round, and so cancels out in their ratio.

    >>> ratio([2.0, 6.0, 30.0], [1.0, 2.0, 10.0]).median
    3.0
    """
    return spread(np.divide(seconds, peer))


def columns(seconds: Mapping[Hashable, Sequence[float]], peer: Hashable, *, share: int = 1) -> dict[Any, dict]:
    """Measurements of `take_turns` as columns of a table: `milliseconds` for each of the `share` images of a run.

    Returns:
        For each name a dict of `milliseconds` and `ratio` to a peer, each also with `_low` and `_high`, the quartiles.
    """
    found = {}
    for name, times in seconds.items():
        found[name] = {}
        of_run = {"milliseconds": spread(np.multiply(times, 1000 / share)), "ratio": ratio(times, seconds[peer])}
        for column, values in of_run.items():
            found[name] |= {column: values.median, f"{column}_low": values.low, f"{column}_high": values.high}
    return found


def measure_peak(quick: bool) -> float:
    """Result of [`matmul_peak`]; with `quick`, a short measurement of one small size."""
    return matmul_peak(sizes=(512,), seconds=0.1) if quick else matmul_peak()


def matmul_peak(*, sizes: Sequence[int] = (512, 1024, 2048, 4096), seconds: float = 1.0) -> float:
    """Peak multiply-adds per second of square float32 matrix products on this machine, with all threads.

    On a busy machine the result is too low; the maximum of several measurements is more accurate. Each matrix size is
    tried for the given number of seconds; its fastest product counts.
    """
    # Not at the top: a fresh process of `peak_memory` imports this module.
    import keras

    speeds = []
    for size in sizes:
        left, right = (keras.random.normal((size, size), seed=seed) for seed in (0, 1))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            # Reading one value waits until the result is complete.
            keras.ops.convert_to_numpy(keras.ops.matmul(left, right)[0, 0])
            speeds.append(size**3 / (time.perf_counter() - start))
    return max(speeds)


def peak_memory(function: Callable[..., object], *arguments: object) -> int | None:
    """Maximum growth in bytes of the resident memory of a fresh process while it runs a function.

    The import of the function's module is not included. `None` on systems without `/proc`. The arguments are pickled.
    """
    if not os.access(_ACCOUNT, os.W_OK):
        return None
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_growth, function, arguments).result()


def _growth(function: Callable[..., object], arguments: Sequence[object]) -> int:
    # Resets the peak, which so far includes the imports.
    pathlib.Path(_ACCOUNT).write_text("5", encoding="utf-8")
    before = _peak_resident()
    function(*arguments)
    return _peak_resident() - before


def _peak_resident() -> int:
    """The peak resident memory of this process since the last reset, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text(encoding="utf-8"))[1])
