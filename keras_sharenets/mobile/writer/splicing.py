"""The operators of another TFLite file, put into the one that is written."""

from __future__ import annotations

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation
from keras_sharenets.mobile.inspect.file import TYPES
from keras_sharenets.mobile.writer.flatbuffer import schema
from keras_sharenets.mobile.writer.operators import Tensors

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def splice(tensors: Tensors, operation: Operation) -> None:
    """Adds the operators of a `"converted"` operation, which compute in float whatever the file computes in."""
    model = schema.ModelT.InitFromPackedBuf(operation.attributes["program"].data, 0)
    (graph,) = model.subgraphs
    numbers = {-1: -1}
    numbers.update(zip(graph.inputs.tolist(), map(tensors.real, operation.inputs), strict=True))

    def number_of(index, *, computed=False, name=None):
        if index not in numbers:
            tensor = graph.tensors[index]
            shape, dtype = tuple(np.asarray(tensor.shape).ravel().tolist()), TYPES[tensor.type]
            if computed:
                numbers[index] = tensors.writer.tensor(shape, dtype, name=name)
            else:
                data = model.buffers[tensor.buffer].data
                contents = np.asarray([] if data is None else data, "uint8").tobytes()
                numbers[index] = tensors.real_constant(np.frombuffer(contents, dtype).reshape(shape))
        return numbers[index]

    (end,) = graph.outputs.tolist()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        inputs = [number_of(index) for index in operator.inputs.tolist()]
        outputs = [
            number_of(index, computed=True, name=None if index == end else "t") for index in operator.outputs.tolist()
        ]
        options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
        name = _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        tensors.writer.operator(name, code.version, inputs, outputs, options)
    tensors.give_real(operation.output, numbers[end])
