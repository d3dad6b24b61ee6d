"""Helpers for writing operators of a TFLite file: versions, options, and intermediate tensors.

`Tensors` determines the representation of values and constants in the file (float, or integers with a scale).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, Operation, Value
from keras_sharenets.mobile.writer.flatbuffer import schema

# The first version of each operator that supports the features used here.
_VERSIONS = {
    "ABS": {"float32": 1, "int8": 2},
    "ADD": {"float32": 1, "int8": 2},
    "AVERAGE_POOL_2D": {"float32": 1, "int8": 2},
    "BATCH_MATMUL": {"float32": 1, "int8": 2},
    "CONCATENATION": {"float32": 1, "int8": 2},
    "CONV_2D": {"float32": 1, "int8": 3},
    "DEPTHWISE_CONV_2D": {"float32": 1, "int8": 3},
    "ELU": {"float32": 1, "int8": 1},
    "EXP": {"float32": 1, "int8": 2},
    "FULLY_CONNECTED": {"float32": 1, "int8": 4},
    "GATHER": {"float32": 1, "int8": 2},
    "GELU": {"float32": 1, "int8": 2},
    "HARD_SWISH": {"float32": 1, "int8": 1},
    "L2_NORMALIZATION": {"float32": 1, "int8": 2},
    "LEAKY_RELU": {"float32": 1, "int8": 2},
    "LOG": {"float32": 1, "int8": 2},
    "LOGISTIC": {"float32": 1, "int8": 2},
    "MAX_POOL_2D": {"float32": 1, "int8": 2},
    "MAXIMUM": {"float32": 1, "int8": 2},
    "MEAN": {"float32": 1, "int8": 2},
    "MINIMUM": {"float32": 1, "int8": 2},
    "MIRROR_PAD": {"float32": 1, "int8": 2},
    "MUL": {"float32": 1, "int8": 2},
    "PAD": {"float32": 1, "int8": 2},
    "PRELU": {"float32": 1, "int8": 1},
    "REDUCE_MAX": {"float32": 1, "int8": 2},
    "REDUCE_MIN": {"float32": 1, "int8": 2},
    "RELU": {"float32": 1, "int8": 2},
    "RELU6": {"float32": 1, "int8": 2},
    "RESHAPE": {"float32": 1, "int8": 1},
    "RESIZE_BILINEAR": {"float32": 3, "int8": 3},
    "RESIZE_NEAREST_NEIGHBOR": {"float32": 3, "int8": 3},
    "RSQRT": {"float32": 1, "int8": 2},
    "SLICE": {"float32": 1, "int8": 2},
    "SOFTMAX": {"float32": 1, "int8": 2},
    "SQRT": {"float32": 1, "int8": 2},
    "SUB": {"float32": 1, "int8": 2},
    "TANH": {"float32": 1, "int8": 2},
    "TRANSPOSE": {"float32": 1, "int8": 2},
    "TRANSPOSE_CONV": {"float32": 3, "int8": 3},
}
_FUSED = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


class Tensors:
    """The tensors of an output file for the values and constants of an inference graph.

    Subclasses determine the representation of values, kernels, scales and biases in their file format. `axis` is the
    filter axis of a kernel in the layout of the file.
    """

    version: str  # Of operators: "float32" or "int8".
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


def add_operator(
    tensors: Tensors, name: str, inputs: list[int], output: int, options: Any = None, version: int | None = None
) -> None:
    """Adds an operator with one output, in the version for the file's data type unless `version` is given."""
    tensors.writer.operator(name, version or _VERSIONS[name][tensors.version], inputs, [output], options)


def integers(tensors: Tensors, values: Any) -> int:
    """The number of an integer constant, such as a shape or a permutation."""
    array = np.asarray(values, "int32")
    return tensors.writer.tensor(array.shape, "int32", constant=array, name="d")


def inputs_of(tensors: Tensors, operation: Operation) -> list[int]:
    """The numbers of an operation's input tensors."""
    return [tensors.value(value) for value in operation.inputs]


def options_of(kind: str, operation: Operation, **more: Any) -> Any:
    """Options with the strides, padding, dilation and activation of an operation, if present."""
    options = getattr(schema, f"{kind}OptionsT")()
    options.fusedActivationFunction = _FUSED[operation.activation]
    if "strides" in operation.attributes:
        options.strideH, options.strideW = operation.attributes["strides"]
        options.padding = _PADDING[operation.attributes["padding"]]
    if "dilation" in operation.attributes:
        options.dilationHFactor, options.dilationWFactor = operation.attributes["dilation"]
    for name, value in more.items():
        setattr(options, name, value)
    return options


def reshape_to(tensors: Tensors, source: int, target: int, shape: tuple[int, ...], free: int = 0) -> None:
    """Adds a reshape; if the batch size is free, the size of the axis `free` is inferred."""
    if tensors.any_number_of_images:
        shape = tuple(-1 if axis == free else side for axis, side in enumerate(shape))
    # The shape is also a constant input, because some runtimes read only that.
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
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
    add_operator(tensors, "TRANSPOSE", [table, integers(tensors, order)], turned, schema.TransposeOptionsT())
    if after == turned_shape:
        return turned
    result = tensors.like(value, after)
    reshape_to(tensors, turned, result, after)
    return result
