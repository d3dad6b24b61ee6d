"""The inference graph: the computation for one image as explicit operations.

`lowering.lower_calls` creates it from a trained Keras model, passes rewrite it, [`run_all`] evaluates it in float, and
the writer converts it to a file. A constant is one object however many operations use it; data that differ between
uses, such as the scale of a folded batch normalization, belong to the operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_sharenets.ops import kernels

# One call of a layer, `(name, use)`: use 0 is the first call.
CallSite = tuple[str, int]
# Whether the kernel of a call of a kernel-shared layer is materialized: fully expanded and stored for this call.
Materialize = Callable[[CallSite], bool]

# Batch size for running many examples.
BATCH = 32
PROBABILITIES = ("softmax", "sigmoid")
# Kinds that compute in float in integer files, too.
FLOAT = ("divide", "fill", "converted")
# A score whose softmax is 0 beside every other one.
EXCLUDED = np.float32(-1e9)
# The least magnitude of numbers that stand for missing values.
FAR = 1e4
# Elementwise functions of an operation and its input.
UNARY: dict[str, Callable[..., Any]] = {
    "sigmoid": lambda operation, x: ops.sigmoid(x),
    "tanh": lambda operation, x: ops.tanh(x),
    "elu": lambda operation, x: ops.elu(x),
    "gelu": lambda operation, x: ops.gelu(x, approximate=operation.attributes["approximate"]),
    "hard_sigmoid": lambda operation, x: ops.hard_sigmoid(x),
    "hard_swish": lambda operation, x: ops.hard_silu(x),
    "leaky_relu": lambda operation, x: ops.leaky_relu(x, operation.attributes["slope"]),
    "abs": lambda operation, x: ops.abs(x),
    "exp": lambda operation, x: ops.exp(x),
    "log": lambda operation, x: ops.log(x),
    "sqrt": lambda operation, x: ops.sqrt(x),
    "rsqrt": lambda operation, x: ops.rsqrt(x),
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A computed tensor: its number in the graph, and its shape, starting with the batch size 1."""

    number: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that the file stores once: name and float32 array in Keras layout."""

    name: str
    array: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One step: `activation(scale * linear(inputs; kernel) + bias)`, where `linear` is named by `kind`.

    Attributes:
        kind: `"conv"` (attributes strides, padding, groups and, if it is dilated, dilation), `"shared_conv"` (strides,
            padding, groups, channel_repeats; the kernel is one period of the repeated filters), `"conv_transpose"`
            (strides, padding), `"depthwise"` (strides, padding, dilation), `"dense"`, `"affine"` (only scale and bias),
            `"add"`, `"subtract"`, `"multiply"`, `"divide"`, `"maximum"` and `"minimum"` of two values that broadcast,
            `"matmul"` of the last two axes of two values, `"prelu"` of a value and its slopes, `"constant"` (constant)
            of none, `"concat"` of channels, `"join"` along another axis (axis), `"pad"` (paddings), `"max_pool"` and
            `"average_pool"` (pool_size, strides, padding), `"mean"`, `"max"` and `"min"` (keepdims and, if it is not
            over the image, axes), `"resize"` (mode), `"crop"` (start), `"transpose"` (order), `"reshape"`,
            `"softmax"` of vectors along the last axis (and, in attention, mask: true for the entries that count),
            `"l2_normalize"` likewise, `"slice"` and `"permute"` of channels (start and, out of a stack, row; indices),
            `"gather"` along an axis (axis, indices), `"where"` of two values (condition: true for the first), `"fill"`
            with numbers far outside the range of other values (numbers, condition: true where the value stays),
            `"stack"` of the groups of a strided channel shuffle along the batch axis (groups), `"identity"`, one of
            `UNARY` (`"hard_sigmoid"` only in integer files), and `"converted"` (program: result of TensorFlow's
            converter for a call; whole: whether its output is integers, such as indices; most: their largest possible
            value, if known; whole_inputs: the places of its inputs that are integers).
        name: str, name of the layer.
        use: int, 0 for the first call of the layer, 1 for the second.
        inputs, output: `Value`s.
        kernel: `Constant`, for kinds that have one.
        scale, bias: float32 vectors with one number per output channel, or `None` for 1 and 0.
        activation: `None`, `"relu"` or `"relu6"`.
        attributes: dict; a kernel's operation may also have one_scale: all its filters have one scale in an integer
            file.
    """

    kind: str
    name: str
    inputs: tuple[Value, ...]
    output: Value
    kernel: Constant | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    activation: str | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    use: int = 0

    @property
    def source(self) -> int:
        """The number of the first input value; -1 if it has no inputs."""
        return self.inputs[0].number if self.inputs else -1

    @property
    def site(self) -> CallSite:
        """The layer call from which this operation was lowered."""
        return self.name, self.use


@dataclasses.dataclass(frozen=True)
class InferenceGraph:
    """A network for one image: inputs, operations in order, and outputs.

    No output is an input, and no output occurs twice. `ranges` holds the ranges learned in quantization-aware training:
    `{value number: (minimum, maximum)}`.
    """

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Value, ...]
    ranges: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def values(self) -> tuple[Value, ...]:
        """The inputs, and what the operations compute, in order."""
        return *self.inputs, *(operation.output for operation in self.operations)

    def consumers(self) -> dict[int, list[Operation]]:
        """`{value number: operations that read it}`.

        Outputs of the graph are also read by an operation of the kind `"output"`, so that no pass removes or changes
        them.
        """
        readers = {}
        for operation in (*self.operations, *(Operation("output", "", (value,), value) for value in self.outputs)):
            for value in operation.inputs:
                readers.setdefault(value.number, []).append(operation)
        return readers

    def uses(self) -> dict[Constant, list[Operation]]:
        """`{kernel: operations that use it}`."""
        users = {}
        for operation in self.operations:
            if operation.kernel is not None:
                users.setdefault(operation.kernel, []).append(operation)
        return users

    def scores(self) -> tuple[Value, ...]:
        """For each output the value before a final softmax or sigmoid, or the output itself if there is none.

        The values before a softmax with a mask include those that do not count.
        """
        ends = (step for step in self.operations if step.kind in PROBABILITIES and "mask" not in step.attributes)
        before = {step.output.number: step.inputs[0] for step in ends}
        return tuple(before.get(output.number, output) for output in self.outputs)

    def next_number(self) -> int:
        """An unused value number."""
        return 1 + max(value.number for value in self.values())

    def with_operations(self, operations: Iterable[Operation]) -> InferenceGraph:
        """A copy of the graph with other operations."""
        return dataclasses.replace(self, operations=tuple(operations))

    def with_kernels(self, arrays: Mapping[Constant, np.ndarray]) -> InferenceGraph:
        """A copy of the graph with new arrays for some of its kernels, at all their uses."""
        new = {kernel: Constant(kernel.name, array.astype("float32")) for kernel, array in arrays.items()}
        return self.with_operations(
            dataclasses.replace(operation, kernel=new[operation.kernel]) if operation.kernel in new else operation
            for operation in self.operations
        )


def run_all(
    graph: InferenceGraph,
    inputs: Sequence[np.ndarray],
    *,
    watch: Callable[[Value, np.ndarray], None] | None = None,
    step: Callable[[Operation, Sequence[Any]], Any] | None = None,
) -> tuple[np.ndarray, ...]:
    """Evaluates an inference graph in float.

    Args:
        graph: `InferenceGraph`.
        inputs: an array `(n, ...)` for each input of the graph.
        watch: function `(value, array)` that receives every value, or `None`.
        step: function that computes an operation from its inputs; `None` is [`compute`].

    Returns:
        A float32 array `(n, ...)` for each output.
    """
    values = {
        value.number: ops.convert_to_tensor(np.asarray(array, "float32"))
        for value, array in zip(graph.inputs, inputs, strict=True)
    }
    remaining = {number: len(readers) for number, readers in graph.consumers().items()}
    if watch is not None:
        for value, array in zip(graph.inputs, inputs, strict=True):
            watch(value, array)
    for operation in graph.operations:
        result = (step or compute)(operation, [values[value.number] for value in operation.inputs])
        values[operation.output.number] = result
        if watch is not None:
            watch(operation.output, result)
        for value in operation.inputs:
            remaining[value.number] -= 1
            if not remaining[value.number]:  # Never true for an output.
                del values[value.number]
    return tuple(np.asarray(values[output.number]) for output in graph.outputs)


def compute(operation: Operation, inputs: Sequence[Any]) -> Any:
    """The output of one operation, as a tensor; `inputs` are tensors with any number of images."""
    result = _LINEAR[operation.kind](operation, *inputs)
    if operation.scale is not None:
        result = result * operation.scale
    if operation.bias is not None:
        result = result + operation.bias
    return {None: lambda x: x, "relu": ops.relu, "relu6": ops.relu6}[operation.activation](result)


def _kernel(operation):
    return ops.convert_to_tensor(operation.kernel.array)


def _window(operation):
    return {"strides": operation.attributes["strides"], "padding": operation.attributes["padding"]}


def _dilation(operation):
    return operation.attributes.get("dilation", (1, 1))


def _convolve(operation, x, kernel):
    # Not `keras.ops.conv`, which compiles every grouped convolution with XLA on a CPU.
    strides, padding = operation.attributes["strides"], operation.attributes["padding"].upper()
    return tf.nn.conv2d(x, kernel, strides, padding, dilations=_dilation(operation))


def _shared_conv(operation, x):
    return _convolve(operation, x, kernels.repeat(_kernel(operation), operation.attributes["channel_repeats"]))


def _depthwise(operation, x):
    window = {**_window(operation), "dilation_rate": _dilation(operation)}
    rows, columns = window["strides"]
    if rows != columns and window["padding"] == "valid":  # TensorFlow does not support unequal strides.
        return _depthwise_conv(operation, x, {**window, "strides": 1})[:, ::rows, ::columns]
    return _depthwise_conv(operation, x, window)


def _depthwise_conv(operation, x, window):
    return ops.depthwise_conv(x, _kernel(operation), data_format="channels_last", **window)


def _pool(function):
    def pool(operation, x):
        return function(x, operation.attributes["pool_size"], data_format="channels_last", **_window(operation))

    return pool


def _pad(operation, x):
    return ops.pad(x, operation.attributes["paddings"], mode=operation.attributes.get("mode", "constant"))


def _reduced(function):
    def reduced(operation, x):
        return function(x, axis=reduced_axes(operation), keepdims=operation.attributes["keepdims"])

    return reduced


def reduced_axes(operation: Operation) -> tuple[int, ...]:
    """The axes of a `"mean"`, `"max"` or `"min"`: by default height and width."""
    return operation.attributes.get("axes", (1, 2))


def _conv_transpose(operation, x):
    kernel, shape = operation.kernel.array.transpose(0, 1, 3, 2), np.array((x.shape[0], *operation.output.shape[1:]))
    strides, padding = operation.attributes["strides"], operation.attributes["padding"].upper()
    return tf.nn.conv2d_transpose(x, kernel, shape, strides, padding)


def _resize(operation, x):
    return tf.image.resize(x, operation.output.shape[1:3], operation.attributes["mode"])


def _joined(axis_of):
    def joined(operation, *xs):
        count = max(x.shape[0] for x in xs)  # A constant is the same for all images.
        return ops.concatenate([ops.broadcast_to(x, (count, *x.shape[1:])) for x in xs], axis=axis_of(operation))

    return joined


def _crop(operation, x):
    _, height, width, _ = operation.output.shape
    top, left = operation.attributes["start"]
    return x[:, top : top + height, left : left + width]


def _slice(operation, x):
    if "row" in operation.attributes:
        x = x[operation.attributes["row"]]
    start = operation.attributes["start"]
    return x[..., start : start + operation.output.shape[-1]]


def _softmax(operation, x):
    mask = operation.attributes.get("mask")
    return ops.softmax(x if mask is None else ops.where(mask, x, EXCLUDED))


def _stack(operation, x):
    groups = operation.attributes["groups"]
    return ops.moveaxis(ops.reshape(x, (*x.shape[:-1], x.shape[-1] // groups, groups)), -1, 0)


_LINEAR = {
    "conv": lambda operation, x: _convolve(operation, x, _kernel(operation)),
    "shared_conv": _shared_conv,
    "depthwise": _depthwise,
    "dense": lambda operation, x: ops.matmul(x, _kernel(operation)),
    "affine": lambda operation, x: x,
    "identity": lambda operation, x: x,
    "converted": lambda operation, *xs: operation.attributes["program"](*xs),
    "conv_transpose": _conv_transpose,
    "constant": lambda operation: ops.convert_to_tensor(operation.attributes["constant"].array),
    "add": lambda operation, x, y: x + y,
    "subtract": lambda operation, x, y: x - y,
    "multiply": lambda operation, x, y: x * y,
    "divide": lambda operation, x, y: x / y,
    "prelu": lambda operation, x, slopes: ops.maximum(x, 0) + slopes * ops.minimum(x, 0),
    "maximum": lambda operation, x, y: ops.maximum(x, y),
    "minimum": lambda operation, x, y: ops.minimum(x, y),
    "concat": _joined(lambda operation: -1),
    "join": _joined(lambda operation: operation.attributes["axis"]),
    "pad": _pad,
    "max_pool": _pool(ops.max_pool),
    "average_pool": _pool(ops.average_pool),
    "mean": _reduced(ops.mean),
    "max": _reduced(ops.max),
    "min": _reduced(ops.min),
    "matmul": lambda operation, x, y: ops.matmul(x, y),
    "reshape": lambda operation, x: ops.reshape(x, (-1, *operation.output.shape[1:])),
    "slice": _slice,
    "stack": _stack,
    "permute": lambda operation, x: ops.take(x, operation.attributes["indices"], axis=-1),
    "gather": lambda operation, x: ops.take(x, operation.attributes["indices"], axis=operation.attributes["axis"]),
    "fill": lambda operation, x: ops.where(operation.attributes["condition"], x, operation.attributes["numbers"]),
    "where": lambda operation, x, y: ops.where(operation.attributes["condition"], x, y),
    "resize": _resize,
    "crop": _crop,
    "transpose": lambda operation, x: ops.transpose(x, operation.attributes["order"]),
    "softmax": _softmax,
    "l2_normalize": lambda operation, x: ops.normalize(x),
    **UNARY,
}
