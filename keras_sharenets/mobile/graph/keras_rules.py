"""What Keras' own layers, and functions of `keras.ops`, become in an inference graph."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops

from keras_sharenets import layers as ours
from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.inference_graph import Constant, Value
from keras_sharenets.mobile.graph.rules import RULES, GraphBuilder, lowers, refuse

_FUSED = {activations.relu: "relu", activations.relu6: "relu6"}
_FINAL = {activations.softmax: "softmax", activations.sigmoid: "sigmoid"}
POINTWISE = {"strides": (1, 1), "padding": "valid", "groups": 1}
_WINDOW = "kernel_size strides padding dilation_rate activation use_bias"


def array(variable: Any, dtype: str = "float32") -> np.ndarray:
    """A variable or tensor as an array."""
    return np.asarray(ops.convert_to_numpy(variable), dtype)


def activate(graph: GraphBuilder, layer: Any, path: str, x: Value) -> Value:
    """The output of a layer's own activation."""
    activation = getattr(layer, "activation", None)
    if activation in (None, activations.linear):
        return x
    if activation in _FUSED:
        return graph.add("identity", layer.name, [x], x.shape, activation=_FUSED[activation])
    if activation in _FINAL:
        return graph.add(_FINAL[activation], layer.name, [x], x.shape)
    name = getattr(activation, "__name__", activation)
    raise refuse(layer, path, f"has the activation `{name}`: only relu, relu6, softmax and sigmoid can be exported.")


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
    """The kernel that a layer stores; with what low-rank adaptation adds to it."""
    return graph.constant(layer, "kernel", lambda: array(layer.kernel))


def dilation(layer: Any) -> dict[str, tuple[int, ...]]:
    """The attribute of a dilated convolution; nothing for others."""
    rate = getattr(layer, "dilation_rate", 1)
    rate = (rate, rate) if isinstance(rate, int) else tuple(rate)
    return {} if rate == (1, 1) else {"dilation": rate}


@lowers(layers.Conv2D, reads=f"filters groups {_WINDOW}")
def _conv2d(graph, layer, call, x, shape):
    window = {"strides": tuple(layer.strides), "padding": layer.padding, "groups": layer.groups, **dilation(layer)}
    return linear(graph, "conv", layer, call, x, shape, stored_kernel(graph, layer), **window)


@lowers(layers.DepthwiseConv2D, ours.DepthwiseConv2D, reads=f"depth_multiplier {_WINDOW}")
def _depthwise(graph, layer, call, x, shape):
    if layer.depth_multiplier != 1:
        raise refuse(layer, call.path, "has a depth multiplier above 1, which cannot be exported.")
    window = {"strides": tuple(layer.strides), "padding": layer.padding, **dilation(layer)}
    return linear(graph, "depthwise", layer, call, x, shape, stored_kernel(graph, layer), **window)


@lowers(layers.Dense, reads="units activation use_bias")
def _dense(graph, layer, call, x, shape):
    """A matrix product; over an image, a 1x1 convolution."""
    if len(x[0].shape) == 2:
        return linear(graph, "dense", layer, call, x, shape, stored_kernel(graph, layer))
    if len(x[0].shape) != 4:
        raise refuse(layer, call.path, "must read one vector, or one image, an image.")
    kernel = graph.constant(layer, "kernel of 1x1", lambda: array(layer.kernel)[None, None])
    return linear(graph, "conv", layer, call, x, shape, kernel, **POINTWISE)


def affine(graph: GraphBuilder, layer: Any, x: Sequence[Value], shape: Shape, scale: Any, bias: Any) -> Value:
    """`scale * x + bias`, vectors with one number a channel."""
    vectors = {"scale": np.asarray(scale, "float32"), "bias": np.asarray(bias, "float32")}
    return graph.add("affine", layer.name, x, shape, **vectors)


def _check_last(layer, path, axis, x, what):
    """Raises an error if an axis, or the only one of a sequence, is not the last."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    if axes not in ((-1,), (len(x.shape) - 1,)):
        raise refuse(layer, path, f"has `axis` (={axis!r}): only {what} along the last axis can be exported.")


@lowers(layers.BatchNormalization, ours.BatchNormalization, reads="axis epsilon center scale")
def _batch_normalization(graph, layer, call, x, shape):
    _check_last(layer, call.path, layer.axis, x[0], "normalization")
    channels = x[0].shape[-1]
    gamma = np.ones(channels) if layer.gamma is None else array(layer.gamma, "float64")
    beta = np.zeros(channels) if layer.beta is None else array(layer.beta, "float64")
    scale = gamma / np.sqrt(array(layer.moving_variance, "float64") + layer.epsilon)
    return affine(graph, layer, x, shape, scale, beta - array(layer.moving_mean, "float64") * scale)


def _channel_vector(layer, path, name, numbers, x):
    """Numbers as a vector with one a channel; an error if they differ from place to place."""
    numbers, channels = np.asarray(numbers, "float64"), x.shape[-1]
    if numbers.size not in (1, channels) or (numbers.size > 1 and numbers.shape[-1] != channels):
        shown = f"of shape {numbers.shape}"
        raise refuse(layer, path, f"has `{name}` ({shown}): only one number, or one a channel, can be exported.")
    return np.broadcast_to(numbers.ravel(), (channels,))


@lowers(layers.Normalization, reads="axis mean variance invert")
def _normalization(graph, layer, call, x, shape):
    mean, variance = (
        _channel_vector(layer, call.path, name, array(getattr(layer, name), "float64"), x[0])
        for name in ("mean", "variance")
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return affine(graph, layer, x, shape, deviation, mean)
    return affine(graph, layer, x, shape, 1 / deviation, -mean / deviation)


@lowers(layers.Rescaling, reads="scale offset")
def _rescaling(graph, layer, call, x, shape):
    vectors = [_channel_vector(layer, call.path, name, getattr(layer, name), x[0]) for name in ("scale", "offset")]
    return affine(graph, layer, x, shape, *vectors)


def _operation_class(function, inputs=1):
    """The class that stands for a function of `keras.ops` in a functional model."""
    symbols = [keras.Input((2, 2, 2)) for _ in range(inputs)]
    return type(keras.Function(symbols, function(*symbols)).operations[-1])


@lowers(layers.ReLU, _operation_class(activations.relu), reads="max_value negative_slope threshold")
def _relu(graph, layer, call, x, shape):
    known = {None: "relu", 6.0: "relu6"}
    if layer.negative_slope or layer.threshold or layer.max_value not in known:
        raise refuse(layer, call.path, "must be a plain ReLU or ReLU(6) to be exported.")
    return graph.add("identity", layer.name, x, shape, activation=known[layer.max_value])


def _fused_activation(name):
    return lambda graph, layer, call, x, shape: graph.add("identity", layer.name, x, shape, activation=name)


lowers(_operation_class(ops.relu))(_fused_activation("relu"))
lowers(_operation_class(ops.relu6))(_fused_activation("relu6"))


@lowers(layers.Activation, reads="activation")
def _activation(graph, layer, call, x, shape):
    return activate(graph, layer, call.path, x[0])


@lowers(layers.Softmax, _operation_class(ops.softmax), reads="axis")
def _softmax(graph, layer, call, x, shape):
    _check_last(layer, call.path, layer.axis, x[0], "softmax")
    return graph.add("softmax", layer.name, x, shape)


@lowers(_operation_class(ops.sigmoid))
def _sigmoid(graph, layer, call, x, shape):
    return graph.add("sigmoid", layer.name, x, shape)


@lowers(layers.Flatten)
@lowers(layers.Reshape, reads="target_shape")
@lowers(_operation_class(lambda x: ops.reshape(x, (-1, 8))), reads="newshape")
def _reshape(graph, layer, call, x, shape):
    if None in shape[1:] or math.prod(shape[1:]) != math.prod(x[0].shape[1:]):
        raise refuse(layer, call.path, f"reshapes images together, to {tuple(shape)}, which cannot be exported.")
    return graph.add("reshape", layer.name, x, shape)


# Layers that do something in training alone. Not `RandomCrop`, which crops and resizes in inference too.
_AUGMENTATIONS = [
    getattr(layers, name)
    for name in dir(layers)
    if (name.startswith("Random") and name != "RandomCrop") or name in ("AugMix", "CutMix", "MixUp", "RandAugment")
]
_REGULARIZATIONS = [layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout]
_REGULARIZATIONS += [layers.AlphaDropout, layers.ActivityRegularization]


WITHOUT_EFFECT = (layers.Identity, *_REGULARIZATIONS, *_AUGMENTATIONS)
# What gives probabilities, beside layers with such an activation.
PROBABILITIES = (layers.Softmax, _operation_class(ops.softmax), _operation_class(ops.sigmoid))


@lowers(*WITHOUT_EFFECT, reads=None)
def _nothing(graph, layer, call, x, shape):
    return x[0]


@lowers(layers.Pipeline, reads=None)
def _pipeline(graph, layer, call, x, shape):
    for part in layer.layers:
        if getattr(RULES.get(type(part)), "lower", None) is not _nothing:
            reason = (
                f"contains '{part.name}', a {type(part).__name__}: only what does nothing in inference can be there."
            )
            raise refuse(layer, call.path, reason)
    return x[0]


def pad(
    graph: GraphBuilder,
    layer: Any,
    x: Sequence[Value],
    shape: Shape,
    *,
    rows: tuple[int, int] = (0, 0),
    columns: tuple[int, int] = (0, 0),
    channels: tuple[int, int] = (0, 0),
    **attributes: Any,
) -> Value:
    """Rows, columns and channels around an image."""
    attributes["paddings"] = ((0, 0), tuple(rows), tuple(columns), channels)
    return graph.add("pad", layer.name, x, shape, attributes=attributes)


@lowers(layers.ZeroPadding2D, reads="padding")
def _zero_padding(graph, layer, call, x, shape):
    rows, columns = layer.padding
    return pad(graph, layer, x, shape, rows=rows, columns=columns)


def _pooling(kind):
    def rule(graph, layer, call, x, shape):
        window = {"pool_size": tuple(layer.pool_size), "strides": tuple(layer.strides), "padding": layer.padding}
        return graph.add(kind, layer.name, x, shape, attributes=window)

    return rule


lowers(layers.MaxPooling2D, reads="pool_size strides padding")(_pooling("max_pool"))
lowers(layers.AveragePooling2D, reads="pool_size strides padding")(_pooling("average_pool"))


def _over_image(kind):
    def rule(graph, layer, call, x, shape):
        axes = getattr(layer, "axis", (1, 2))
        axes = axes if isinstance(axes, (tuple, list)) else (axes,)
        if len(x[0].shape) != 4 or None in axes or sorted(axis % 4 for axis in axes) != [1, 2]:
            shown = getattr(layer, "axis", None)
            raise refuse(layer, call.path, f"has `axis` (={shown!r}): only (1, 2) of images can be exported.")
        return graph.add(kind, layer.name, x, shape, attributes={"keepdims": layer.keepdims})

    return rule


lowers(layers.GlobalAveragePooling2D, _operation_class(ops.mean), reads="axis keepdims")(_over_image("mean"))
lowers(layers.GlobalMaxPooling2D, _operation_class(ops.max), reads="axis keepdims")(_over_image("max"))


def _pairwise(graph, kind, layer, x):
    """Values combined one after the other; those of fewer axes get axes of 1 behind the batch, as Keras does it."""
    rank = max(len(value.shape) for value in x)
    aligned = []
    for value in x:
        shape = (1, *(1,) * (rank - len(value.shape)), *value.shape[1:])
        same = shape == value.shape
        aligned.append(value if same else graph.add("reshape", layer.name, [value], shape))
    y = aligned[0]
    for other in aligned[1:]:
        y = graph.add(kind, layer.name, [y, other], np.broadcast_shapes(y.shape, other.shape))
    return y


def _merging(kind):
    return lambda graph, layer, call, x, shape: _pairwise(graph, kind, layer, x)


lowers(layers.Add)(_merging("add"))
lowers(layers.Subtract)(_merging("subtract"))
lowers(layers.Multiply)(_merging("multiply"))
lowers(layers.Maximum)(_merging("maximum"))
lowers(layers.Minimum)(_merging("minimum"))


@lowers(layers.Average)
def _average(graph, layer, call, x, shape):
    total, ones = _pairwise(graph, "add", layer, x), np.ones(shape[-1])
    return affine(graph, layer, [total], shape, ones / len(x), 0 * ones)


# With a constant `c` on the right and on the left: scale and shift of `x` beside it.
_BESIDE_CONSTANT = {
    "add": (lambda c: (1, c), lambda c: (1, c)),
    "subtract": (lambda c: (1, -c), lambda c: (-1, c)),
    "multiply": (lambda c: (c, 0), lambda c: (c, 0)),
    "divide": (lambda c: (1 / c, 0), None),
}


def _arithmetic(kind):
    """A function of two tensors, or of a tensor and a constant."""

    def rule(graph, layer, call, x, shape):
        operands = list(inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values())
        constants = [operand for operand in operands if not isinstance(operand, Tensor)]
        if not constants and kind != "divide" and len(x[0].shape) == len(x[1].shape):
            return _pairwise(graph, kind, layer, x)
        sides = _BESIDE_CONSTANT.get(kind, (None, None))
        side = sides[0 if isinstance(operands[0], Tensor) else 1]
        if not constants or side is None or x[0].shape[1:] != tuple(shape[1:]):
            raise refuse(layer, call.path, "cannot be exported to TFLite with these operands.")
        number = _channel_vector(layer, call.path, "constant", array(constants[0], "float64"), x[0])
        ones = np.ones(shape[-1])
        scale, bias = side(number)
        return affine(graph, layer, x, shape, scale * ones, bias * ones)

    return rule


for _kind, _functions in {
    "add": [ops.add],
    "subtract": [ops.subtract],
    "multiply": [ops.multiply],
    "divide": [ops.divide, ops.true_divide],
    "maximum": [ops.maximum],
    "minimum": [ops.minimum],
}.items():
    lowers(*(_operation_class(function, 2) for function in _functions))(_arithmetic(_kind))


@lowers(layers.Concatenate, _operation_class(lambda *x: ops.concatenate(x, axis=-1), 2), reads="axis")
def _concatenate(graph, layer, call, x, shape):
    _check_last(layer, call.path, layer.axis, x[0], "concatenation")
    return graph.add("concat", layer.name, x, shape) if len(x) > 1 else x[0]
