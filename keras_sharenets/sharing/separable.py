"""Separable convolutions as their two parts: the 1x1 convolution, which has nearly all of their weights, can share."""

from __future__ import annotations

from typing import Any

import keras

from keras_sharenets._types import Shape, Tensor
from keras_sharenets.analysis.graph import Graph, copy_layer, copy_network


class _Parts(keras.layers.Layer):
    """A depthwise convolution and a 1x1 convolution in place of a separable one, with its weights in its order.

    A trace of the network has both calls, by `reference_model`: the 1x1 convolution has the name of the layer.
    """

    def __init__(self, layer: keras.layers.SeparableConv2D):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        common = {"data_format": layer.data_format, "dtype": layer.dtype_policy, "trainable": layer.trainable}
        self.depthwise = keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            depthwise_initializer=layer.depthwise_initializer,
            depthwise_regularizer=layer.depthwise_regularizer,
            depthwise_constraint=layer.depthwise_constraint,
            name=f"{layer.name}_depthwise",
            **common,
        )
        self.pointwise = keras.layers.Conv2D(
            layer.filters,
            1,
            activation=layer.activation,
            use_bias=layer.use_bias,
            kernel_initializer=layer.pointwise_initializer,
            bias_initializer=layer.bias_initializer,
            kernel_regularizer=layer.pointwise_regularizer,
            bias_regularizer=layer.bias_regularizer,
            activity_regularizer=layer.activity_regularizer,
            kernel_constraint=layer.pointwise_constraint,
            bias_constraint=layer.bias_constraint,
            name=layer.name,
            **common,
        )

    def build(self, input_shape: Shape) -> None:
        self.depthwise.build(input_shape)
        self.pointwise.build(self.depthwise.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(inputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.pointwise.compute_output_shape(self.depthwise.compute_output_shape(input_shape))

    def reference_model(self, inputs: keras.KerasTensor) -> keras.Model:
        """Both calls as a functional model, over the very layers of this one."""
        start = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype)
        return keras.Model(start, self.call(start))


def split_separable(model: keras.Model, graph: Graph) -> keras.Model:
    """The network with every `keras.layers.SeparableConv2D` in two layers, in a copy; itself where it has none.

    Args:
        model: functional or sequential; models inside it are looked into.
        graph: its trace.
    """
    if not any(_is_separable(call.operation) for call in graph.calls):
        return model
    return copy_network(model, lambda layer: _Parts(layer) if _is_separable(layer) else copy_layer(layer))


def _is_separable(operation: Any) -> bool:
    return type(operation) is keras.layers.SeparableConv2D
