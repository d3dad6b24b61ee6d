"""Replacement of layers that contain convolutions by equivalent `Conv2D` layers, which can share.

A separable convolution is a depthwise and a 1x1 convolution; the latter holds nearly all weights (Xception, NASNet). A
dense layer on images is a 1x1 convolution (ConvNeXt).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Graph, Tensor

Parts = Mapping[int, Sequence[keras.layers.Layer]]  # Equivalent layers by the identity of the layer.


def parts_of(graph: Graph) -> Parts:
    """Equivalent layers, with the same weights, for each such layer of a network."""
    on_others = {id(call.operation) for call in graph.calls if any(len(shape) != 4 for shape in call.input_shapes)}
    return {
        id(call.operation): _built(call.operation, call.input_shapes[0])
        for call in graph.calls
        if _is_convolution(call.operation) and id(call.operation) not in on_others
    }


def _is_convolution(layer: Any) -> bool:
    # Layers with integer kernels or extra weights are excluded.
    return type(layer) in _MAKES and len(layer.weights) == _MAKES[type(layer)].kernels + layer.use_bias


def is_plain_dense(layer: Any) -> bool:
    """Whether a layer is a `Dense` with only a kernel and a bias, not adapted (LoRA) or quantized."""
    return type(layer) is keras.layers.Dense and _is_convolution(layer)


def _built(layer: keras.layers.Layer, shape: Shape) -> list[keras.layers.Layer]:
    """A sequence of layers that is equivalent to the layer and has its weights."""
    parts, weights = _MAKES[type(layer)].parts(layer), iter(layer.weights)
    for part in parts:
        part.build(shape)
        for own in part.weights:
            weight = next(weights)
            own.assign(keras.ops.reshape(weight, own.shape))
            own.trainable = weight.trainable  # Weights may be frozen individually.
        shape = part.compute_output_shape(shape)
    return parts


def with_parts(graph: Graph, parts: Parts) -> Graph:
    """The trace of a network with the given layers replaced by their parts."""
    if not parts:
        return graph
    made, numbers = [], itertools.count(1 + max(tensor.number for call in graph.calls for tensor in call.outputs))
    for call in graph.calls:
        if id(call.operation) not in parts:
            made.append(call)
            continue
        (x,), before = call.inputs, call.path.removesuffix(call.operation.name)
        *first, last = parts[id(call.operation)]
        for part in first:
            output = Tensor(next(numbers), part.compute_output_shape(x.shape), call.outputs[0].dtype)
            made.append(Call(f"{before}{part.name}", part, call.index, (x,), {}, (output,)))
            x = output
        made.append(Call(call.path, last, call.index, (x,), {}, call.outputs))
    return dataclasses.replace(graph, calls=tuple(made))


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


class _Kind(NamedTuple):
    kernels: int
    parts: Callable[[Any], list[keras.layers.Layer]]


_MAKES = {
    keras.layers.SeparableConv2D: _Kind(2, _parts_of_separable),
    keras.layers.Dense: _Kind(1, _convolution_of_dense),
}
