"""What each layer of Keras, and each of ours without weights, becomes in an inference graph.

A rule takes the growing graph (`lowering.Lowering`), the layer, the call, the values that it reads and the shape of its
output, adds operations and returns the output's value.
"""

import numpy as np
from keras import activations, layers, ops

from keras_sharenets import layers as ours
from keras_sharenets.ops import permutations


class UnsupportedLayerError(ValueError):
    """A layer has no counterpart in the inference graph."""


def _vector(variable):
    return None if variable is None else np.asarray(ops.convert_to_numpy(variable), "float32")


_ACTIVATIONS = {activations.relu: "relu", activations.relu6: "relu6"}
_ENDS = {activations.softmax: "softmax", activations.sigmoid: "sigmoid"}


def activate(graph, layer, x, activation):
    """The output of a layer's own activation."""
    if activation in (None, activations.linear):
        return x
    if activation in _ACTIVATIONS:
        return graph.add("identity", layer.name, [x], x.shape, activation=_ACTIVATIONS[activation])
    if activation in _ENDS:
        return graph.add(_ENDS[activation], layer.name, [x], x.shape)
    raise UnsupportedLayerError(
        f"Layer '{layer.name}' has the activation `{getattr(activation, '__name__', activation)}`: only relu, relu6, "
        "softmax and sigmoid can be exported."
    )


def _conv2d(graph, layer, call, x, shape):
    _channels_last(layer)
    kernel = graph.stored(layer, "kernel", lambda: ops.convert_to_numpy(layer.kernel))
    attributes = {"strides": tuple(layer.strides), "padding": layer.padding, "groups": layer.groups}
    if tuple(layer.dilation_rate) != (1, 1):
        raise UnsupportedLayerError(f"Layer '{layer.name}' is dilated, which cannot be exported.")
    x = graph.add("conv", layer.name, x, shape, kernel=kernel, bias=_vector(layer.bias), attributes=attributes)
    return activate(graph, layer, x, layer.activation)


def _channels_last(layer):
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnsupportedLayerError(f"Layer '{layer.name}' has its channels first; build the network channels last.")


def _depthwise(graph, layer, call, x, shape):
    _channels_last(layer)
    if layer.depth_multiplier != 1:
        raise UnsupportedLayerError(f"Layer '{layer.name}' has a depth multiplier above 1, which cannot be exported.")
    kernel = graph.stored(layer, "kernel", lambda: ops.convert_to_numpy(layer.kernel))
    attributes = {"strides": tuple(layer.strides), "padding": layer.padding}
    x = graph.add("depthwise", layer.name, x, shape, kernel=kernel, bias=_vector(layer.bias), attributes=attributes)
    return activate(graph, layer, x, layer.activation)


def expanded(graph, layer, call, x, shape):
    """A kernel-shared layer as the ordinary convolution of its effective kernel."""
    kernel = graph.stored(layer, "effective_kernel", lambda: ops.convert_to_numpy(layer.effective_kernel()))
    strides = call.kwargs.get("strides") or getattr(layer, "strides", (1, 1))
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    groups = x[0].shape[-1] // kernel.array.shape[2]
    attributes = {"strides": strides, "padding": getattr(layer, "padding", "valid"), "groups": groups}
    x = graph.add("conv", layer.name, x, shape, kernel=kernel, bias=_vector(layer.bias), attributes=attributes)
    return activate(graph, layer, x, getattr(layer, "activation", None))


def _dense(graph, layer, call, x, shape):
    if len(x[0].shape) != 2:
        raise UnsupportedLayerError(f"Layer '{layer.name}', a Dense layer, must read one vector a picture.")
    kernel = graph.stored(layer, "kernel", lambda: ops.convert_to_numpy(layer.kernel))
    x = graph.add("dense", layer.name, x, shape, kernel=kernel, bias=_vector(layer.bias))
    return activate(graph, layer, x, layer.activation)


def _batch_normalisation(graph, layer, call, x, shape):
    channels = x[0].shape[-1]
    gamma = np.ones(channels) if layer.gamma is None else np.asarray(ops.convert_to_numpy(layer.gamma), "float64")
    beta = np.zeros(channels) if layer.beta is None else np.asarray(ops.convert_to_numpy(layer.beta), "float64")
    mean = np.asarray(ops.convert_to_numpy(layer.moving_mean), "float64")
    variance = np.asarray(ops.convert_to_numpy(layer.moving_variance), "float64")
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return _affine(graph, layer, x, shape, scale, beta - mean * scale)


def _affine(graph, layer, x, shape, scale, bias):
    vectors = {"scale": np.asarray(scale, "float32"), "bias": np.asarray(bias, "float32")}
    return graph.add("affine", layer.name, x, shape, **vectors)


def _normalisation(graph, layer, call, x, shape):
    channels = x[0].shape[-1]
    mean = np.broadcast_to(np.asarray(ops.convert_to_numpy(layer.mean), "float64").ravel(), channels)
    variance = np.broadcast_to(np.asarray(ops.convert_to_numpy(layer.variance), "float64").ravel(), channels)
    scale = 1 / np.maximum(np.sqrt(variance), 1e-7)
    return _affine(graph, layer, x, shape, scale, -mean * scale)


def _rescaling(graph, layer, call, x, shape):
    ones = np.ones(x[0].shape[-1])
    return _affine(graph, layer, x, shape, layer.scale * ones, layer.offset * ones)


def _relu(graph, layer, call, x, shape):
    known = {None: "relu", 6.0: "relu6"}
    if layer.negative_slope or layer.threshold or layer.max_value not in known:
        raise UnsupportedLayerError(f"Layer '{layer.name}' must be a plain ReLU or ReLU(6) to be exported.")
    return graph.add("identity", layer.name, x, shape, activation=known[layer.max_value])


def _activation(graph, layer, call, x, shape):
    return activate(graph, layer, x[0], layer.activation)


def _skip(graph, layer, call, x, shape):
    return x[0]


def _simple(kind, **attributes):
    return lambda graph, layer, call, x, shape: graph.add(kind, layer.name, x, shape, attributes=attributes)


def _zero_padding(graph, layer, call, x, shape):
    paddings = ((0, 0), *map(tuple, layer.padding), (0, 0))
    return graph.add("pad", layer.name, x, shape, attributes={"paddings": paddings})


def _channel_padding(graph, layer, call, x, shape):
    more = layer.channels - x[0].shape[-1]
    if not more:
        return x[0]
    return graph.add("pad", layer.name, x, shape, attributes={"paddings": ((0, 0), (0, 0), (0, 0), (0, more))})


def _pooling(kind):
    def rule(graph, layer, call, x, shape):
        window = {"pool_size": tuple(layer.pool_size), "strides": tuple(layer.strides), "padding": layer.padding}
        return graph.add(kind, layer.name, x, shape, attributes=window)

    return rule


def _padded_max_pooling(graph, layer, call, x, shape):
    window = {"pool_size": (layer.pool_size,) * 2, "strides": (layer.strides,) * 2, "padding": "valid"}
    border = layer.pool_size // 2
    batch, height, width, channels = x[0].shape
    padded = (batch, height + 2 * border, width + 2 * border, channels)
    sides = ((0, 0), (border, border), (border, border), (0, 0))
    attributes = {"paddings": sides, "mode": "symmetric"}
    y = graph.add("pad", layer.name, x, padded, attributes=attributes)
    return graph.add("max_pool", layer.name, [y], shape, attributes=window)


def _global_pooling(kind):
    def rule(graph, layer, call, x, shape):
        _channels_last(layer)
        return graph.add(kind, layer.name, x, shape, attributes={"keepdims": layer.keepdims})

    return rule


def _permuted(order):
    def rule(graph, layer, call, x, shape):
        indices = np.asarray(order(layer, x[0].shape[-1]))
        return graph.add("permute", layer.name, x, shape, attributes={"indices": indices})

    return rule


def _slice(graph, layer, call, x, shape):
    return graph.add("slice", layer.name, x, shape, attributes={"start": layer.start})


def _squeeze_excite(graph, layer, call, x, shape):
    """With 1x1 convolutions, not dense layers: what stays a picture, delegates run in one piece with the rest."""
    y = graph.add("mean", layer.name, x, (1, 1, 1, shape[-1]), attributes={"keepdims": True})
    window = {"strides": (1, 1), "padding": "valid", "groups": 1}
    for dense in (layer.squeeze, layer.excite):
        kernel = graph.stored(dense, "kernel", lambda dense=dense: ops.convert_to_numpy(dense.kernel)[None, None])
        vectors = {"kernel": kernel, "bias": _vector(dense.bias)}
        y = graph.add("conv", layer.name, [y], (1, 1, 1, dense.units), attributes=window, **vectors)
        y = activate(graph, dense, y, dense.activation)
    return graph.add("multiply", layer.name, [x[0], y], shape)


def _flatten(graph, layer, call, x, shape):
    return graph.add("reshape", layer.name, x, shape)


def _merge(kind):
    def rule(graph, layer, call, x, shape):
        y = x[0]
        for other in x[1:]:
            y = graph.add(kind, layer.name, [y, other], shape)
        return y

    return rule


def _concatenate(graph, layer, call, x, shape):
    if layer.axis not in (-1, len(shape) - 1):
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' joins along axis {layer.axis}; only channels can be exported."
        )
    return graph.add("concat", layer.name, x, shape)


RULES = (
    (layers.BatchNormalization, _batch_normalisation),
    (layers.Normalization, _normalisation),
    (layers.Rescaling, _rescaling),
    (layers.DepthwiseConv2D, _depthwise),
    (layers.Conv2D, _conv2d),
    (layers.Dense, _dense),
    (layers.ReLU, _relu),
    (layers.Activation, _activation),
    (layers.Softmax, _simple("softmax")),
    ((layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.ActivityRegularization), _skip),
    (layers.ZeroPadding2D, _zero_padding),
    (layers.MaxPooling2D, _pooling("max_pool")),
    (layers.AveragePooling2D, _pooling("average_pool")),
    (layers.GlobalAveragePooling2D, _global_pooling("mean")),
    (layers.GlobalMaxPooling2D, _global_pooling("max")),
    ((layers.Flatten, layers.Reshape), _flatten),
    (layers.Add, _merge("add")),
    (layers.Multiply, _merge("multiply")),
    (layers.Concatenate, _concatenate),
    (ours.ChannelPadding, _channel_padding),
    (ours.PaddedMaxPooling2D, _padded_max_pooling),
    (ours.ChannelSlice, _slice),
    (ours.SqueezeExcite, _squeeze_excite),
    (
        ours.StridedChannelShuffle,
        _permuted(lambda layer, channels: permutations.strided_shuffle(channels, layer.groups)),
    ),
    (ours.ChannelShuffle, _permuted(lambda layer, n: permutations.channel_shuffle(n, layer.groups, layer.block_size))),
)
