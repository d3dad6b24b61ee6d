"""The operators of a TFLite file for each kind of operation of an inference graph."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import EXCLUDED, Operation, reduced_axes
from keras_sharenets.mobile.writer.flatbuffer import schema
from keras_sharenets.mobile.writer.operators import (
    Tensors,
    add_operator,
    add_plain,
    integers,
    options_of,
    reshape_to,
    splice,
    transposed,
    window_options,
)
from keras_sharenets.ops import permutations

# Maximum number of tensors that delegates concatenate at once.
_MOST_CONCATENATED = 5
_ACTIVATIONS = {"relu": "RELU", "relu6": "RELU6"}


def write_operation(tensors: Tensors, operation: Operation) -> None:
    """Adds the operators of one operation to the file; new tensors are named after its layer."""
    tensors.writer.layer = operation.name
    _KINDS[operation.kind](tensors, operation)


def _convolution_kernel(tensors, operation):
    # Keras: (height, width, inputs, filters); the file: filters first.
    return tensors.kernel(operation, operation.kernel, operation.kernel.array.transpose(3, 0, 1, 2), axis=0)


def _add_with_kernel(tensors, name, operation, kernel, options):
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    add_operator(tensors, name, inputs, tensors.value(operation.output), options)


def _conv(tensors, operation):
    """A convolution with or without groups."""
    kernel = _convolution_kernel(tensors, operation)
    _add_with_kernel(tensors, "CONV_2D", operation, kernel, window_options("Conv2D", operation))


def _shared_conv(tensors, operation):
    """One convolution with the filter bank over a batch of all repeats, which are parts of the image's channels."""
    (source,), repeats = operation.inputs, operation.attributes["channel_repeats"]
    _, height, width, channels = source.shape
    table, batch = (height * width, repeats, channels // repeats), (repeats, height, width, channels // repeats)
    x = transposed(tensors, tensors.value(source), source, table, (1, 0, 2), batch)
    kernel = _convolution_kernel(tensors, operation)
    _, height, width, filters = operation.output.shape
    y = tensors.like(operation.output, (repeats, height, width, filters // repeats), name="t")
    inputs = [x, kernel, tensors.zeros(operation, filters // repeats)]
    add_operator(tensors, "CONV_2D", inputs, y, window_options("Conv2D", operation))
    table = (repeats, height * width, filters // repeats)
    y = transposed(tensors, y, operation.output, table, (1, 0, 2), operation.output.shape, free=1)
    tensors.bind(operation.output, y)


def _depthwise(tensors, operation):
    """A convolution of each channel with its own filters."""
    height, width, channels, filters = operation.kernel.array.shape
    array = operation.kernel.array.reshape(1, height, width, channels * filters)
    kernel = tensors.kernel(operation, operation.kernel, array, axis=3)
    options = window_options("DepthwiseConv2D", operation, depthMultiplier=filters)
    _add_with_kernel(tensors, "DEPTHWISE_CONV_2D", operation, kernel, options)


def _conv_transpose(tensors, operation):
    """A transposed convolution; its output shape is an input.

    The activation is an operator of its own: OpenVINO ignores a fused one, and GPU delegates refuse it.
    """
    kernel, shape = _convolution_kernel(tensors, operation), integers(tensors, operation.output.shape)
    inputs = [shape, kernel, tensors.value(operation.inputs[0]), tensors.bias(operation)]
    options = window_options("TransposeConv", dataclasses.replace(operation, activation=None))
    target = tensors.value(operation.output)
    if tensors.is_clipped(operation.output, operation.activation):
        add_operator(tensors, "TRANSPOSE_CONV", inputs, target, options)
        return
    before = tensors.like(operation.output, operation.output.shape, name="t")
    add_operator(tensors, "TRANSPOSE_CONV", inputs, before, options)
    add_operator(tensors, _ACTIVATIONS[operation.activation], [before], target)


def _affine(tensors, operation):
    """A scale and shift as a 1x1 depthwise convolution, with which runtimes fuse the activation.

    Vectors and sequences are reshaped to images.
    """
    options = window_options("DepthwiseConv2D", operation, depthMultiplier=1, strideH=1, strideW=1)
    kernel, shape = tensors.scale(operation, operation.scale), operation.output.shape
    if len(shape) == 4:
        _add_with_kernel(tensors, "DEPTHWISE_CONV_2D", operation, kernel, options)
        return
    (source,), image = operation.inputs, (1, 1, math.prod(shape[:-1]), shape[-1])
    x, y = (tensors.like(value, image, name="t") for value in (source, operation.output))
    reshape_to(tensors, tensors.value(source), x, image)
    add_operator(tensors, "DEPTHWISE_CONV_2D", [x, kernel, tensors.bias(operation)], y, options)
    reshape_to(tensors, y, tensors.value(operation.output), shape)


def _hard_sigmoid(tensors, operation):
    """`x / 6 + 1 / 2`, which the integers clip to the range from 0 to 1."""
    channels = operation.output.shape[-1]
    vectors = {"scale": np.full(channels, 1 / 6, "float32"), "bias": np.full(channels, 1 / 2, "float32")}
    _affine(tensors, dataclasses.replace(operation, kind="affine", **vectors))


def _dense(tensors, operation):
    """A matrix product."""
    kernel = tensors.kernel(operation, operation.kernel, operation.kernel.array.T, axis=0)
    _add_with_kernel(tensors, "FULLY_CONNECTED", operation, kernel, window_options("FullyConnected", operation))


def _plain(name, options=lambda operation: None):
    """An operator that takes all inputs unchanged, with the `options(operation)`."""
    return lambda tensors, operation: add_plain(tensors, name, operation, options(operation))


def _fusing(name, kind):
    """An operator whose options include an activation."""
    return _plain(name, lambda operation: window_options(kind, operation))


def _pool(name):
    def options(operation):
        height, width = operation.attributes["pool_size"]
        return window_options("Pool2D", operation, filterHeight=height, filterWidth=width)

    return _plain(name, options)


def _concat(tensors, operation):
    """A concatenation, in several steps if delegates do not support so many tensors."""
    shape = operation.output.shape
    axis = operation.attributes.get("axis", len(shape) - 1)
    parts = [(tensors.value(value), value.shape[axis]) for value in operation.inputs]
    while len(parts) > _MOST_CONCATENATED:
        count = min(_MOST_CONCATENATED, len(parts) - _MOST_CONCATENATED + 1)
        width = sum(side for _, side in parts[:count])
        between = tensors.like(operation.output, (*shape[:axis], width, *shape[axis + 1 :]), name="t")
        _join(tensors, [tensor for tensor, _ in parts[:count]], between, axis)
        parts = [(between, width), *parts[count:]]
    _join(tensors, [tensor for tensor, _ in parts], tensors.value(operation.output), axis)


def _join(tensors, parts, target, axis):
    add_operator(tensors, "CONCATENATION", parts, target, options_of("Concatenation", axis=axis))


def _pad(tensors, operation):
    name, options = "PAD", options_of("Pad")
    if "mode" in operation.attributes:
        mode = getattr(schema.MirrorPadMode, operation.attributes["mode"].upper())
        name, options = "MIRROR_PAD", options_of("MirrorPad", mode=mode)
    add_plain(tensors, name, operation, options, operation.attributes["paddings"])


def _reduced(name):
    def write(tensors, operation):
        options = options_of("Reducer", keepDims=operation.attributes["keepdims"])
        add_plain(tensors, name, operation, options, reduced_axes(operation))

    return write


def _reshape(tensors, operation):
    source, target = tensors.value(operation.inputs[0]), tensors.value(operation.output)
    reshape_to(tensors, source, target, operation.output.shape)


def _slice(tensors, operation):
    between = [0] * (len(operation.output.shape) - 2)
    begin = [operation.attributes.get("row", 0), *between, operation.attributes["start"]]
    source, target = tensors.value(operation.inputs[0]), tensors.value(operation.output)
    _cut(tensors, source, target, begin, operation.output.shape)


def _crop(tensors, operation):
    begin = [0, *operation.attributes["start"], 0]
    source, target = tensors.value(operation.inputs[0]), tensors.value(operation.output)
    _cut(tensors, source, target, begin, operation.output.shape)


def _cut(tensors, source, target, begin, shape):
    """The part of a tensor with the given start and shape."""
    inputs = [source, integers(tensors, begin), integers(tensors, shape)]
    add_operator(tensors, "SLICE", inputs, target, options_of("Slice"))


def _resize(tensors, operation):
    """Resizing with half-pixel centers, as in Keras."""
    name, kind = {
        "nearest": ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor"),
        "bilinear": ("RESIZE_BILINEAR", "ResizeBilinear"),
    }[operation.attributes["mode"]]
    add_plain(tensors, name, operation, options_of(kind, halfPixelCenters=True), operation.output.shape[1:3])


def _transpose(tensors, operation):
    add_plain(tensors, "TRANSPOSE", operation, options_of("Transpose"), operation.attributes["order"])


def _constant(tensors, operation):
    array = operation.attributes["constant"].array
    tensors.bind(operation.output, tensors.constant(operation.output, array))


def _divide(tensors, operation):
    """Division in float, because there is no integer division."""
    inputs = [tensors.real(value) for value in operation.inputs]
    quotient = tensors.writer.tensor(operation.output.shape, "float32")
    tensors.writer.operator("DIV", inputs, [quotient], window_options("Div", operation))
    tensors.give_real(operation.output, quotient)


def _stack(tensors, operation):
    """The groups of a strided channel shuffle as the columns of a table, which delegates transpose at once."""
    (source,), (groups, height, width, size) = operation.inputs, operation.output.shape
    table = (height * width, size, groups)
    stacked = transposed(tensors, tensors.value(source), source, table, (2, 0, 1), operation.output.shape)
    tensors.bind(operation.output, stacked)


def _permute(tensors, operation):
    """A shuffle becomes a transposed table, and a rotation two slices; delegates support both.

    Other permutations become a gather, which delegates do not support.
    """
    indices, (source,) = operation.attributes["indices"], operation.inputs
    channels = len(indices)
    rows = next((rows for rows in range(2, channels) if _is_shuffle(indices, channels, rows)), None)
    if rows is not None:
        table = (int(np.prod(source.shape[:-1])), rows, channels // rows)
        shuffled = transposed(tensors, tensors.value(source), source, table, (0, 2, 1), operation.output.shape)
        tensors.bind(operation.output, shuffled)
    elif rotated_groups(operation):
        _rotate(tensors, operation, rotated_groups(operation))
    else:
        add_plain(tensors, "GATHER", operation, options_of("Gather", axis=len(source.shape) - 1), indices)


def rotated_groups(operation: Operation) -> int:
    """The number of channel groups that a permutation rotates by the same offset; 0 for other permutations."""
    if operation.kind != "permute" or operation.attributes["indices"][0] == 0:
        return 0
    indices = np.asarray(operation.attributes["indices"])
    first = indices[0]
    size = int(np.flatnonzero(indices == 0)[0] + first)
    places = np.arange(len(indices))
    is_rotated = np.array_equal(indices, places // size * size + (places % size + first) % size)
    return len(indices) // size if is_rotated and len(indices) % size == 0 else 0


def _rotate(tensors, operation, groups):
    """The part of each group from the new start on, followed by the part before it."""
    (source,), first = operation.inputs, int(operation.attributes["indices"][0])
    size, table, rotated = source.shape[-1] // groups, tensors.value(source), tensors.value(operation.output)
    shape = operation.output.shape
    if groups > 1:
        shape = (int(np.prod(shape[:-1])), groups, size)
        table, rotated = tensors.like(source, shape, name="t"), tensors.like(source, shape, name="t")
        reshape_to(tensors, tensors.value(source), table, shape)
    _join_parts(tensors, source, table, rotated, shape, len(shape) - 1, [(first, size - first), (0, first)])
    if groups > 1:
        reshape_to(tensors, rotated, tensors.value(operation.output), operation.output.shape)


def _join_parts(tensors, value, source, target, shape, axis, parts):
    """Joins parts `(start, width)` of a tensor of the given shape and the type of a value, along an axis."""
    pieces = []
    for begin, width in parts:
        sides = (*shape[:axis], width, *shape[axis + 1 :])
        pieces.append(tensors.like(value, sides, name="t"))
        _cut(tensors, source, pieces[-1], [begin if place == axis else 0 for place in range(len(shape))], sides)
    _join(tensors, pieces, target, axis)


def _is_shuffle(indices, channels, rows):
    return channels % rows == 0 and np.array_equal(indices, permutations.channel_shuffle(channels, rows))


def two_ranges(operation: Operation) -> list[tuple[int, int]]:
    """The `(start, width)` of the two ranges of indices that a gather joins, such as a roll; empty for others."""
    if operation.kind != "gather":
        return []
    indices = np.asarray(operation.attributes["indices"])
    ranges = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [(int(each[0]), len(each)) for each in ranges] if len(ranges) == 2 else []


def _gather(tensors, operation):
    """Two slices if they suffice, which delegates support."""
    (source,), axis = operation.inputs, operation.attributes["axis"]
    parts = two_ranges(operation)
    if parts:
        ends = tensors.value(source), tensors.value(operation.output)
        _join_parts(tensors, source, *ends, source.shape, axis, parts)
    else:
        add_plain(tensors, "GATHER", operation, options_of("Gather", axis=axis), operation.attributes["indices"])


def _where(tensors, operation):
    x, y = map(tensors.value, operation.inputs)
    _select(tensors, operation.attributes["condition"], x, y, tensors.value(operation.output))


def _select(tensors, condition, x, y, target):
    number = tensors.writer.tensor(condition.shape, "bool", constant=condition, suffix="/c")
    add_operator(tensors, "SELECT_V2", [number, x, y], target, options_of("SelectV2"))


def _fill(tensors, operation):
    """In float: in the range of the numbers, other values would all round to 0."""
    x, filled = tensors.real(operation.inputs[0]), tensors.writer.tensor(operation.output.shape, "float32")
    _select(
        tensors, operation.attributes["condition"], x, tensors.real_constant(operation.attributes["numbers"]), filled
    )
    tensors.give_real(operation.output, filled)


def _softmax(tensors, operation):
    """A softmax; with a mask, of scores that are too low to count where it is false."""
    (source,) = operation.inputs
    x = tensors.value(source)
    if "mask" in operation.attributes:
        masked, low = tensors.like(source, source.shape, name="t"), np.full(1, EXCLUDED)
        _select(tensors, operation.attributes["mask"], x, tensors.constant(source, low), masked)
        x = masked
    add_operator(tensors, "SOFTMAX", [x], tensors.value(operation.output), options_of("Softmax", beta=1.0))


def _identity(tensors, operation):
    add_plain(tensors, _ACTIVATIONS[operation.activation], operation)


_KINDS = {
    "conv": _conv,
    "shared_conv": _shared_conv,
    "depthwise": _depthwise,
    "converted": splice,
    "affine": _affine,
    "dense": _dense,
    "conv_transpose": _conv_transpose,
    "constant": _constant,
    "add": _fusing("ADD", "Add"),
    "subtract": _fusing("SUB", "Sub"),
    "multiply": _fusing("MUL", "Mul"),
    "divide": _divide,
    "prelu": _plain("PRELU"),
    "maximum": _plain("MAXIMUM"),
    "minimum": _plain("MINIMUM"),
    "concat": _concat,
    "join": _concat,
    "pad": _pad,
    "max_pool": _pool("MAX_POOL_2D"),
    "average_pool": _pool("AVERAGE_POOL_2D"),
    "mean": _reduced("MEAN"),
    "max": _reduced("REDUCE_MAX"),
    "min": _reduced("REDUCE_MIN"),
    "matmul": _plain("BATCH_MATMUL", lambda operation: options_of("BatchMatMul")),
    "reshape": _reshape,
    "slice": _slice,
    "stack": _stack,
    "permute": _permute,
    "gather": _gather,
    "fill": _fill,
    "where": _where,
    "crop": _crop,
    "resize": _resize,
    "transpose": _transpose,
    "softmax": _softmax,
    "l2_normalize": _fusing("L2_NORMALIZATION", "L2Norm"),
    "sigmoid": _plain("LOGISTIC"),
    "tanh": _plain("TANH"),
    "elu": _plain("ELU"),
    "gelu": _plain("GELU", lambda operation: options_of("Gelu", approximate=operation.attributes["approximate"])),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _plain("HARD_SWISH"),
    "leaky_relu": _plain("LEAKY_RELU", lambda operation: options_of("LeakyRelu", alpha=operation.attributes["slope"])),
    "abs": _plain("ABS"),
    "exp": _plain("EXP"),
    "log": _plain("LOG"),
    "sqrt": _plain("SQRT"),
    "rsqrt": _plain("RSQRT"),
    "identity": _identity,
}
