"""Layers that are convolutions under another name, as `Conv2D`, which can share.

A separable convolution is a depthwise and a 1x1 convolution, which has nearly all of its weights (Xception, NASNet).
A dense layer on images is a 1x1 convolution (ConvNeXt).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets._types import Shape, Tensor
from keras_sharenets.analysis.graph import Graph, copy_layer, copy_network


class _Chain(keras.layers.Layer):
    """Layers one after the other in place of one, with its weights in its order.

    A trace of the network has their calls, by `reference_model`.
    """

    def __init__(self, layer: keras.layers.Layer, parts: Sequence[keras.layers.Layer]):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.parts = list(parts)

    def build(self, input_shape: Shape) -> None:
        for part in self.parts:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return functools.reduce(lambda x, part: part(x), self.parts, inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return functools.reduce(lambda shape, part: part.compute_output_shape(shape), self.parts, input_shape)

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        super().set_weights([array.reshape(own.shape) for array, own in zip(weights, self.weights, strict=True)])

    def reference_model(self, inputs: keras.KerasTensor) -> keras.Model:
        """All calls as a functional model, over the very layers of this one."""
        start = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype)
        return keras.Model(start, self.call(start))


def as_convolutions(model: keras.Model, graph: Graph) -> keras.Model:
    """A copy of the network in which such layers are convolutions of their names; itself where it has none.

    Args:
        model: functional or sequential; models inside it are looked into.
        graph: its trace.
    """
    on_others = {id(call.operation) for call in graph.calls if any(len(shape) != 4 for shape in call.input_shapes)}
    made = {
        id(call.operation): _MAKES[type(call.operation)]
        for call in graph.calls
        if type(call.operation) in _MAKES
        and id(call.operation) not in on_others
        # What holds integers, or weights beside its kernel, is another layer.
        and len(call.operation.weights) == _weights(call.operation)
    }
    if not made:
        return model
    return copy_network(
        model, lambda layer: _Chain(layer, made[id(layer)](layer)) if id(layer) in made else copy_layer(layer)
    )


def _weights(layer: Any) -> int:
    return (2 if isinstance(layer, keras.layers.SeparableConv2D) else 1) + layer.use_bias


def _common(layer: Any) -> dict[str, Any]:
    return {"dtype": layer.dtype_policy, "trainable": layer.trainable}


def _parts_of_separable(layer: Any) -> list[keras.layers.Layer]:
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.depth_multiplier,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_initializer=layer.depthwise_initializer,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        name=f"{layer.name}_depthwise",
        **_common(layer),
    )
    kernel = {part: getattr(layer, f"pointwise_{part}") for part in ("initializer", "regularizer", "constraint")}
    return [depthwise, _pointwise(layer, layer.filters, layer.data_format, **kernel)]


def _convolution_of_dense(layer: Any) -> list[keras.layers.Layer]:
    kernel = {part: getattr(layer, f"kernel_{part}") for part in ("initializer", "regularizer", "constraint")}
    return [_pointwise(layer, layer.units, "channels_last", **kernel)]


def _pointwise(
    layer: Any, filters: int, data_format: str, *, initializer: Any, regularizer: Any, constraint: Any
) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        filters,
        1,
        data_format=data_format,
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_initializer=initializer,
        bias_initializer=layer.bias_initializer,
        kernel_regularizer=regularizer,
        bias_regularizer=layer.bias_regularizer,
        activity_regularizer=layer.activity_regularizer,
        kernel_constraint=constraint,
        bias_constraint=layer.bias_constraint,
        name=layer.name,
        **_common(layer),
    )


_MAKES = {keras.layers.SeparableConv2D: _parts_of_separable, keras.layers.Dense: _convolution_of_dense}
