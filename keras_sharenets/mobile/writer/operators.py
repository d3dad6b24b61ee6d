"""Helpers for writing operators of a TFLite file: options, intermediate tensors, and copied operators.

`Tensors` determines the representation of values and constants in the file (float, or integers with a scale).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, Operation, Value
from keras_sharenets.mobile.inspect.file import OPERATORS, TYPES
from keras_sharenets.mobile.writer.flatbuffer import schema

_FUSED = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}

# Fields of the subgraphs that an operator runs.
_INNER = ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex")


class Tensors:
    """The tensors of an output file for the values and constants of an inference graph.

    Subclasses determine the representation of values, kernels, scales and biases in their file format. `axis` is the
    filter axis of a kernel in the layout of the file.
    """

    any_number_of_images = False  # Whether the batch size is free; otherwise it is 1.

    def __init__(self, writer: Any) -> None:
        self.writer = writer  # A `flatbuffer.FileWriter`.
        self._values = {}

    def value(self, value: Value) -> int:
        """The number of a value's tensor, which the first call creates."""
        if value.number not in self._values:
            self._values[value.number] = self.like(value, value.shape)
        return self._values[value.number]

    def input(self, value: Value) -> int:
        """The number of the tensor to which a program writes a value."""
        return self.value(value)

    def output(self, value: Value) -> int:
        """The number of the tensor from which a program reads a value."""
        return self.value(value)

    def bind(self, value: Value, tensor: int) -> None:
        """Assigns an existing tensor to a value."""
        self._values[value.number] = tensor

    def like(self, value: Value, shape: tuple[int, ...], *, name: str | None = None) -> int:
        """A new tensor with the type and scale of a value; pass a `name` if it is not an output of the layer."""
        raise NotImplementedError

    def kernel(self, operation: Operation, kernel: Constant, array: np.ndarray, axis: int) -> int:
        """The operation's kernel; `array` is in the layout of the file."""
        raise NotImplementedError

    def is_clipped(self, value: Value, activation: str | None) -> bool:
        """Whether the tensor of a value cannot hold numbers that an activation would change."""
        return activation is None

    def constant(self, value: Value, array: np.ndarray) -> int:
        """A value that is the same for all images, as a tensor with the type and scale of other values."""
        raise NotImplementedError

    def real(self, value: Value) -> int:
        """The number of a float32 tensor with a value, for operators that always compute in float."""
        raise NotImplementedError

    def give_real(self, value: Value, tensor: int) -> None:
        """Assigns an existing float32 tensor to a value."""
        raise NotImplementedError

    def real_constant(self, array: np.ndarray) -> int:
        """A constant of operators that always compute in float."""
        raise NotImplementedError

    def scale(self, operation: Operation, scale: np.ndarray) -> int:
        """The operation's scale as the kernel of a depthwise convolution of one pixel."""
        raise NotImplementedError

    def bias(self, operation: Operation) -> int:
        """The operation's bias, or zeros if it has none, because runtimes expect one."""
        bias = operation.bias
        return self.zeros(operation, operation.output.shape[-1]) if bias is None else self._bias(operation, bias)

    def zeros(self, operation: Operation, filters: int) -> int:
        """A bias of `filters` zeros."""
        return self._bias(operation, np.zeros(filters, "float32"))

    def _bias(self, operation, numbers):
        raise NotImplementedError


def add_operator(tensors: Tensors, name: str, inputs: list[int], output: int, options: Any = None) -> None:
    """Adds an operator with one output."""
    tensors.writer.operator(name, inputs, [output], options)


def integers(tensors: Tensors, values: Any) -> int:
    """The number of an integer constant, such as a shape or a permutation."""
    array = np.asarray(values, "int32")
    return tensors.writer.tensor(array.shape, "int32", constant=array, name="d")


def add_plain(tensors: Tensors, name: str, operation: Operation, options: Any = None, *constants: Any) -> None:
    """Adds an operator from the inputs of an operation, followed by integer constants, to its output."""
    inputs = [tensors.value(value) for value in operation.inputs]
    inputs += [integers(tensors, values) for values in constants]
    add_operator(tensors, name, inputs, tensors.value(operation.output), options)


def options_of(kind: str, **fields: Any) -> Any:
    """Options of an operator, such as `Conv2DOptionsT` for the kind `"Conv2D"`."""
    options = getattr(schema, f"{kind}OptionsT")()
    for name, value in fields.items():
        setattr(options, name, value)
    return options


def window_options(kind: str, operation: Operation, **fields: Any) -> Any:
    """Options with the strides, padding, dilation and activation of an operation, if present."""
    fields["fusedActivationFunction"] = _FUSED[operation.activation]
    if "strides" in operation.attributes:
        fields["strideH"], fields["strideW"] = operation.attributes["strides"]
        fields["padding"] = _PADDING[operation.attributes["padding"]]
    if "dilation" in operation.attributes:
        fields["dilationHFactor"], fields["dilationWFactor"] = operation.attributes["dilation"]
    return options_of(kind, **fields)


def reshape_to(tensors: Tensors, source: int, target: int, shape: tuple[int, ...], free: int = 0) -> None:
    """Adds a reshape; if the batch size is free, the size of the axis `free` is inferred."""
    if tensors.any_number_of_images:
        shape = tuple(-1 if axis == free else side for axis, side in enumerate(shape))
    # The shape is also a constant input, because some runtimes read only that.
    options = options_of("Reshape", newShape=list(shape))
    add_operator(tensors, "RESHAPE", [source, integers(tensors, shape)], target, options)


def transposed(
    tensors: Tensors,
    source: int,
    value: Value,
    before: tuple[int, ...],
    order: tuple[int, ...],
    after: tuple[int, ...],
    free: int = 0,
) -> int:
    """Reshapes the tensor `source`, of the type of `value`, to a table, transposes it, and reshapes the result.

    `free` is the axis of the table that grows with the batch size.
    """
    table = tensors.like(value, before, name="t")
    reshape_to(tensors, source, table, before, free)
    turned_shape = tuple(before[axis] for axis in order)
    turned = tensors.like(value, turned_shape, name=None if after == turned_shape else "t")
    add_operator(tensors, "TRANSPOSE", [table, integers(tensors, order)], turned, options_of("Transpose"))
    if after == turned_shape:
        return turned
    result = tensors.like(value, after)
    reshape_to(tensors, turned, result, after)
    return result


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
        name = OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
        writer.operator(name, inputs, [numbers[index] for index in operator.outputs.tolist()], options, code.version)
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
