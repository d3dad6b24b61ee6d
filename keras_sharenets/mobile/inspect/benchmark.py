"""What TFLite files cost on this machine: time for one picture, memory, bytes."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import numpy as np

from keras_sharenets.mobile.inspect import contents as graph
from keras_sharenets.mobile.inspect import interpreter as runtime
from keras_sharenets.mobile.inspect import memory_probe
from keras_sharenets.mobile.inspect.delegates import delegated
from keras_sharenets.timing import take_turns


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """What one TFLite file costs.

    Attributes:
        path: the file, as it was given.
        file_bytes: its size.
        threads: threads of the interpreter.
        repetitions: inferences measured.
        median_ms: median time in milliseconds.
        percentile_10_ms, percentile_90_ms: a tenth of the inferences was faster, or slower, than this.
        spread_ms: interquartile range: from the time that a quarter is faster than to the one that a quarter is slower
            than.
        warmup: inferences before the measured ones.
        weight_bytes: bytes of all constants, each buffer once.
        delegates: number of parts that the runtime's delegates run; a graph in one piece has 1.
        outside: dict, the operators that no delegate runs, each with its count.
        peak_memory_bytes: by how much the resident memory of a fresh process grew at most from before it opened the
            file, which is mapped into memory, until after ten inferences. Parts of the runtime that are first used then
            are in it, the Python interpreter and the imports are not. `None` on systems without `/proc`.
    """

    path: str
    file_bytes: int
    threads: int
    repetitions: int
    median_ms: float
    percentile_10_ms: float
    percentile_90_ms: float
    spread_ms: float
    warmup: int
    weight_bytes: int
    delegates: int
    outside: dict
    peak_memory_bytes: int | None


def benchmark_tflite(path, num_threads=1, repetitions=50, warmup=5):
    """Measures a TFLite file in the LiteRT interpreter of this machine.

    Only the inference itself is timed, on one seeded random input that is set beforehand.

    Args:
        path: the TFLite file.
        num_threads: int, threads of the interpreter.
        repetitions: int, inferences to measure.
        warmup: int, inferences before that, which do not count: the first ones fetch memory.

    Returns:
        A `BenchmarkReport`.

    Raises:
        ValueError: the file cannot be used (see `open_tflite`), or an argument is not a positive integer (`warmup`
            may be 0).
    """
    return compare_tflite([path], num_threads, repetitions, warmup)[0]


def compare_tflite(paths, num_threads=1, repetitions=50, warmup=5):
    """Measures several TFLite files as `benchmark_tflite` does one, taking turns.

    A machine is slower at one time than at another. Taking turns, that meets all files alike. With several files, each
    measured inference comes after one of the same file that is not measured: what ran before has the caches.

    Args:
        paths: sequence of TFLite files.
        num_threads, repetitions, warmup: as for `benchmark_tflite`, each for every file.

    Returns:
        A list of `BenchmarkReport`, in the order of `paths`.

    Raises:
        ValueError: as for `benchmark_tflite`, or `paths` is not a sequence of at least one file.
    """
    if isinstance(paths, (str, os.PathLike)) or not len(paths):
        raise ValueError(f"`paths` (={paths!r}) must be a sequence of at least one file.")
    interpreters = [runtime.open_tflite(path, num_threads) for path in paths]
    calls = dict(enumerate(map(inference_call, interpreters)))
    seconds = take_turns(calls, repetitions, warmup=warmup)
    return [
        _report(
            path,
            interpreter,
            1000 * np.asarray(seconds[index]),
            threads=num_threads,
            repetitions=repetitions,
            warmup=warmup,
        )
        for index, (path, interpreter) in enumerate(zip(paths, interpreters, strict=True))
    ]


def inference_call(interpreter):
    """A function without arguments that runs an interpreter once, on seeded random numbers."""
    random = np.random.default_rng(0)
    for entry in interpreter.get_input_details():
        values = random.uniform(0, 127, entry["shape"])
        interpreter.set_tensor(entry["index"], values.astype(entry["dtype"]))
    return functools.partial(runtime.invoke, interpreter)


def _report(path, interpreter, times, **settings):
    low, quarter, median, three_quarters, high = np.percentile(times, (10, 25, 50, 75, 90)).tolist()
    data = pathlib.Path(path).read_bytes()
    delegates, outside = delegated(interpreter)
    return BenchmarkReport(
        path=str(path),
        file_bytes=len(data),
        median_ms=median,
        percentile_10_ms=low,
        percentile_90_ms=high,
        spread_ms=three_quarters - quarter,
        weight_bytes=sum(graph.constant_bytes(graph.read_graph(data)).values()),
        delegates=delegates,
        outside=outside,
        peak_memory_bytes=_peak_memory(path, settings["threads"]),
        **settings,
    )


def _peak_memory(path, num_threads):
    """What `memory_probe` prints in a process of its own, or `None` where it cannot be known."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    command = [sys.executable, memory_probe.__file__, str(path), str(num_threads)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"The memory of {path} cannot be measured: {result.stderr.strip()[-500:]}")
    return int(result.stdout)
