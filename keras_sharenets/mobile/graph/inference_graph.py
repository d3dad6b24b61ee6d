"""The inference graph: what a device computes for one image, as explicit operations.

[`lower`] makes it from a trained Keras model, passes rewrite it, [`run`] computes it in float, and the writer turns it
into a file. A constant is one object however many operations use it; what differs between uses, such as the scale that
a batch normalization leaves behind, belongs to the operation.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_sharenets import layers as ours
from keras_sharenets.analysis import graph as keras_graph
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.graph.lowering_rules import rule_for
from keras_sharenets.ops import kernels

# One call of a layer, `(its name, use)`: use 0 is the first call.
CallSite = tuple[str, int]
# Says of a call of a kernel-shared layer whether its kernel is materialized: stored for this call, expanded in full.
Materialize = Callable[[CallSite], bool]


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that is computed: its number in the graph, and its shape with the batch of 1 first."""

    number: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that the file stores once: name and float32 array, in the layout of Keras."""

    name: str
    array: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One step: `activation(scale * linear(inputs; kernel) + bias)`, where `linear` is named by `kind`.

    Attributes:
        kind: `"conv"` (attributes strides, padding, groups), `"shared_conv"` (the same and channel_repeats; the kernel
            is one period of the repeated filters), `"depthwise"` (strides, padding), `"dense"`, `"affine"` (only scale
            and bias), `"add"`, `"multiply"`, `"concat"`, `"pad"` (paddings), `"max_pool"` and `"average_pool"`
            (pool_size, strides, padding), `"mean"` and `"max"` over the image (keepdims), `"reshape"`, `"slice"` and
            `"permute"` of channels (start and, out of a stack, row; indices), `"stack"` of the groups of a strided
            channel shuffle along the batch axis (groups), `"softmax"`, `"sigmoid"`, `"identity"`.
        name: str, that of the layer.
        use: int, 0 in the first call of the layer, 1 in the second.
        inputs, output: `Value`s.
        kernel: `Constant`, of the kinds with one.
        scale, bias: float32 vectors with one number an output channel, or `None` for 1 and 0.
        activation: `None`, `"relu"` or `"relu6"`.
        attributes: dict.
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
    def site(self) -> CallSite:
        """The call of a layer that this comes from."""
        return self.name, self.use


@dataclasses.dataclass(frozen=True)
class InferenceGraph:
    """A network for one image: its input, its operations in order, its output.

    `ranges` is what quantization-aware training learned: `{value number: (smallest, largest)}`.
    """

    input: Value
    operations: tuple[Operation, ...]
    output: Value
    ranges: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def consumers(self) -> dict[int, list[Operation]]:
        """`{value number: operations that read it}`; the graph's own output is read by none of them."""
        readers = {}
        for operation in self.operations:
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

    def next_number(self) -> int:
        """A number that no value has yet."""
        return 1 + max([self.input.number, *(operation.output.number for operation in self.operations)])

    def with_operations(self, operations: Iterable[Operation]) -> InferenceGraph:
        """The graph with other operations."""
        return dataclasses.replace(self, operations=tuple(operations))


class GraphBuilder:
    """The graph that grows while the calls of a model are lowered one by one."""

    def __init__(self) -> None:
        self.operations = []
        self.ranges = {}
        self.use = 0
        self._constants = {}
        self._count = 0

    def value(self, shape: Sequence[int | None]) -> Value:
        """A new value; an open side, which is the batch, becomes 1."""
        self._count += 1
        return Value(self._count - 1, tuple(1 if side is None else side for side in shape))

    def constant(self, layer: keras.layers.Layer, name: str, make: Callable[[], np.ndarray]) -> Constant:
        """The constant `name` of a layer: made at its first use, the same object at every later one."""
        key = id(layer), name
        if key not in self._constants:
            self._constants[key] = Constant(f"{layer.name}/{name}", np.asarray(make(), "float32"))
        return self._constants[key]

    def add(self, kind: str, name: str, inputs: Sequence[Value], shape: Sequence[int | None], **fields: Any) -> Value:
        """Appends an operation and returns its output."""
        output = self.value(shape)
        self.operations.append(Operation(kind, name, tuple(inputs), output, use=self.use, **fields))
        return output


def lower(model: keras.Model, *, materialize: Materialize = lambda site: True) -> InferenceGraph:
    """The inference graph of a trained classifier, nothing folded yet.

    Args:
        model: functional or built sequential `keras.Model` with one input of a fixed image size, and one output.
        materialize: function of a call of a kernel-shared layer, `(name, use)`: whether it becomes one convolution
            with its effective kernel, instead of operations on the tensors that the layer stores.

    Returns:
        An `InferenceGraph`, with the ranges of a quantization-aware network.

    Raises:
        ValueError: the model is not functional, or has open sides or several inputs or outputs.
        UnsupportedLayerError: a layer has no rule; the message names it.
    """
    return lower_calls(keras_graph.trace(model), materialize=materialize)[0]


def lower_calls(
    traced: keras_graph.Graph, *, materialize: Materialize = lambda site: True
) -> tuple[InferenceGraph, dict[int, Value]]:
    """As [`lower`], for a model that has been traced.

    Returns:
        `(graph, values)`: the `InferenceGraph`, and `{traced tensor's number: Value}`.
    """
    builder = GraphBuilder()
    start = builder.value(traced.inputs[0].shape)
    values = {traced.inputs[0].number: start}
    for call in traced.calls:
        inputs = [values[tensor.number] for tensor in call.inputs]
        values[call.outputs[0].number] = _lower_call(builder, call, inputs, materialize)
    output = values[traced.outputs[0].number]
    return InferenceGraph(start, tuple(builder.operations), output, builder.ranges), values


def _lower_call(builder, call, inputs, materialize):
    layer = call.operation
    if isinstance(layer, ours.FakeQuantize):
        low, high = layer.range()
        if high > low:
            builder.ranges[inputs[0].number] = float(low), float(high)
        return inputs[0]
    with contextlib.ExitStack() as stack:
        if isinstance(layer, ours.QuantizedKernels):
            stack.enter_context(layer.rounded())
        layer, builder.use = inner(layer), call.index
        rule = rule_for(layer, call.path, materialize((layer.name, call.index)))
        return rule(builder, layer, call, inputs, call.outputs[0].shape)


def run(
    graph: InferenceGraph, images: np.ndarray, *, watch: Callable[[Value, np.ndarray], None] | None = None
) -> np.ndarray:
    """The outputs of an inference graph, computed in float.

    Args:
        graph: `InferenceGraph`.
        images: float array `(n, height, width, channels)`.
        watch: function `(value, array)` that is shown every value, or `None`.

    Returns:
        A float32 array, one row an image.
    """
    values = {graph.input.number: ops.convert_to_tensor(np.asarray(images, "float32"))}
    remaining = {number: len(readers) for number, readers in graph.consumers().items()}
    if watch is not None:
        watch(graph.input, images)
    for operation in graph.operations:
        result = _compute(operation, [values[value.number] for value in operation.inputs])
        values[operation.output.number] = result
        if watch is not None:
            watch(operation.output, result)
        for value in operation.inputs:
            remaining[value.number] -= 1
            if not remaining[value.number] and value.number != graph.output.number:
                del values[value.number]
    return np.asarray(values[graph.output.number])


def _compute(operation, inputs):
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


def _convolve(operation, x, kernel):
    # Not `keras.ops.conv`: on a CPU that compiles every grouped convolution with XLA first.
    return tf.nn.conv2d(x, kernel, operation.attributes["strides"], operation.attributes["padding"].upper())


def _shared_conv(operation, x):
    return _convolve(operation, x, kernels.repeat(_kernel(operation), operation.attributes["channel_repeats"]))


def _depthwise(operation, x):
    return ops.depthwise_conv(x, _kernel(operation), data_format="channels_last", **_window(operation))


def _pool(function):
    def pool(operation, x):
        return function(x, operation.attributes["pool_size"], data_format="channels_last", **_window(operation))

    return pool


def _pad(operation, x):
    return ops.pad(x, operation.attributes["paddings"], mode=operation.attributes.get("mode", "constant"))


def _over_image(function):
    return lambda operation, x: function(x, axis=(1, 2), keepdims=operation.attributes["keepdims"])


def _slice(operation, x):
    if "row" in operation.attributes:
        x = x[operation.attributes["row"]]
    start = operation.attributes["start"]
    return x[..., start : start + operation.output.shape[-1]]


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
    "add": lambda operation, x, y: x + y,
    "multiply": lambda operation, x, y: x * y,
    "concat": lambda operation, *xs: ops.concatenate(xs, axis=-1),
    "pad": _pad,
    "max_pool": _pool(ops.max_pool),
    "average_pool": _pool(ops.average_pool),
    "mean": _over_image(ops.mean),
    "max": _over_image(ops.max),
    "reshape": lambda operation, x: ops.reshape(x, (-1, *operation.output.shape[1:])),
    "slice": _slice,
    "stack": _stack,
    "permute": lambda operation, x: ops.take(x, operation.attributes["indices"], axis=-1),
    "softmax": lambda operation, x: ops.softmax(x),
    "sigmoid": lambda operation, x: ops.sigmoid(x),
}
