"""What TFLite files cost on this machine: time for one picture, memory, bytes."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from keras_sharenets import _checks
from keras_sharenets.mobile.inspect import contents as graph
from keras_sharenets.mobile.inspect import interpreter as runtime
from keras_sharenets.mobile.inspect import memory_probe
from keras_sharenets.mobile.inspect.delegates import delegated


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
    _checks.positive("repetitions", repetitions)
    if warmup != 0:
        _checks.positive("warmup", warmup)
    interpreters = [with_random_inputs(runtime.open_tflite(path, num_threads)) for path in paths]
    for interpreter in interpreters:
        _invoke(interpreter, warmup)
    times = take_turns(interpreters, repetitions)
    return [
        _report(path, interpreter, of_file, threads=num_threads, repetitions=repetitions, warmup=warmup)
        for path, interpreter, of_file in zip(paths, interpreters, times, strict=True)
    ]


def with_random_inputs(interpreter):
    """The interpreter, seeded random numbers at its inputs."""
    random = np.random.default_rng(0)
    for entry in interpreter.get_input_details():
        values = random.uniform(0, 127, entry["shape"])
        interpreter.set_tensor(entry["index"], values.astype(entry["dtype"]))
    return interpreter


def _invoke(interpreter, times):
    for _ in range(times):
        runtime.invoke(interpreter)


def take_turns(interpreters, repetitions):
    """Milliseconds of `repetitions` inferences of each, as a list of lists."""
    times = [[] for _ in interpreters]
    for _ in range(repetitions):
        for interpreter, of_file in zip(interpreters, times, strict=True):
            _invoke(interpreter, 1 if len(interpreters) > 1 else 0)
            start = time.perf_counter()
            runtime.invoke(interpreter)
            of_file.append(1000 * (time.perf_counter() - start))
    return times


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
