"""Lowering rules of layers for sequences `(steps, channels)`, which become operations on images of one row.

`passes.simplify` moves operations between two of them to the row, and removes the reshapes between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call
from keras_sharenets.mobile.graph.inference_graph import Value
from keras_sharenets.mobile.graph.keras_rules import POINTWISE, WINDOW, linear
from keras_sharenets.mobile.graph.rules import GraphBuilder, lowers
from keras_sharenets.mobile.graph.steps import array, pad


def _row(graph: GraphBuilder, layer: Any, x: Sequence[Value]) -> Value:
    """A sequence as an image of one row."""
    return graph.add("reshape", layer.name, x, (1, 1, *x[0].shape[1:]))


def _row_shape(shape: Shape) -> Shape:
    return (1, 1, *shape[1:])


def _sequence(graph: GraphBuilder, layer: Any, y: Value, shape: Shape) -> Value:
    return graph.add("reshape", layer.name, [y], shape)


def _kernel(graph, layer, name, order=(0, 1, 2, 3)):
    """A kernel of one row, which is the same constant at all calls."""
    return graph.constant(layer, f"{name} of one row", lambda: array(getattr(layer, name))[None].transpose(order))


def _padded(graph: GraphBuilder, layer: Any, x: Sequence[Value], *, equal: bool = False) -> tuple[Value, dict]:
    """The row that the equivalent convolution without causal padding reads, and its window.

    `equal` makes the strides equal along both axes, as depthwise convolutions require; a single row stays a single row.
    """
    (step,), (rate,), y = layer.strides, layer.dilation_rate, _row(graph, layer, x)
    padding = layer.padding
    if padding == "causal":
        before = (layer.kernel_size[0] - 1) * rate
        y = pad(graph, layer, [y], (1, 1, y.shape[2] + before, y.shape[3]), columns=(before, 0))
        padding = "valid"
    dilation = {} if rate == 1 else {"dilation": (1, rate)}
    return y, {"strides": (step if equal else 1, step), "padding": padding, **dilation}


@lowers(layers.Conv1D, reads=f"filters groups {WINDOW}")
def _conv1d(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    y, window = _padded(graph, layer, x)
    kernel = _kernel(graph, layer, "kernel")
    y = linear(graph, "conv", layer, call, [y], _row_shape(shape), kernel, groups=layer.groups, **window)
    return _sequence(graph, layer, y, shape)


@lowers(layers.DepthwiseConv1D, reads=f"depth_multiplier {WINDOW}")
def _depthwise(graph, layer, call, x, shape):
    y, window = _padded(graph, layer, x, equal=True)
    y = linear(graph, "depthwise", layer, call, [y], _row_shape(shape), _kernel(graph, layer, "kernel"), **window)
    return _sequence(graph, layer, y, shape)


@lowers(layers.SeparableConv1D, reads=f"filters depth_multiplier {WINDOW}")
def _separable(graph, layer, call, x, shape):
    y, window = _padded(graph, layer, x, equal=True)
    between = (*_row_shape(shape)[:-1], x[0].shape[-1] * layer.depth_multiplier)
    kernel = _kernel(graph, layer, "depthwise_kernel")
    y = graph.add("depthwise", layer.name, [y], between, kernel=kernel, attributes=window)
    kernel = _kernel(graph, layer, "pointwise_kernel")
    y = linear(graph, "conv", layer, call, [y], _row_shape(shape), kernel, **POINTWISE)
    return _sequence(graph, layer, y, shape)


@lowers(layers.Conv1DTranspose, reads="filters kernel_size strides padding activation use_bias")
def _conv_transpose(graph, layer, call, x, shape):
    kernel = _kernel(graph, layer, "kernel", (0, 1, 3, 2))
    window = {"strides": (1, *layer.strides), "padding": layer.padding}
    y = linear(graph, "conv_transpose", layer, call, [_row(graph, layer, x)], _row_shape(shape), kernel, **window)
    return _sequence(graph, layer, y, shape)


def _pooling(kind):
    def rule(graph, layer, call, x, shape):
        sides = {"pool_size": (1, *layer.pool_size), "strides": (1, *layer.strides), "padding": layer.padding}
        y = graph.add(kind, layer.name, [_row(graph, layer, x)], _row_shape(shape), attributes=sides)
        return _sequence(graph, layer, y, shape)

    return rule


lowers(layers.MaxPooling1D, reads="pool_size strides padding")(_pooling("max_pool"))
lowers(layers.AveragePooling1D, reads="pool_size strides padding")(_pooling("average_pool"))


def _over_sequence(kind):
    def rule(graph, layer, call, x, shape):
        row, channels = _row(graph, layer, x), x[0].shape[-1]
        y = graph.add(kind, layer.name, [row], (1, channels), attributes={"keepdims": False})
        return _sequence(graph, layer, y, shape) if layer.keepdims else y

    return rule


lowers(layers.GlobalAveragePooling1D, reads="keepdims")(_over_sequence("mean"))
lowers(layers.GlobalMaxPooling1D, reads="keepdims")(_over_sequence("max"))


@lowers(layers.ZeroPadding1D, reads="padding")
def _zero_padding(graph, layer, call, x, shape):
    y = pad(graph, layer, [_row(graph, layer, x)], _row_shape(shape), columns=layer.padding)
    return _sequence(graph, layer, y, shape)


@lowers(layers.Cropping1D, reads="cropping")
def _cropping(graph, layer, call, x, shape):
    start = {"start": (0, layer.cropping[0])}
    y = graph.add("crop", layer.name, [_row(graph, layer, x)], _row_shape(shape), attributes=start)
    return _sequence(graph, layer, y, shape)


@lowers(layers.UpSampling1D, reads="size")
def _up_sampling(graph, layer, call, x, shape):
    y = graph.add("resize", layer.name, [_row(graph, layer, x)], _row_shape(shape), attributes={"mode": "nearest"})
    return _sequence(graph, layer, y, shape)
