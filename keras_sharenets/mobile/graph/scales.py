"""Placement of the scales of an inference graph in a file: in kernels, next to kernels, or in separate steps.

A float file has no scales next to a kernel. An integer file has positive ones there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, InferenceGraph, Materialize, Operation, Value
from keras_sharenets.mobile.graph.quantization import filter_strengths, requantize_fixed, rewritable_kernels

# The fraction of the largest scale up to which a scale counts as 0, or gets a separate step.
_NEGLIGIBLE = 1e-4
# The integer of the largest scale of a vector, and the smallest allowed integer.
_WHOLE, _LEAST_WHOLE = 127, 2


def prepare_float(graph: InferenceGraph, materialize: Materialize) -> InferenceGraph:
    """Prepares the graph for a float file, which has no scales next to kernels.

    Args:
        graph: `InferenceGraph`, simplified.
        materialize: function of a call site that returns whether this use of a shared kernel gets a copy with its scale
            multiplied in. A kernel that stays shared is used without scales; each scale and shift is a separate step.
    """

    def scaled(operation):
        kernel = scaled_kernel(operation.kernel, operation.kind, operation.scale)
        return dataclasses.replace(operation, kernel=kernel, scale=None)

    graph = _rescale_kernels(graph, materialize, scaled)
    return _split_scales(graph, lambda operation: operation.kind == "shared_conv" or operation.scale is not None)


def prepare_int8(graph: InferenceGraph, materialize: Materialize) -> InferenceGraph:
    """Prepares the graph for an integer file, in which scales next to kernels are positive.

    The integers of a kernel with other uses must not change sign, and a scale must not be so small that the bias
    overflows.

    Args:
        graph: `InferenceGraph`, simplified.
        materialize: function of a call site that returns whether this use of a shared kernel gets a copy that includes
            signs and negligible scales, which are not allowed next to integers.
    """

    def signed(operation):
        strengths = filter_strengths(operation.kernel.array, operation.kind, operation.scale)
        magnitudes = np.abs(operation.scale)
        negligible = strengths <= _NEGLIGIBLE * strengths.max()
        kernel = scaled_kernel(operation.kernel, operation.kind, np.where(negligible, 0, np.sign(operation.scale)))
        scale = np.where(negligible, magnitudes.max() or 1, magnitudes).astype("float32")
        return dataclasses.replace(operation, kernel=kernel, scale=scale)

    def fits(operation):
        if operation.scale is None:
            return True
        strengths = filter_strengths(operation.kernel.array, operation.kind, operation.scale)
        return operation.scale.min() > 0 and strengths.min() > _NEGLIGIBLE * strengths.max()

    graph = _rescale_kernels(_average_by_convolution(requantize_fixed(graph)), materialize, signed)
    graph = _split_scales(graph, lambda operation: operation.kind == "shared_conv" or not fits(operation))
    return _scale_by_integers(graph)


def _rescale_kernels(graph, materialize, rescaled):
    """Replaces the kernel of scaled operations if it has no other use or is materialized."""
    uses, operations = graph.uses(), []
    for operation in graph.operations:
        scaled = operation.scale is not None and operation.kernel is not None and operation.kind != "shared_conv"
        if scaled and (len(uses[operation.kernel]) == 1 or materialize(operation.site)):
            operation = rescaled(operation)
        operations.append(operation)
    return graph.with_operations(operations)


def scaled_kernel(kernel: Constant, kind: str, scale: np.ndarray) -> Constant:
    """A kernel with its filters multiplied by scales."""
    # A depthwise kernel is (height, width, channels, filters per channel); others end with the output channels.
    scale = scale.reshape(kernel.array.shape[2:]) if kind == "depthwise" else scale
    return Constant(kernel.name, (kernel.array * scale).astype("float32"))


def _split_scales(graph: InferenceGraph, chosen: Callable[[Operation], bool]) -> InferenceGraph:
    """Moves the scale, shift and activation of the chosen operations with a kernel to a separate step."""
    number, operations = graph.next_number(), []
    for operation in graph.operations:
        scale, bias = operation.scale, operation.bias
        vectors = scale is not None or bias is not None
        if operation.kernel is not None and vectors and chosen(operation):
            between = Value(number, operation.output.shape)
            number += 1
            operations.append(dataclasses.replace(operation, output=between, scale=None, bias=None, activation=None))
            scale = np.ones_like(bias) if scale is None else scale
            affine = {"kind": "affine", "inputs": (between,), "kernel": None, "attributes": {}, "scale": scale}
            operation = dataclasses.replace(operation, **affine)
        operations.append(operation)
    return graph.with_operations(operations)


def _scale_by_integers(graph: InferenceGraph) -> InferenceGraph:
    """Rounds scales of affine operations to integer multiples of one number, if the next kernel can absorb the rest.

    This also works across a ReLU: `relu((1 + e) x) = (1 + e) relu(x)`. Such scales and their biases need one step size
    in the file instead of one per channel: 5 instead of 13 bytes per channel.

    Not applied if quantization-aware training has learned the range between the two: the network was trained with the
    rounded kernel, which the rest would round a second time.
    """
    readers, rewritable, left = graph.consumers(), rewritable_kernels(graph), {}

    def whole(operation):
        read = readers.get(operation.output.number, ())
        learned = operation.output.number in graph.ranges
        if operation.kind != "affine" or operation.activation not in (None, "relu") or len(read) != 1 or learned:
            return operation
        (reader,) = read
        takes = reader.kind == "dense" or (reader.kind == "conv" and reader.attributes["groups"] == 1)
        step = np.abs(operation.scale).max() / _WHOLE
        integers = np.round(operation.scale / step) if step else np.zeros(1)
        if not takes or reader.kernel not in rewritable or np.abs(integers).min() < _LEAST_WHOLE:
            return operation
        rest = operation.scale / (step * integers)
        left[reader.output.number] = rest
        bias = None if operation.bias is None else (operation.bias / rest).astype("float32")
        return dataclasses.replace(operation, scale=(step * integers).astype("float32"), bias=bias)

    def with_rest(operation):
        rest = left.get(operation.output.number)
        if rest is None:
            return operation
        kernel = Constant(operation.kernel.name, (operation.kernel.array * rest[:, None]).astype("float32"))
        return dataclasses.replace(operation, kernel=kernel)

    return graph.with_operations([with_rest(whole(operation)) for operation in graph.operations])


def _average_by_convolution(graph):
    """Replaces average pooling by a depthwise convolution with equal weights: delegates do not average integers."""
    kernels, operations = {}, []
    for operation in graph.operations:
        if operation.kind == "average_pool" and operation.attributes["padding"] == "valid":
            size, channels = operation.attributes["pool_size"], operation.output.shape[-1]
            if (size, channels) not in kernels:
                equal = np.full((*size, channels, 1), 1 / math.prod(size), "float32")
                kernels[size, channels] = Constant(f"mean of {size}", equal)
            window = {name: operation.attributes[name] for name in ("strides", "padding")}
            kernel = kernels[size, channels]
            operation = dataclasses.replace(operation, kind="depthwise", kernel=kernel, attributes=window)
        operations.append(operation)
    return graph.with_operations(operations)


def use_single_numbers(graph: InferenceGraph, *, integers: bool) -> InferenceGraph:
    """Replaces scales and shifts that are the same for all channels by a sum and a product with single numbers.

    XNNPACK computes `scale * (x + shift / scale)` in less than a tenth of the time of a 1x1 depthwise convolution of an
    image with 3 channels. The product keeps the integers of the sum, so that they are rounded once.

    Args:
        graph: as returned by [`prepare_float`] or [`prepare_int8`].
        integers: whether it is for an integer file, in which no delegate supports a separate ReLU: it becomes the
            activation of a product with 1.
    """
    number, operations, constants = graph.next_number(), [], {}
    for operation in graph.operations:
        steps, x, shape = _single_numbers(graph, operation, integers), operation.inputs, operation.output.shape
        plain = dataclasses.replace(operation, scale=None, bias=None, activation=None, attributes={})
        for kind, single in steps:
            array = np.full((1,) * len(shape), single, "float32")
            stored = {"constant": constants.setdefault((single, len(shape)), Constant(operation.name, array))}
            other, output = Value(number, array.shape), Value(number + 1, shape)
            number += 2
            operations.append(dataclasses.replace(plain, kind="constant", inputs=(), output=other, attributes=stored))
            operations.append(dataclasses.replace(plain, kind=kind, inputs=(*x, other), output=output))
            x = (output,)
        ends = {"output": operation.output, "activation": operation.activation}
        operations.append(dataclasses.replace(operations.pop() if steps else operation, **ends))
    return graph.with_operations(operations)


def _single_numbers(graph, operation, integers):
    """The sum and the product that an operation becomes, each with its number; none for other operations."""
    if operation.kind == "identity" and integers:
        return [("multiply", 1.0)]
    scale, bias = operation.scale, operation.bias
    if operation.kind != "affine" or operation.output.number in graph.ranges or not scale[0] or np.ptp(scale):
        return []
    shift = np.zeros(1) if bias is None else bias / scale[0]
    if np.ptp(shift) or not np.isfinite(shift[0]):
        return []
    steps = [("add", shift[0])] if shift[0] else []
    return [*steps, ("multiply", scale[0])] if scale[0] != 1 or not steps else steps
