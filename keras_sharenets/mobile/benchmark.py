"""How long a TFLite file takes for one picture."""

import dataclasses
import pathlib
import time

import numpy as np

from keras_sharenets import _checks
from keras_sharenets.mobile import interpreter as runtime


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """Times of one inference of a TFLite file.

    Attributes:
        path: the file, as it was given.
        file_bytes: its size.
        threads: threads of the interpreter.
        repetitions: inferences measured.
        median_ms: median time in milliseconds.
        percentile_10_ms, percentile_90_ms: a tenth of the inferences was faster, or slower, than this.
    """

    path: str
    file_bytes: int
    threads: int
    repetitions: int
    median_ms: float
    percentile_10_ms: float
    percentile_90_ms: float


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
        ValueError: the file cannot be used (see `open_tflite`), or an argument is not a positive whole number (`warmup`
            may be 0).
    """
    _checks.positive("repetitions", repetitions)
    if warmup != 0:
        _checks.positive("warmup", warmup)
    interpreter = runtime.open_tflite(path, num_threads)
    random = np.random.default_rng(0)
    for entry in interpreter.get_input_details():
        values = random.uniform(0, 127, entry["shape"])
        interpreter.set_tensor(entry["index"], values.astype(entry["dtype"]))
    for _ in range(warmup):
        runtime.invoke(interpreter)
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        runtime.invoke(interpreter)
        times.append(1000 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, (10, 50, 90)).tolist()
    return BenchmarkReport(
        path=str(path),
        file_bytes=pathlib.Path(path).stat().st_size,
        threads=num_threads,
        repetitions=repetitions,
        median_ms=median,
        percentile_10_ms=low,
        percentile_90_ms=high,
    )
