"""Lowering rules of tensor arithmetic, such as sums and products: layers and functions of `keras.ops`."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sharenets.analysis.graph import Tensor
from keras_sharenets.mobile.graph.rules import lowers, refuse
from keras_sharenets.mobile.graph.steps import (
    array,
    constant,
    operation_class,
    pairwise,
    scaled,
    unary,
    unnamed_class,
)


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
        numbers: Any = array(operands[places[0]])
        side, channels = _BESIDE_CONSTANT.get(kind, (None, None))[1 - places[0]], x[0].shape[-1]
        if side and numbers.size in (1, numbers.shape[-1:].count(channels) * channels) and x[0].shape[1:] == shape[1:]:
            return scaled(graph, layer, x[0], *side(numbers.astype("float64").ravel()))
        rank = len(x[0].shape)
        numbers = numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)
        if numbers.ndim > rank or numbers.shape[0] != 1:
            raise refuse(layer, call.path, f"has a constant of shape {numbers.shape}, which varies along the batch.")
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
