"""Where the time of a TFLite file goes: every operator measured alone, cut out of the file."""

import collections
import dataclasses
import pathlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_sharenets import timing
from keras_sharenets.mobile.inspect import contents as graph
from keras_sharenets.mobile.inspect import interpreter
from keras_sharenets.mobile.inspect.benchmark import inference_call


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """All operators of one kind in a file.

    Attributes:
        name: str, the kind, such as `"CONV_2D"`.
        count: int, how often it occurs.
        milliseconds: float, the median times of all of them, each measured alone, added up.
    """

    name: str
    count: int
    milliseconds: float


def operator_times(path, num_threads=1, repetitions=30, warmup=3):
    """Measures each operator of a TFLite file alone, on random inputs, all of them in turns.

    The Python interface of LiteRT has no profiler. So each operator is cut out with its constants and becomes a file of
    its own; operators of one shape and kind are measured once. Alone an operator has its inputs at hand and starts the
    runtime for itself, so the sum is not the time of the whole file: take the figures as shares.

    Args:
        path: the TFLite file.
        num_threads, repetitions, warmup: as for `benchmark_tflite`, for each operator.

    Returns:
        A list of `OperatorTime`, the most expensive first.

    Raises:
        ValueError: as for `benchmark_tflite`.
    """
    interpreter.open_tflite(path, num_threads)  # Refuses what is no file for the runtime.
    whole = schema.ModelT.InitFromPackedBuf(pathlib.Path(path).read_bytes(), 0)
    names = [name for name, _, _ in graph.operators(graph.read_graph(pathlib.Path(path).read_bytes()))]
    keys = [_key(whole, operator) for operator in whole.subgraphs[0].operators]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    calls = {}
    for key, place in first.items():
        calls[key] = inference_call(_alone(whole, place, f"{names[place]} of {path}", num_threads))
    seconds = timing.take_turns(calls, repetitions, warmup=warmup)
    of_key = {key: 1000 * float(np.median(times)) for key, times in seconds.items()}
    counts, totals = collections.Counter(names), collections.Counter()
    for name, key in zip(names, keys, strict=True):
        totals[name] += of_key[key]
    return [OperatorTime(name, counts[name], total) for name, total in totals.most_common()]


def _key(whole, operator):
    """What makes two operators cost the same: kind, options, shapes, and constants that are no weights."""
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


def _alone(whole, place, name, num_threads):
    """An interpreter for a file with this one operator."""
    operator = whole.subgraphs[0].operators[place]
    buffers, tensors, numbers, inputs = [schema.BufferT()], [], {}, []

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
    single.opcodeIndex = 0
    single.inputs, single.outputs = ([number(index) for index in ends] for ends in (operator.inputs, operator.outputs))
    subgraph = schema.SubGraphT(tensors=tensors, inputs=inputs, outputs=single.outputs, operators=[single])
    codes = [whole.operatorCodes[operator.opcodeIndex]]
    model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=[subgraph], buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=graph.IDENTIFIER)
    return interpreter.open_bytes(bytes(builder.Output()), name, num_threads=num_threads)
