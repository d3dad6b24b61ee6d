"""Lowering rules of Keras layers and functions with a kernel, of normalizations, and of layers without effect.

Equal kernels of functions become one constant, so a custom layer that is called twice stores its kernel once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sharenets import layers as ours
from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.elementwise_rules import activate
from keras_sharenets.mobile.graph.inference_graph import Constant, Value
from keras_sharenets.mobile.graph.rules import RULES, GraphBuilder, lowers, refuse
from keras_sharenets.mobile.graph.steps import (
    affine,
    array,
    channel_vector,
    check_last,
    concatenated,
    constant,
    operation_class,
    pair,
    pairwise,
    scaled,
    unary,
    unnamed_class,
)

POINTWISE = {"strides": (1, 1), "padding": "valid", "groups": 1}
WINDOW = "kernel_size strides padding dilation_rate activation use_bias"


def bias_of(layer: Any) -> np.ndarray | None:
    """The bias of a layer as a vector, or `None`."""
    bias = getattr(layer, "bias", None)
    return None if bias is None else array(bias)


def linear(
    graph: GraphBuilder,
    kind: str,
    layer: Any,
    call: Call,
    x: Sequence[Value],
    shape: Shape,
    kernel: Constant,
    **attributes: Any,
) -> Value:
    """A convolution or a matrix product with the layer's bias and activation."""
    y = graph.add(kind, layer.name, x, shape, kernel=kernel, bias=bias_of(layer), attributes=attributes)
    return activate(graph, layer, call.path, y)


def stored_kernel(graph: GraphBuilder, layer: Any) -> Constant:
    """The stored kernel of a layer, including a low-rank adaptation."""
    return graph.constant(layer, "kernel", lambda: array(layer.kernel))


def dilation(layer: Any) -> dict[str, tuple[int, int]]:
    """The attribute of a dilated convolution; nothing for others."""
    rate = pair(getattr(layer, "dilation_rate", 1))
    return {} if rate == (1, 1) else {"dilation": rate}


def window(layer: Any) -> dict[str, Any]:
    """The strides, padding and dilation of a convolution."""
    return {"strides": pair(layer.strides), "padding": layer.padding, **dilation(layer)}


@lowers(layers.Conv2D, reads=f"filters groups {WINDOW}")
def _conv2d(graph, layer, call, x, shape):
    sides, channels = window(layer), x[0].shape[-1]
    if layer.groups != channels or channels == 1 or len(set(sides["strides"])) > 1:
        kernel = stored_kernel(graph, layer)
        return linear(graph, "conv", layer, call, x, shape, kernel, groups=layer.groups, **sides)
    # Runtimes have a separate operator for one group per channel.
    filters = (*layer.kernel_size, channels, -1)
    kernel = graph.constant(layer, "depthwise kernel", lambda: array(layer.kernel).reshape(filters))
    return linear(graph, "depthwise", layer, call, x, shape, kernel, **sides)


@lowers(layers.DepthwiseConv2D, ours.DepthwiseConv2D, reads=f"depth_multiplier {WINDOW}")
def _depthwise(graph, layer, call, x, shape):
    return linear(graph, "depthwise", layer, call, x, shape, stored_kernel(graph, layer), **window(layer))


@lowers(layers.SeparableConv2D, reads=f"filters depth_multiplier {WINDOW}")
def _separable(graph, layer, call, x, shape):
    """A depthwise convolution, then a 1x1 convolution."""
    kernel = graph.constant(layer, "depthwise_kernel", lambda: array(layer.depthwise_kernel))
    between = (*shape[:-1], x[0].shape[-1] * layer.depth_multiplier)
    y = graph.add("depthwise", layer.name, x, between, kernel=kernel, attributes=window(layer))
    kernel = graph.constant(layer, "pointwise_kernel", lambda: array(layer.pointwise_kernel))
    return linear(graph, "conv", layer, call, [y], shape, kernel, **POINTWISE)


@lowers(layers.Conv2DTranspose, reads="filters kernel_size strides padding output_padding activation use_bias")
def _conv_transpose(graph, layer, call, x, shape):
    """The output shape, which is passed to the operator, accounts for `output_padding`."""
    kernel = graph.constant(layer, "kernel, filters last", lambda: array(layer.kernel).transpose(0, 1, 3, 2))
    return linear(graph, "conv_transpose", layer, call, x, shape, kernel, **window(layer))


@lowers(layers.Dense, reads="units activation use_bias")
def _dense(graph, layer, call, x, shape):
    if len(x[0].shape) == 2:
        kernel = stored_kernel(graph, layer)
    else:
        kernel = graph.constant(layer, "kernel of 1x1", lambda: array(layer.kernel)[None, None])
    return matrix_product(graph, layer, call, x, shape, kernel)


def matrix_product(
    graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape, kernel: Constant
) -> Value:
    """A matrix product; for an image or a sequence, which is an image of one row, a 1x1 convolution."""
    if len(x[0].shape) == 2:
        return linear(graph, "dense", layer, call, x, shape, kernel)
    (y,), channels, sides = x, x[0].shape[-1], tuple(shape[1:-1])
    if len(sides) != 2:
        sides = (1, math.prod(sides))
        y = graph.add("reshape", layer.name, x, (1, *sides, channels))
    y = linear(graph, "conv", layer, call, [y], (1, *sides, shape[-1]), kernel, **POINTWISE)
    return y if len(shape) == 4 else graph.add("reshape", layer.name, [y], shape)


def _constant_kernel(operation, call, rank):
    """The second argument of a function of `keras.ops`, if it is a constant with `rank` axes.

    It is a weight, or computed only from weights, such as a standardized or repeated kernel.
    """
    image, kernel = inspect.signature(operation.call).bind(*call.args, **call.kwargs).arguments.values()
    if isinstance(kernel, Tensor) or not isinstance(image, Tensor):
        raise refuse(operation, call.path, "needs an image, then a kernel that does not depend on the input.")
    numbers = array(kernel)
    if numbers.ndim != rank:
        raise refuse(operation, call.path, f"has a kernel of shape {numbers.shape}, which cannot be exported.")
    return numbers


def _windowed(kind: str):
    """A convolution; its number of groups follows from the channels of the image and the kernel."""

    def rule(graph, operation, call, x, shape):
        kernel = graph.equal_constant(operation, _constant_kernel(operation, call, rank=4))
        groups = {"groups": x[0].shape[-1] // kernel.array.shape[2]} if kind == "conv" else {}
        return linear(graph, kind, operation, call, x, shape, kernel, **window(operation), **groups)

    return rule


lowers(unnamed_class(ops.conv, "Conv"), reads="strides padding dilation_rate")(_windowed("conv"))
lowers(unnamed_class(ops.depthwise_conv, "DepthwiseConv"), reads="strides padding dilation_rate")(
    _windowed("depthwise")
)


@lowers(unnamed_class(ops.dot, "Dot"))
def constant_product(graph: GraphBuilder, operation: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """A product with a constant matrix."""
    numbers = _constant_kernel(operation, call, rank=2)
    kernel = graph.equal_constant(operation, numbers if len(x[0].shape) == 2 else numbers[None, None])
    return matrix_product(graph, operation, call, x, shape, kernel)


@lowers(layers.BatchNormalization, ours.BatchNormalization, reads="axis epsilon center scale")
def _batch_normalization(graph, layer, call, x, shape):
    check_last(layer, call.path, layer.axis, x[0], "normalization")
    channels = x[0].shape[-1]
    gamma = np.ones(channels) if layer.gamma is None else array(layer.gamma, "float64")
    beta = np.zeros(channels) if layer.beta is None else array(layer.beta, "float64")
    scale = gamma / np.sqrt(array(layer.moving_variance, "float64") + layer.epsilon)
    return affine(graph, layer, x, shape, scale, beta - array(layer.moving_mean, "float64") * scale)


@lowers(layers.Normalization, reads="axis mean variance invert")
def _normalization(graph, layer, call, x, shape):
    mean, variance = (
        channel_vector(layer, call.path, name, array(getattr(layer, name), "float64"), x[0])
        for name in ("mean", "variance")
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return affine(graph, layer, x, shape, deviation, mean)
    return affine(graph, layer, x, shape, 1 / deviation, -mean / deviation)


@lowers(layers.Rescaling, reads="scale offset")
def _rescaling(graph, layer, call, x, shape):
    vectors = [channel_vector(layer, call.path, name, getattr(layer, name), x[0]) for name in ("scale", "offset")]
    return affine(graph, layer, x, shape, *vectors)


def _standardized(graph, layer, x, axes):
    """`x` minus its mean over some axes, divided by its standard deviation."""
    return _divided_by_norm(graph, layer, pairwise(graph, "subtract", layer, [x, _mean(graph, layer, x, axes)]), axes)


def _divided_by_norm(graph, layer, x, axes):
    """`x` divided by its root mean square over some axes."""
    square = _mean(graph, layer, pairwise(graph, "multiply", layer, [x, x]), axes)
    root = unary(graph, "rsqrt", layer, scaled(graph, layer, square, 1, layer.epsilon))
    return pairwise(graph, "multiply", layer, [x, root])


def _mean(graph, layer, x, axes):
    sides = tuple(1 if axis in axes else side for axis, side in enumerate(x.shape))
    return graph.add("mean", layer.name, [x], sides, attributes={"axes": axes, "keepdims": True})


def _with_gain_and_shift(graph, layer, x):
    """`gamma * x + beta`, if the layer has them."""
    gain = None if layer.gamma is None else array(layer.gamma).ravel()
    shift = None if layer.beta is None else array(layer.beta).ravel()
    if gain is None and shift is None:
        return x
    return scaled(graph, layer, x, 1 if gain is None else gain, 0 if shift is None else shift)


@lowers(layers.LayerNormalization, reads="axis epsilon center scale rms_scaling")
def _layer_normalization(graph, layer, call, x, shape):
    if layer.rms_scaling:
        raise refuse(layer, call.path, "has `rms_scaling` (=True), which cannot be exported to TFLite.")
    axes = tuple(sorted(axis % len(shape) for axis in layer.axis))
    if 0 in axes:
        raise refuse(layer, call.path, "normalizes along the batch axis.")
    y = _standardized(graph, layer, x[0], axes)
    if axes == (len(shape) - 1,):
        return _with_gain_and_shift(graph, layer, y)
    sides = tuple(side if axis in axes else 1 for axis, side in enumerate(shape))[1:]
    for kind, name in (("multiply", "gamma"), ("add", "beta")):
        weight = getattr(layer, name)
        if weight is not None:
            # A layer can be called on images and on sequences.
            key = f"{name} of shape {sides}"
            numbers = constant(graph, layer, key, lambda weight=weight: array(weight).reshape(sides))
            y = pairwise(graph, kind, layer, [y, numbers])
    return y


@lowers(layers.RMSNormalization, reads="axis epsilon")
def _rms_normalization(graph, layer, call, x, shape):
    check_last(layer, call.path, layer.axis, x[0], "normalization")
    return scaled(graph, layer, _divided_by_norm(graph, layer, x[0], (len(shape) - 1,)), array(layer.scale))


@lowers(layers.GroupNormalization, reads="groups axis epsilon center scale")
def _group_normalization(graph, layer, call, x, shape):
    check_last(layer, call.path, layer.axis, x[0], "normalization")
    channels, groups = shape[-1], shape[-1] if layer.groups == -1 else layer.groups
    table = (1, math.prod(shape[1:-1]), groups, channels // groups)
    y = _standardized(graph, layer, graph.add("reshape", layer.name, x, table), (1, 3))
    return _with_gain_and_shift(graph, layer, graph.add("reshape", layer.name, [y], shape))


@lowers(layers.UnitNormalization, operation_class(ops.normalize), reads="axis order")
def _unit_normalization(graph, layer, call, x, shape):
    """A vector of length 1, as for embeddings."""
    check_last(layer, call.path, layer.axis, x[0], "normalization")
    if getattr(layer, "order", 2) != 2:
        raise refuse(layer, call.path, f"has `order` (={layer.order}): only 2 can be exported.")
    return unary(graph, "l2_normalize", layer, x[0])


@lowers(layers.Flatten)
@lowers(layers.Reshape, reads="target_shape")
@lowers(operation_class(lambda x: ops.reshape(x, (-1, 8))), reads="newshape")
def _reshape(graph, layer, call, x, shape):
    if None in shape[1:] or math.prod(shape[1:]) != math.prod(x[0].shape[1:]):
        raise refuse(layer, call.path, f"reshapes across the batch, to {tuple(shape)}, which cannot be exported.")
    return graph.add("reshape", layer.name, x, shape)


# Layers that are active only in training. Not `RandomCrop`, which also crops and resizes in inference.
_AUGMENTATIONS = [
    getattr(layers, name)
    for name in dir(layers)
    if (name.startswith("Random") and name != "RandomCrop") or name in ("AugMix", "CutMix", "MixUp", "RandAugment")
]
_REGULARIZATIONS = [layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout]
_REGULARIZATIONS += [layers.AlphaDropout, layers.ActivityRegularization, layers.SpatialDropout1D]
_REGULARIZATIONS += [unnamed_class(keras.applications.ConvNeXtTiny, "StochasticDepth")]

WITHOUT_EFFECT = (layers.Identity, *_REGULARIZATIONS, *_AUGMENTATIONS)
# Layers and operations that output probabilities, in addition to layers with such an activation.
PROBABILITIES = (layers.Softmax, operation_class(ops.softmax), operation_class(ops.sigmoid))


@lowers(*WITHOUT_EFFECT, reads=None)
def _nothing(graph, layer, call, x, shape):
    return x[0]


@lowers(layers.Pipeline, reads=None)
def _pipeline(graph, layer, call, x, shape):
    for part in layer.layers:
        if getattr(RULES.get(type(part)), "lower", None) is not _nothing:
            reason = (
                f"contains '{part.name}', a {type(part).__name__}: only layers that do nothing in inference are"
                " allowed."
            )
            raise refuse(layer, call.path, reason)
    return x[0]


@lowers(operation_class(lambda x: ops.cast(x, "float32")), reads="dtype")
def _cast(graph, layer, call, x, shape):
    """Nothing: the graph computes with real numbers, whatever their types in Keras."""
    if layer.dtype != "float32":
        raise refuse(layer, call.path, f"rounds to {layer.dtype}.")
    return x[0]


@lowers(layers.Concatenate, operation_class(lambda *x: ops.concatenate(x, axis=-1), 2), reads="axis")
def _concatenate(graph, layer, call, x, shape):
    return concatenated(graph, layer, call, x, shape, layer.axis)
