"""The last rewrites of an inference graph: where scales go in a file of floats, and in one of integers."""

import dataclasses
import math

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation, Stored, Value
from keras_sharenets.mobile.graph.quantization import filter_limits

# The share of the largest scale below which one is taken for 0, or set apart.
_NEXT_TO_NOTHING = 1e-4


def expand_kernels(graph, written_out):
    """Multiplies a scale into its kernel where that costs nothing or is wanted.

    A kernel that is used in one place alone gets the scale of that place; of the others, every use that `written_out`
    picks gets a kernel of its own.
    """
    uses, operations = graph.uses(), []
    for operation in graph.operations:
        scaled = operation.scale is not None and operation.kernel is not None and operation.kind != "shared_conv"
        if scaled and (len(uses[operation.kernel]) == 1 or written_out(operation.site)):
            operation = dataclasses.replace(operation, kernel=_scaled(operation), scale=None)
        operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def _scaled(operation):
    array = operation.kernel.array
    # A depthwise kernel is (height, width, channels, 1), all others end in the output channels.
    scale = operation.scale[:, None] if operation.kind == "depthwise" else operation.scale
    return Stored(f"{operation.kernel.name} in {operation.name}", (array * scale).astype("float32"))


def split_scales(graph, chosen):
    """Scale, shift and activation of the operations that `chosen` picks become steps of their own behind them."""
    number, operations = graph.next_number(), []
    for operation in graph.operations:
        vectors = {"scale": operation.scale, "bias": operation.bias}
        if operation.kernel is not None and any(v is not None for v in vectors.values()) and chosen(operation):
            between = Value(number, operation.output.shape)
            number += 1
            operations.append(dataclasses.replace(operation, output=between, scale=None, bias=None, activation=None))
            if operation.scale is None:
                vectors["scale"] = np.ones_like(operation.bias)
            more = {**vectors, "activation": operation.activation}
            operation = Operation("affine", operation.name, (between,), operation.output, use=operation.use, **more)
        operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def average_by_convolution(graph):
    """Average pooling becomes a depthwise convolution with equal weights: delegates average no integers."""
    kernels, operations = {}, []
    for operation in graph.operations:
        if operation.kind == "average_pool" and operation.attributes["padding"] == "valid":
            size, channels = operation.attributes["pool_size"], operation.output.shape[-1]
            if (size, channels) not in kernels:
                equal = np.full((*size, channels, 1), 1 / math.prod(size), "float32")
                kernels[size, channels] = Stored(f"mean of {size}", equal)
            window = {name: operation.attributes[name] for name in ("strides", "padding")}
            kernel = kernels[size, channels]
            operation = dataclasses.replace(operation, kind="depthwise", kernel=kernel, attributes=window)
        operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def float_form(graph, written_out):
    """The form for a float file: no scale beside a kernel.

    Args:
        written_out: function of a call, `(layer's name, use)`: whether this use of a kernel gets one of its own. A
            kernel that is kept single is used without scales, and each scale and shift is a step of its own.
    """
    graph = split_scales(expand_kernels(graph, written_out), lambda operation: operation.kind == "shared_conv")
    return split_scales(graph, lambda operation: operation.scale is not None)


def fold_signs(graph, written_out):
    """Kernels take over what may not stand beside integers: signs, and scales that are next to nothing.

    Done where a kernel is used in one place alone, and for every use that `written_out` picks. A channel whose scale is
    next to nothing becomes 0: beside it a bias would overflow.
    """
    uses, operations = graph.uses(), []
    for operation in graph.operations:
        scaled = operation.scale is not None and operation.kernel is not None and operation.kind != "shared_conv"
        if scaled and (len(uses[operation.kernel]) == 1 or written_out(operation.site)):
            magnitudes = np.abs(operation.scale)
            nothing = _strengths(operation) <= _NEXT_TO_NOTHING * _strengths(operation).max()
            kernel = _scaled(dataclasses.replace(operation, scale=np.where(nothing, 0, np.sign(operation.scale))))
            scale = np.where(nothing, magnitudes.max() or 1, magnitudes).astype("float32")
            operation = dataclasses.replace(operation, kernel=kernel, scale=scale)
        operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def _strengths(operation):
    """How large the numbers of each filter are beside its scale."""
    return np.abs(operation.scale) * filter_limits(operation.kernel.array, operation.kind)


def integer_form(graph, written_out):
    """The form for an integer file: a scale beside a kernel is positive.

    A scale in the file has to be positive, and the integers of a kernel that is used elsewhere must not change sign.
    Nor may a scale be so small that the bias overflows beside it.
    """
    graph = fold_signs(average_by_convolution(graph), written_out)
    graph = split_scales(graph, lambda operation: operation.kind == "shared_conv")
    return split_scales(graph, lambda operation: operation.scale is not None and not _positive(operation))


def _positive(operation):
    strengths = _strengths(operation)
    return operation.scale.min() > 0 and strengths.min() > _NEXT_TO_NOTHING * strengths.max()
