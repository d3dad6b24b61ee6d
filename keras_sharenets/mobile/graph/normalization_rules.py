"""Lowering rules of normalizations: scales and shifts, and those that depend on their input."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from keras_sharenets import layers as ours
from keras_sharenets.mobile.graph.rules import lowers, refuse
from keras_sharenets.mobile.graph.steps import (
    affine,
    array,
    channel_vector,
    check_last,
    constant,
    operation_class,
    pairwise,
    scaled,
    unary,
)


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
