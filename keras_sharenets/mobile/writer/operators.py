"""The operators of a TFLite file for each kind of operation of an inference graph.

What a value or a constant looks like in the file (float, or integers with a scale) is the business of `Tensors`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.mobile.graph.inference_graph import Constant, Operation, Value
from keras_sharenets.ops import permutations

# The first version of each operator that has what is written here.
_VERSIONS = {
    "ADD": {"float32": 1, "int8": 2},
    "AVERAGE_POOL_2D": {"float32": 1, "int8": 2},
    "CONCATENATION": {"float32": 1, "int8": 2},
    "CONV_2D": {"float32": 1, "int8": 3},
    "DEPTHWISE_CONV_2D": {"float32": 1, "int8": 3},
    "FULLY_CONNECTED": {"float32": 1, "int8": 4},
    "GATHER": {"float32": 1, "int8": 2},
    "LOGISTIC": {"float32": 1, "int8": 2},
    "MAX_POOL_2D": {"float32": 1, "int8": 2},
    "MAXIMUM": {"float32": 1, "int8": 2},
    "MEAN": {"float32": 1, "int8": 2},
    "MINIMUM": {"float32": 1, "int8": 2},
    "MIRROR_PAD": {"float32": 1, "int8": 2},
    "MUL": {"float32": 1, "int8": 2},
    "PAD": {"float32": 1, "int8": 2},
    "REDUCE_MAX": {"float32": 1, "int8": 2},
    "RELU": {"float32": 1, "int8": 2},
    "RELU6": {"float32": 1, "int8": 2},
    "RESHAPE": {"float32": 1, "int8": 1},
    "SLICE": {"float32": 1, "int8": 2},
    "SOFTMAX": {"float32": 1, "int8": 2},
    "SUB": {"float32": 1, "int8": 2},
    "TRANSPOSE": {"float32": 1, "int8": 2},
}
# The version of CONV_2D that has groups.
_GROUPED = 6
# Delegates concatenate so many tensors at a time.
_MOST_CONCATENATED = 5
_FUSED = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


class Tensors:
    """The tensors of a file that is written, for values and constants of an inference graph.

    A subclass says how a value, a kernel, a scale and a bias look in its file format. `axis` counts the filters of a
    kernel in the layout of the file.
    """

    version: str  # Of operators: "float32" or "int8".
    any_number_of_images = False  # Else one.

    def __init__(self, writer: Any) -> None:
        self.writer = writer  # A `flatbuffer.FileWriter`.
        self._values = {}

    def value(self, value: Value) -> int:
        """The number of a value's tensor, made at the first call."""
        if value.number not in self._values:
            self._values[value.number] = self.like(value, value.shape)
        return self._values[value.number]

    def input(self, value: Value) -> int:
        """The number of the tensor that a program writes a value to."""
        return self.value(value)

    def output(self, value: Value) -> int:
        """The number of the tensor that a program reads a value from."""
        return self.value(value)

    def bind(self, value: Value, tensor: int) -> None:
        """Makes a tensor that is there already that of a value."""
        self._values[value.number] = tensor

    def like(self, value: Value, shape: tuple[int, ...], *, name: str | None = None) -> int:
        """A new tensor with the type and scale of a value; a `name` if it is nothing that its layer gives."""
        raise NotImplementedError

    def kernel(self, operation: Operation, kernel: Constant, array: np.ndarray, axis: int) -> int:
        """The operation's kernel; `array` has it in the layout of the file."""
        raise NotImplementedError

    def scale(self, operation: Operation, scale: np.ndarray) -> int:
        """The operation's scale as the kernel of a depthwise convolution of one pixel."""
        raise NotImplementedError

    def bias(self, operation: Operation) -> int:
        """The operation's bias; zeros if it has none, for runtimes want one."""
        bias = operation.bias
        return self.zeros(operation, operation.output.shape[-1]) if bias is None else self._bias(operation, bias)

    def zeros(self, operation: Operation, filters: int) -> int:
        """A bias of so many zeros."""
        return self._bias(operation, np.zeros(filters, "float32"))

    def _bias(self, operation, numbers):
        raise NotImplementedError


def write_operation(tensors: Tensors, operation: Operation) -> None:
    """Adds the operators of one operation to the file; the new tensors are named after its layer."""
    tensors.writer.layer = operation.name
    _KINDS[operation.kind](tensors, operation)


def _operator(tensors, name, inputs, output, options=None, version=None):
    tensors.writer.operator(name, version or _VERSIONS[name][tensors.version], inputs, [output], options)


def _integers(tensors, values):
    array = np.asarray(values, "int32")
    return tensors.writer.tensor(array.shape, "int32", constant=array, name="d")


def _inputs(tensors, operation):
    return [tensors.value(value) for value in operation.inputs]


def _options(kind, operation, **more):
    """Options with the stride, the padding and the activation of an operation, as far as it has them."""
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


def _reshape_to(tensors, source, target, shape, free=0):
    """Another shape; along the axis `free` it is as long as the number of images makes it, if there can be several."""
    if tensors.any_number_of_images:
        shape = tuple(-1 if axis == free else side for axis, side in enumerate(shape))
    # The shape is a constant input too: some runtimes read only that.
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    _operator(tensors, "RESHAPE", [source, _integers(tensors, shape)], target, options)


def _transposed(tensors, source, value, before, order, after, free=0):
    """The tensor `source`, of the type of `value`, as a table, its axes in another order, and reshaped again.

    `free` is the axis of the table that the number of images makes longer.
    """
    table = tensors.like(value, before, name="t")
    _reshape_to(tensors, source, table, before, free)
    turned_shape = tuple(before[axis] for axis in order)
    turned = tensors.like(value, turned_shape, name=None if after == turned_shape else "t")
    _operator(tensors, "TRANSPOSE", [table, _integers(tensors, order)], turned, schema.TransposeOptionsT())
    if after == turned_shape:
        return turned
    result = tensors.like(value, after)
    _reshape_to(tensors, turned, result, after)
    return result


def _convolution_kernel(tensors, operation, axis):
    # Keras: (height, width, inputs, filters); the file: filters first.
    return tensors.kernel(operation, operation.kernel, operation.kernel.array.transpose(3, 0, 1, 2), axis)


def _conv(tensors, operation):
    kernel = _convolution_kernel(tensors, operation, axis=0)
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    version = _GROUPED if operation.attributes["groups"] > 1 else None
    _operator(tensors, "CONV_2D", inputs, tensors.value(operation.output), _options("Conv2D", operation), version)


def _shared_conv(tensors, operation):
    """The filter bank once, over a batch of all repeats: parts of the image's channels."""
    (source,), repeats = operation.inputs, operation.attributes["channel_repeats"]
    _, height, width, channels = source.shape
    table, batch = (height * width, repeats, channels // repeats), (repeats, height, width, channels // repeats)
    x = _transposed(tensors, tensors.value(source), source, table, (1, 0, 2), batch)
    kernel = _convolution_kernel(tensors, operation, axis=0)
    _, height, width, filters = operation.output.shape
    y = tensors.like(operation.output, (repeats, height, width, filters // repeats), name="t")
    inputs = [x, kernel, tensors.zeros(operation, filters // repeats)]
    version = _GROUPED if operation.attributes["groups"] > repeats else None
    _operator(tensors, "CONV_2D", inputs, y, _options("Conv2D", operation), version)
    table = (repeats, height * width, filters // repeats)
    y = _transposed(tensors, y, operation.output, table, (1, 0, 2), operation.output.shape, free=1)
    tensors.bind(operation.output, y)


def _depthwise(tensors, operation):
    kernel = _convolution_kernel(tensors, operation, axis=3)
    _depthwise_conv(tensors, operation, kernel, _options("DepthwiseConv2D", operation, depthMultiplier=1))


def _affine(tensors, operation):
    """A scale and a shift are a depthwise convolution of one pixel, which runtimes run with its activation.

    A vector, or a table, is an image for it.
    """
    options = _options("DepthwiseConv2D", operation, depthMultiplier=1, strideH=1, strideW=1)
    kernel, shape = tensors.scale(operation, operation.scale), operation.output.shape
    if len(shape) == 4:
        return _depthwise_conv(tensors, operation, kernel, options)
    (source,), image = operation.inputs, (1, 1, math.prod(shape[:-1]), shape[-1])
    x, y = (tensors.like(value, image, name="t") for value in (source, operation.output))
    _reshape_to(tensors, tensors.value(source), x, image)
    _operator(tensors, "DEPTHWISE_CONV_2D", [x, kernel, tensors.bias(operation)], y, options)
    _reshape_to(tensors, y, tensors.value(operation.output), shape)


def _depthwise_conv(tensors, operation, kernel, options):
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    _operator(tensors, "DEPTHWISE_CONV_2D", inputs, tensors.value(operation.output), options)


def _dense(tensors, operation):
    kernel = tensors.kernel(operation, operation.kernel, operation.kernel.array.T, axis=0)
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    options = _options("FullyConnected", operation)
    _operator(tensors, "FULLY_CONNECTED", inputs, tensors.value(operation.output), options)


def _plain(name, kind=None):
    """An operator that takes all inputs as they are; `kind` names its options, if they hold an activation."""

    def write(tensors, operation):
        options = None if kind is None else _options(kind, operation)
        _operator(tensors, name, _inputs(tensors, operation), tensors.value(operation.output), options)

    return write


def _pool(name):
    def write(tensors, operation):
        height, width = operation.attributes["pool_size"]
        options = _options("Pool2D", operation, filterHeight=height, filterWidth=width)
        _operator(tensors, name, _inputs(tensors, operation), tensors.value(operation.output), options)

    return write


def _concat(tensors, operation):
    """As many tensors at a time as delegates take."""
    *places, _ = operation.output.shape
    options = schema.ConcatenationOptionsT()
    options.axis, options.fusedActivationFunction = len(places), schema.ActivationFunctionType.NONE
    parts = [(tensors.value(value), value.shape[-1]) for value in operation.inputs]
    while len(parts) > _MOST_CONCATENATED:
        count = min(_MOST_CONCATENATED, len(parts) - _MOST_CONCATENATED + 1)
        width = sum(channels for _, channels in parts[:count])
        between = tensors.like(operation.output, (*places, width), name="t")
        _operator(tensors, "CONCATENATION", [tensor for tensor, _ in parts[:count]], between, options)
        parts = [(between, width), *parts[count:]]
    _operator(tensors, "CONCATENATION", [tensor for tensor, _ in parts], tensors.value(operation.output), options)


def _pad(tensors, operation):
    inputs = [*_inputs(tensors, operation), _integers(tensors, operation.attributes["paddings"])]
    name, options = "PAD", schema.PadOptionsT()
    if operation.attributes.get("mode") == "symmetric":
        name, options = "MIRROR_PAD", schema.MirrorPadOptionsT()
        options.mode = schema.MirrorPadMode.SYMMETRIC
    _operator(tensors, name, inputs, tensors.value(operation.output), options)


def _over_image(name):
    def write(tensors, operation):
        options = schema.ReducerOptionsT()
        options.keepDims = operation.attributes["keepdims"]
        inputs = [*_inputs(tensors, operation), _integers(tensors, (1, 2))]
        _operator(tensors, name, inputs, tensors.value(operation.output), options)

    return write


def _reshape(tensors, operation):
    source, target = tensors.value(operation.inputs[0]), tensors.value(operation.output)
    _reshape_to(tensors, source, target, operation.output.shape)


def _slice(tensors, operation):
    shape = operation.output.shape
    begin = [operation.attributes.get("row", 0), *[0] * (len(shape) - 2), operation.attributes["start"]]
    inputs = [*_inputs(tensors, operation), _integers(tensors, begin), _integers(tensors, shape)]
    _operator(tensors, "SLICE", inputs, tensors.value(operation.output), schema.SliceOptionsT())


def _stack(tensors, operation):
    """The groups of a strided channel shuffle are the columns of a table, which delegates transpose as a whole."""
    (source,), (groups, height, width, size) = operation.inputs, operation.output.shape
    table = (height * width, size, groups)
    stacked = _transposed(tensors, tensors.value(source), source, table, (2, 0, 1), operation.output.shape)
    tensors.bind(operation.output, stacked)


def _permute(tensors, operation):
    """A shuffle is a transposed table, which delegates run; any other order is a gather, which they do not."""
    indices, (source,) = operation.attributes["indices"], operation.inputs
    channels = len(indices)
    rows = next((rows for rows in range(2, channels) if _is_shuffle(indices, channels, rows)), None)
    if rows is None:
        options = schema.GatherOptionsT()
        options.axis = len(source.shape) - 1
        inputs = [tensors.value(source), _integers(tensors, indices)]
        _operator(tensors, "GATHER", inputs, tensors.value(operation.output), options)
        return
    table = (int(np.prod(source.shape[:-1])), rows, channels // rows)
    shuffled = _transposed(tensors, tensors.value(source), source, table, (0, 2, 1), operation.output.shape)
    tensors.bind(operation.output, shuffled)


def _is_shuffle(indices, channels, rows):
    return channels % rows == 0 and np.array_equal(indices, permutations.channel_shuffle(channels, rows))


def _identity(tensors, operation):
    _plain({"relu": "RELU", "relu6": "RELU6"}[operation.activation])(tensors, operation)


def _softmax(tensors, operation):
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    _operator(tensors, "SOFTMAX", _inputs(tensors, operation), tensors.value(operation.output), options)


_KINDS = {
    "conv": _conv,
    "shared_conv": _shared_conv,
    "depthwise": _depthwise,
    "affine": _affine,
    "dense": _dense,
    "add": _plain("ADD", "Add"),
    "subtract": _plain("SUB", "Sub"),
    "multiply": _plain("MUL", "Mul"),
    "maximum": _plain("MAXIMUM"),
    "minimum": _plain("MINIMUM"),
    "concat": _concat,
    "pad": _pad,
    "max_pool": _pool("MAX_POOL_2D"),
    "average_pool": _pool("AVERAGE_POOL_2D"),
    "mean": _over_image("MEAN"),
    "max": _over_image("REDUCE_MAX"),
    "reshape": _reshape,
    "slice": _slice,
    "stack": _stack,
    "permute": _permute,
    "softmax": _softmax,
    "sigmoid": _plain("LOGISTIC"),
    "identity": _identity,
}
