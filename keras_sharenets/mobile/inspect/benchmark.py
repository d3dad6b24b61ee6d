"""Benchmarks of TFLite files on this machine: latency, also per operator, memory, and size."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_sharenets import timing
from keras_sharenets.mobile.inspect import file, memory_probe


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """Benchmark of one TFLite file.

    Attributes:
        path: path of the file, as given.
        file_bytes: size of the file.
        threads: threads of the interpreter.
        repetitions: measured inferences.
        median_ms: median time in milliseconds.
        percentile_10_ms, percentile_90_ms: 10th and 90th percentile.
        spread_ms: interquartile range.
        warmup: unmeasured inferences before the measured ones.
        weight_bytes: bytes of all constants, each buffer once.
        delegate_partitions: number of graph partitions that the runtime's delegates run; 1 is best.
        undelegated_operators: operators that no delegate runs, each with its count.
        peak_memory_bytes: peak growth of the resident memory of a new process, from before it opens the
            memory-mapped file until after ten inferences. It includes the parts of the runtime that are first used
            then, but not the Python interpreter and the imports. `None` on systems without `/proc`.
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
    delegate_partitions: int
    undelegated_operators: dict[str, int]
    peak_memory_bytes: int | None

    @property
    def unsteady(self) -> bool:
        """Whether the machine was busy with other work (`timing.Timing`)."""
        return timing.Timing(self.median_ms, self.spread_ms).unsteady

    @property
    def delegates(self) -> int:
        """Former name of `delegate_partitions`."""
        return self.delegate_partitions


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """All operators of one kind in a file.

    Attributes:
        name: the kind, such as `"CONV_2D"`.
        count: how often it occurs.
        milliseconds: sum of the median times of these operators, each measured separately.
    """

    name: str
    count: int
    milliseconds: float


def benchmark_tflite(
    path: str | os.PathLike, *, num_threads: int = 1, repetitions: int = 50, warmup: int = 5
) -> BenchmarkReport:
    """Benchmarks a TFLite file in the LiteRT interpreter on this machine.

    Only the inference itself is timed, on one seeded random input that is set beforehand.

    Args:
        path: path of the TFLite file.
        num_threads: threads of the interpreter.
        repetitions: inferences to measure.
        warmup: unmeasured inferences before that; the first ones are slower, because they load memory.

    Returns:
        A `BenchmarkReport`.

    Raises:
        ValueError: the file cannot be used (see `inspect.file.open_tflite`), or an argument is not a positive integer
            (`warmup` may also be 0).
    """
    return compare_tflite([path], num_threads=num_threads, repetitions=repetitions, warmup=warmup)[0]


def compare_tflite(
    paths: Sequence[str | os.PathLike], *, num_threads: int = 1, repetitions: int = 50, warmup: int = 5
) -> list[BenchmarkReport]:
    """Benchmarks several TFLite files as `benchmark_tflite` does one, with interleaved inferences.

    The speed of a machine varies over time; interleaving exposes all files to the same variation. With several files,
    each measured inference follows an unmeasured one of the same file, because the file that ran before has filled the
    caches.

    Args:
        paths: TFLite files.
        num_threads, repetitions, warmup: as for `benchmark_tflite`, for each file.

    Returns:
        A list of `BenchmarkReport`, in the order of `paths`.

    Raises:
        ValueError: as for `benchmark_tflite`, or `paths` is not a sequence of at least one file.
    """
    if isinstance(paths, (str, os.PathLike)) or not len(paths):
        raise ValueError(f"`paths` (={paths!r}) must be a sequence of at least one file.")
    interpreters = [file.open_tflite(path, num_threads=num_threads) for path in paths]
    calls = dict(enumerate(map(inference_call, interpreters)))
    seconds = timing.take_turns(calls, repetitions, warmup=warmup)
    settings = {"threads": num_threads, "repetitions": repetitions, "warmup": warmup}
    return [
        _report(path, interpreter, 1000 * np.asarray(seconds[index]), **settings)
        for index, (path, interpreter) in enumerate(zip(paths, interpreters, strict=True))
    ]


def inference_call(interpreter: Interpreter) -> Callable[[], None]:
    """Returns a function without arguments that runs an interpreter once, on seeded random numbers.

    The numbers are zeros if a file rejects others, as an embedding rejects indices outside its table.
    """
    random = np.random.default_rng(0)

    def fill(most):
        for entry in interpreter.get_input_details():
            values = random.uniform(0, most, entry["shape"])
            interpreter.set_tensor(entry["index"], values.astype(entry["dtype"]))

    fill(127)
    try:
        file.invoke(interpreter)
    except ValueError:
        fill(0)
    return functools.partial(file.invoke, interpreter)


def _report(path, interpreter, times, **settings):
    low, quarter, median, three_quarters, high = np.percentile(times, (10, 25, 50, 75, 90)).tolist()
    data = file.read_bytes(path)
    partitions, undelegated = delegation(interpreter)
    return BenchmarkReport(
        path=str(path),
        file_bytes=len(data),
        median_ms=median,
        percentile_10_ms=low,
        percentile_90_ms=high,
        spread_ms=three_quarters - quarter,
        weight_bytes=sum(file.constant_bytes(file.parse(data)).values()),
        delegate_partitions=partitions,
        undelegated_operators=undelegated,
        peak_memory_bytes=_peak_memory(path, settings["threads"]),
        **settings,
    )


def delegation(interpreter: Interpreter) -> tuple[int, dict[str, int]]:
    """How a graph is divided between delegates and the runtime's own operators.

    Args:
        interpreter: LiteRT interpreter with allocated tensors.

    Returns:
        `(number of delegate partitions, {name of an undelegated operator: count})`.
    """
    # The runtime keeps the operators that a delegate replaces in its list and appends the delegate, for which it only
    # reports inputs and outputs: the operators between those are inside.
    operators = interpreter._get_ops_details()
    partitions = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    own = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    producers = {output: operator for operator in own for output in operator["outputs"].tolist()}
    inside = set()
    for partition in partitions:
        known, open_ends = set(partition["inputs"].tolist()), partition["outputs"].tolist()
        while open_ends:
            tensor = open_ends.pop()
            if tensor in producers and tensor not in known:
                known.add(tensor)
                inside.add(producers[tensor]["index"])
                open_ends += producers[tensor]["inputs"].tolist()
    undelegated = (operator["op_name"] for operator in own if operator["index"] not in inside)
    return len(partitions), dict(collections.Counter(undelegated).most_common())


def _peak_memory(path, num_threads):
    """Output of `memory_probe`, run in a new process, or `None` where it cannot be measured."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    command = [sys.executable, memory_probe.__file__, str(path), str(num_threads)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"The memory of {path} cannot be measured: {result.stderr.strip()[-500:]}")
    return int(result.stdout)


def operator_times(
    path: str | os.PathLike, *, num_threads: int = 1, repetitions: int = 30, warmup: int = 3
) -> list[OperatorTime]:
    """Measures each operator of a TFLite file separately, on random inputs, with interleaved runs.

    The Python interface of LiteRT has no profiler. Each operator is therefore extracted with its constants into a file
    of its own; operators of the same kind and shape are measured once. An isolated operator has its inputs in the cache
    and its own runtime overhead, so the sum is not the latency of the file: read the times as shares.

    Args:
        path: path of the TFLite file.
        num_threads, repetitions, warmup: as for `benchmark_tflite`, for each operator.

    Returns:
        A list of `OperatorTime`, the most expensive first.

    Raises:
        ValueError: as for `benchmark_tflite`.
    """
    file.open_tflite(path, num_threads=num_threads)  # Raises an error for unusable files.
    data = file.read_bytes(path)
    whole: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    names = [name for name, _, _ in file.operators(file.parse(data))]
    keys = [_key(whole, operator) for operator in whole.subgraphs[0].operators]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    calls = {}
    for key, place in first.items():
        calls[key] = inference_call(_single_operator(whole, place, f"{names[place]} of {path}", num_threads))
    seconds = timing.take_turns(calls, repetitions, warmup=warmup)
    of_key = {key: 1000 * float(np.median(times)) for key, times in seconds.items()}
    totals = dict.fromkeys(names, 0.0)
    for name, key in zip(names, keys, strict=True):
        totals[name] += of_key[key]
    times = (OperatorTime(name, names.count(name), total) for name, total in totals.items())
    return sorted(times, key=lambda time: -time.milliseconds)


def _key(whole, operator):
    """Key of operators with equal cost: kind, options, shapes, and constants other than weights."""
    tensors = whole.subgraphs[0].tensors
    described = []
    for index in (*operator.inputs, *operator.outputs):
        if index >= 0:
            tensor = tensors[index]
            data = whole.buffers[tensor.buffer].data
            table = bytes(data) if data is not None and tensor.type == schema.TensorType.INT32 else b""
            small = table if len(table) <= 64 else b""
            described.append((tuple(tensor.shape), tensor.type, data is None, small))
    options = operator.builtinOptions
    values = sorted((name, str(value)) for name, value in vars(options).items()) if options is not None else ()
    return operator.opcodeIndex, tuple(values), tuple(described)


def _single_operator(whole, place, name, num_threads):
    """An interpreter for a file that contains only this operator."""
    operator = whole.subgraphs[0].operators[place]
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    # The subgraphs of a loop refer to buffers and kinds by number.
    others = whole.subgraphs[1:] if any(name.endswith("SubgraphIndex") for name in options) else []
    buffers, tensors, numbers, inputs = list(whole.buffers) if others else [schema.BufferT()], [], {}, []

    def number(index):
        if index < 0:
            return -1
        if index not in numbers:
            tensor = schema.TensorT(**vars(whole.subgraphs[0].tensors[index]))
            data = whole.buffers[tensor.buffer].data
            numbers[index] = len(tensors)
            tensor.buffer = 0
            if data is not None:
                tensor.buffer = len(buffers)
                buffers.append(schema.BufferT(data=data))
            elif index not in operator.outputs:
                inputs.append(numbers[index])
            tensors.append(tensor)
        return numbers[index]

    single = schema.OperatorT(**vars(operator))
    single.opcodeIndex = operator.opcodeIndex if others else 0
    single.inputs, single.outputs = ([number(index) for index in ends] for ends in (operator.inputs, operator.outputs))
    subgraph = schema.SubGraphT(tensors=tensors, inputs=inputs, outputs=single.outputs, operators=[single])
    codes = whole.operatorCodes if others else [whole.operatorCodes[operator.opcodeIndex]]
    model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=[subgraph, *others], buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=file.IDENTIFIER)
    return file.open_bytes(bytes(builder.Output()), name, num_threads=num_threads)
