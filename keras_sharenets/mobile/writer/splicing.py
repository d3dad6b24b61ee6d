"""Copying the operators of another TFLite file into the output file."""

from __future__ import annotations

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation
from keras_sharenets.mobile.inspect.file import TYPES
from keras_sharenets.mobile.writer.flatbuffer import schema
from keras_sharenets.mobile.writer.operators import Tensors

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


# Fields of the subgraphs that an operator runs.
_INNER = ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex")


def splice(tensors: Tensors, operation: Operation) -> None:
    """Adds the operators of a `"converted"` operation, which compute in float in every file."""
    model = schema.ModelT.InitFromPackedBuf(operation.attributes["program"].data, 0)
    graph = model.subgraphs[0]
    numbers = dict(zip(graph.inputs.tolist(), map(tensors.real, operation.inputs), strict=True))
    (end,) = _copy(tensors.writer, model, graph, numbers, tensors.real_constant)
    tensors.give_real(operation.output, end)


def _copy(writer, model, graph, numbers, constant):
    """Adds the operators of a graph.

    Args:
        writer: the `FileWriter`.
        model: the model that contains the graph.
        graph: the graph.
        numbers: tensor numbers in the file by input index.
        constant: function that adds an array as a constant and returns its number in the file.

    Returns:
        The numbers of its outputs.
    """
    numbers = {-1: -1, **numbers}

    def read(index):
        if index not in numbers:
            tensor = graph.tensors[index]
            data = model.buffers[tensor.buffer].data
            contents = np.asarray([] if data is None else data, "uint8").tobytes()
            numbers[index] = constant(np.frombuffer(contents, TYPES[tensor.type]).reshape(_shape(tensor)))
        return numbers[index]

    for operator in graph.operators:
        inputs = [read(index) for index in operator.inputs.tolist()]
        options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
        for name in _INNER:
            if hasattr(options, name):
                setattr(options, name, _copy_inner(writer, model, model.subgraphs[getattr(options, name)]))
        for index in operator.outputs.tolist():
            tensor, name = graph.tensors[index], None if index in graph.outputs else "t"
            numbers[index] = _computed(writer, tensor, name)
        code = model.operatorCodes[operator.opcodeIndex]
        name = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        writer.operator(name, code.version, inputs, [numbers[index] for index in operator.outputs.tolist()], options)
    return [read(index) for index in graph.outputs.tolist()]


def _copy_inner(writer, model, graph):
    """Adds a subgraph that an operator runs, and returns its number."""

    def fill():
        ends = {index: graph.tensors[index] for index in graph.inputs.tolist()}
        numbers = {index: _computed(writer, end, "t") for index, end in ends.items()}
        outputs = _copy(
            writer, model, graph, numbers, lambda array: writer.tensor(array.shape, array.dtype.name, constant=array)
        )
        return list(numbers.values()), outputs

    return writer.inner_graph(fill)


def _computed(writer, tensor, name):
    """A copy of a computed tensor."""
    return writer.tensor(_shape(tensor), TYPES[tensor.type], name=name, signature=tensor.shapeSignature)


def _shape(tensor):
    return () if tensor.shape is None else tuple(np.asarray(tensor.shape).ravel().tolist())
