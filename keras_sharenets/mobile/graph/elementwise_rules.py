"""Lowering rules of elementwise functions: activations and arithmetic, as layers and as functions of `keras.ops`.

Some are single operators in a file; others are composed of several, so that they also run in integers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import activations, layers, ops

from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.inference_graph import FAR, Value
from keras_sharenets.mobile.graph.rules import (
    RULES,
    GraphBuilder,
    call_arguments,
    check_arguments,
    check_class,
    lowers,
    refuse,
    registered_class,
)
from keras_sharenets.mobile.graph.steps import (
    aligned,
    along_last,
    array,
    check_last,
    constant,
    masked_softmax,
    operation_class,
    pairwise,
    scaled,
    unary,
    unnamed_class,
)

# Function of `(graph, layer, x)` that returns the value of the activation of `x`.
_Function = Callable[[GraphBuilder, Any, Value], Value]


def _relu(graph, layer, x):
    return graph.add("identity", layer.name, [x], x.shape, activation="relu")


def _relu6(graph, layer, x):
    return graph.add("identity", layer.name, [x], x.shape, activation="relu6")


def _clipped(low: float, high: float) -> _Function:
    """`min(max(x, low), high)` by means of a ReLU6."""
    factor = 6 / (high - low)

    def clipped(graph, layer, x):
        y = _relu6(graph, layer, scaled(graph, layer, x, factor, -low * factor))
        return scaled(graph, layer, y, 1 / factor, low)

    return clipped


def _hard_sigmoid(graph, layer, x):
    return scaled(graph, layer, _relu6(graph, layer, scaled(graph, layer, x, 1, 3)), 1 / 6)


def _function(kind: str, **attributes: Any) -> _Function:
    """A function that is a single operator."""
    return lambda graph, layer, x: unary(graph, kind, layer, x, **attributes)


def _times(function: _Function) -> _Function:
    """`x * function(x)`."""
    return lambda graph, layer, x: pairwise(graph, "multiply", layer, [x, function(graph, layer, x)])


def _softplus(graph, layer, x):
    """`log(1 + exp(x))` as `max(x, 0) - log(sigmoid(|x|))`, which avoids large and tiny intermediate values."""
    small = unary(graph, "log", layer, unary(graph, "sigmoid", layer, unary(graph, "abs", layer, x)))
    return pairwise(graph, "subtract", layer, [_relu(graph, layer, x), small])


def _mish(graph, layer, x):
    return pairwise(graph, "multiply", layer, [x, unary(graph, "tanh", layer, _softplus(graph, layer, x))])


def _log_sigmoid(graph, layer, x):
    return scaled(graph, layer, _softplus(graph, layer, scaled(graph, layer, x, -1)), -1)


def _softsign(graph, layer, x):
    """`x / (1 + |x|)` by means of a squared reciprocal root, because there is no integer division."""
    root = unary(graph, "rsqrt", layer, scaled(graph, layer, unary(graph, "abs", layer, x), 1, 1))
    return pairwise(graph, "multiply", layer, [pairwise(graph, "multiply", layer, [x, root]), root])


def _elu(alpha: float, gain: float = 1.0) -> _Function:
    """`gain * (x if x > 0 else alpha * (exp(x) - 1))`; the operator has `alpha = 1`, and a ReLU compensates for it."""

    def elu(graph, layer, x):
        y = unary(graph, "elu", layer, x)
        if (alpha, gain) == (1, 1):
            return y
        positive = scaled(graph, layer, _relu(graph, layer, x), gain * (1 - alpha))
        return pairwise(graph, "add", layer, [scaled(graph, layer, y, gain * alpha), positive])

    return elu


def _celu(alpha: float) -> _Function:
    """`alpha * elu(x / alpha)`."""
    if alpha == 1:
        return _function("elu")
    return lambda graph, layer, x: scaled(
        graph, layer, unary(graph, "elu", layer, scaled(graph, layer, x, 1 / alpha)), alpha
    )


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
# Functions with the same name in `keras.activations` and in `keras.ops`, as different objects.
_IN_BOTH: dict[str, _Function] = {
    "relu": _relu,
    "relu6": _relu6,
    "sigmoid": _function("sigmoid"),
    "tanh": _function("tanh"),
    "silu": _times(_function("sigmoid")),
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _function("hard_swish"),
    "hard_tanh": _clipped(-1, 1),
    "selu": _elu(_SELU_ALPHA, _SELU_SCALE),
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
}
_FUNCTIONS: dict[Any, _Function] = {
    **{getattr(activations, name): function for name, function in _IN_BOTH.items()},
    activations.linear: lambda graph, layer, x: x,
    activations.softmax: _function("softmax"),
    activations.elu: _function("elu"),
    activations.celu: _function("elu"),
    activations.gelu: _function("gelu", approximate=False),
    activations.leaky_relu: _function("leaky_relu", slope=0.2),
    activations.exponential: _function("exp"),
    activations.softsign: _softsign,
    activations.mish: _mish,
}
# TensorFlow's functions that compute the same.
_FUNCTIONS |= {
    getattr(tf.nn, name): _FUNCTIONS[getattr(activations, name)]
    for name in ("relu", "relu6", "sigmoid", "tanh", "silu", "selu", "softplus", "softsign", "softmax", "elu")
}
# Layers that can be the activation of another layer.
_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax, layers.Activation)


def activate(graph: GraphBuilder, layer: Any, path: str, x: Value) -> Value:
    """The output of a layer's activation, which is a function or a layer."""
    activation = getattr(layer, "activation", None)
    if isinstance(activation, _LAYERS):
        return _activation_layer(graph, activation, path, x)
    try:
        return x if activation is None else _FUNCTIONS[activation](graph, layer, x)
    except (KeyError, TypeError):  # An unknown function, or an unhashable object.
        name = getattr(activation, "__name__", activation)
        raise refuse(layer, path, f"has the activation `{name}`, which cannot be exported to TFLite.") from None


def _activation_layer(graph, activation, path, x):
    call = Call(f"{path}/{activation.name}", activation, 0, (), {}, ())
    base: Any = registered_class(activation)
    if not activation.built:  # Keras builds it in the first call on numbers.
        activation.build((None, *x.shape[1:]))
    if isinstance(activation, layers.Softmax):  # The value of a layer for sequences has one axis more here.
        check_last(activation, call.path, activation.axis, x, "softmax")
    check_class(activation, base, call.path)
    check_arguments(activation, RULES[base], call.path)
    return RULES[base].lower(graph, activation, call, [x], x.shape)


@lowers(layers.Activation, reads="activation")
def _activation(graph, layer, call, x, shape):
    return activate(graph, layer, call.path, x[0])


@lowers(layers.ReLU, operation_class(activations.relu), reads="max_value negative_slope threshold")
def _relu_layer(graph, layer, call, x, shape):
    most = layer.max_value
    slope = float(layer.negative_slope)
    if layer.threshold or most == 0 or (slope and most is not None):
        raise refuse(layer, call.path, "has a threshold, a maximum of 0, or both a slope and a maximum.")
    if slope:
        return unary(graph, "leaky_relu", layer, x[0], slope=slope)
    if most is None:
        return _relu(graph, layer, x[0])
    return (_relu6 if most == 6 else _clipped(0, most))(graph, layer, x[0])


@lowers(layers.LeakyReLU, operation_class(ops.leaky_relu), reads="negative_slope")
def _leaky_relu(graph, layer, call, x, shape):
    return unary(graph, "leaky_relu", layer, x[0], slope=float(layer.negative_slope))


@lowers(layers.PReLU, reads="shared_axes")
def _prelu(graph, layer, call, x, shape):
    return graph.add("prelu", layer.name, [x[0], constant(graph, layer, "alpha", lambda: array(layer.alpha))], shape)


@lowers(layers.ELU, operation_class(ops.elu), reads="alpha")
def _elu_layer(graph, layer, call, x, shape):
    return _elu(float(layer.alpha))(graph, layer, x[0])


@lowers(operation_class(ops.celu), reads="alpha")
def _celu_operation(graph, layer, call, x, shape):
    return _celu(float(layer.alpha))(graph, layer, x[0])


@lowers(operation_class(ops.gelu), reads="approximate")
def _gelu(graph, layer, call, x, shape):
    return unary(graph, "gelu", layer, x[0], approximate=bool(layer.approximate))


@lowers(layers.Softmax, operation_class(ops.softmax), reads="axis", call_reads="mask")
def _softmax(graph, layer, call, x, shape):
    axis, mask = layer.axis, call_arguments(layer, call).get("mask")
    if len(shape) < 2:
        raise refuse(layer, call.path, "has only the batch axis.")
    if not isinstance(axis, int) or axis % len(shape) == 0:
        check_last(layer, call.path, axis, x[0], "softmax")
        axis = -1
    if mask is None:
        return along_last(graph, layer, x[0], axis, lambda y: graph.add("softmax", layer.name, [y], y.shape))
    if isinstance(mask, Tensor):
        raise refuse(layer, call.path, "has a mask that depends on the input.")
    mask = aligned(layer, call.path, array(mask) > 0.5, len(shape)).swapaxes(axis, -1)
    return along_last(graph, layer, x[0], axis, lambda y: masked_softmax(graph, layer, call.path, y, mask))


def _operation(function: _Function):
    return lambda graph, layer, call, x, shape: function(graph, layer, x[0])


for _called, _how in {
    **{getattr(ops, name): function for name, function in _IN_BOTH.items()},
    ops.absolute: _function("abs"),
    ops.exp: _function("exp"),
    ops.log: _function("log"),
    ops.sqrt: _function("sqrt"),
    ops.rsqrt: _function("rsqrt"),
    ops.square: _times(lambda graph, layer, x: x),
    ops.negative: lambda graph, layer, x: scaled(graph, layer, x, -1),
}.items():
    lowers(operation_class(_called))(_operation(_how))


# Arithmetic of several tensors, or of a tensor and constants


def _merging(kind):
    return lambda graph, layer, call, x, shape: pairwise(graph, kind, layer, x)


lowers(layers.Add)(_merging("add"))
lowers(layers.Subtract)(_merging("subtract"))
lowers(layers.Multiply)(_merging("multiply"))
lowers(layers.Maximum)(_merging("maximum"))
lowers(layers.Minimum)(_merging("minimum"))


@lowers(layers.Average)
def _average(graph, layer, call, x, shape):
    return scaled(graph, layer, pairwise(graph, "add", layer, x), 1 / len(x))


# Scale and shift of `x` for a constant `c` per channel on the right and on the left.
_BESIDE_CONSTANT: dict[str, Any] = {
    "add": (lambda c: (1, c), lambda c: (1, c)),
    "subtract": (lambda c: (1, -c), lambda c: (-1, c)),
    "multiply": (lambda c: (c, 0), lambda c: (c, 0)),
    "divide": (lambda c: (1 / c, 0), None),
}


def _arithmetic(kind):
    """A function of two tensors, or of a tensor and a constant."""

    def rule(graph, layer, call, x, shape):
        operands = list(inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values())
        places: list[Any] = [place for place, operand in enumerate(operands) if not isinstance(operand, Tensor)]
        if not places:
            if len(x[0].shape) != len(x[-1].shape):
                raise refuse(layer, call.path, "cannot be exported to TFLite with tensors of different ranks.")
            return pairwise(graph, kind, layer, x * 2 if len(x) == 1 else x)
        numbers = array(operands[places[0]])
        side, channels = _BESIDE_CONSTANT.get(kind, (None, None))[1 - places[0]], x[0].shape[-1]
        if side and numbers.size in (1, numbers.shape[-1:].count(channels) * channels) and x[0].shape[1:] == shape[1:]:
            return scaled(graph, layer, x[0], *side(numbers.astype("float64").ravel()))
        numbers = aligned(layer, call.path, numbers, len(x[0].shape))
        pair = [x[0], x[0]]
        pair[places[0]] = constant(graph, layer, "constant", lambda: numbers[0])
        return pairwise(graph, kind, layer, pair)

    return rule


for _kind, _functions in {
    "add": [ops.add],
    "subtract": [ops.subtract],
    "multiply": [ops.multiply],
    "divide": [ops.divide, ops.true_divide],
    "maximum": [ops.maximum],
    "minimum": [ops.minimum],
}.items():
    lowers(*(operation_class(function, 2) for function in _functions))(_arithmetic(_kind))


@lowers(unnamed_class(ops.where, "Where"))
def _where(graph, layer, call, x, shape):
    """A choice between two tensors, or a tensor and a constant, that is the same for all inputs."""
    condition, *branches = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values()
    if isinstance(condition, Tensor) or len(branches) != 2:
        raise refuse(layer, call.path, "has a condition that depends on the input.")
    tensors, values, rank = iter(x), [], len(shape)
    chosen = aligned(layer, call.path, array(condition, "bool"), rank)
    for branch, stays in zip(branches, (~chosen, chosen), strict=True):
        if not isinstance(branch, Tensor) and np.abs(array(branch)).max() >= FAR and len(x[0].shape) == rank:
            numbers = aligned(layer, call.path, array(branch), rank)
            return graph.add("fill", layer.name, x, shape, attributes={"condition": stays, "numbers": numbers})
    for name, branch in zip(("x1", "x2"), branches, strict=True):
        if isinstance(branch, Tensor):
            values.append(next(tensors))
        else:
            numbers = aligned(layer, call.path, array(branch), rank)
            values.append(constant(graph, layer, name, lambda numbers=numbers: numbers[0]))
    if any(len(value.shape) != rank for value in values):
        raise refuse(layer, call.path, "cannot be exported to TFLite with tensors of different ranks.")
    return graph.add("where", layer.name, values, shape, attributes={"condition": chosen})


_ROOTS = {0.5: "sqrt", -0.5: "rsqrt"}
_MOST_FACTORS = 4


@lowers(operation_class(lambda x: ops.power(x, 2)))
def _power(graph, layer, call, x, shape):
    """A square root, or a product of equal factors, which has an integer operator."""
    base, exponent = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values()
    number: Any = None if isinstance(exponent, Tensor) or np.size(exponent) != 1 else array(exponent).item()
    if isinstance(base, Tensor) and x[0].shape[1:] == shape[1:]:
        if number in _ROOTS:
            return unary(graph, _ROOTS[number], layer, x[0])
        if number in range(1, _MOST_FACTORS + 1):
            return pairwise(graph, "multiply", layer, x * int(number))
    raise refuse(layer, call.path, f"has an exponent other than 1/2, -1/2 and 1 to {_MOST_FACTORS}.")


@lowers(unnamed_class(keras.applications.ConvNeXtTiny, "LayerScale"), reads="init_values projection_dim")
def _layer_scale(graph, layer, call, x, shape):
    return scaled(graph, layer, x[0], array(layer.gamma))


@lowers(unnamed_class(keras.applications.InceptionResNetV2, "CustomScaleLayer"), reads="scale")
def _scaled_residual(graph, layer, call, x, shape):
    return pairwise(graph, "add", layer, [x[0], scaled(graph, layer, x[1], layer.scale)])
