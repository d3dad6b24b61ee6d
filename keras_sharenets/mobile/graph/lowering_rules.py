"""What each layer becomes in an inference graph: one rule a layer class.

A rule takes the growing graph (`inference_graph.GraphBuilder`), the layer, the call, the values that it reads and the
shape of its output, adds operations and returns the output's value. The most specific class of a layer that has a rule
counts; a layer without one is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops

from keras_sharenets import layers as ours
from keras_sharenets.ops import kernels, permutations


class UnsupportedLayerError(ValueError):
    """A layer has no counterpart in the inference graph."""


RULES: dict[type, Callable[..., Any]] = {}


def lowers(*classes: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a rule for layer classes."""

    def register(rule):
        RULES.update((layer, rule) for layer in classes)
        return rule

    return register


def rule_for(layer: keras.Operation, path: str, materialized: bool) -> Callable[..., Any]:
    """The rule of a layer.

    Args:
        layer: the layer, or the operation that stands for a function.
        path: its name, for messages.
        materialized: whether a kernel-shared layer becomes one convolution with its effective kernel.

    Raises:
        UnsupportedLayerError: there is none.
    """
    if materialized and hasattr(layer, "effective_kernel"):
        return _effective_convolution
    for base in type(layer).__mro__:
        if base in RULES:
            return RULES[base]
    raise UnsupportedLayerError(
        f"'{path}', a {type(layer).__name__}, cannot be exported to TFLite. Replace it by layers of Keras or of "
        f"this library that have a rule in `{__name__}`."
    )


def _array(variable, dtype="float32"):
    return np.asarray(ops.convert_to_numpy(variable), dtype)


_FUSED = {activations.relu: "relu", activations.relu6: "relu6"}
_FINAL = {activations.softmax: "softmax", activations.sigmoid: "sigmoid"}


def _activate(graph, layer, x):
    """The output of a layer's own activation."""
    activation = getattr(layer, "activation", None)
    if activation in (None, activations.linear):
        return x
    if activation in _FUSED:
        return graph.add("identity", layer.name, [x], x.shape, activation=_FUSED[activation])
    if activation in _FINAL:
        return graph.add(_FINAL[activation], layer.name, [x], x.shape)
    raise UnsupportedLayerError(
        f"Layer '{layer.name}' has the activation `{getattr(activation, '__name__', activation)}`: only relu, relu6, "
        "softmax and sigmoid can be exported."
    )


def _bias(layer):
    return None if layer.bias is None else _array(layer.bias)


def _linear(graph, kind, layer, x, shape, kernel, **attributes):
    """A convolution or a matrix product with the layer's bias and activation."""
    y = graph.add(kind, layer.name, x, shape, kernel=kernel, bias=_bias(layer), attributes=attributes)
    return _activate(graph, layer, y)


def _stored_kernel(graph, layer):
    return graph.constant(layer, "kernel", lambda: _array(layer.kernel))


def _check_channels_last(layer):
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnsupportedLayerError(f"Layer '{layer.name}' has its channels first; build the network channels last.")


@lowers(layers.Conv2D)
def _conv2d(graph, layer, call, x, shape):
    _check_channels_last(layer)
    if tuple(layer.dilation_rate) != (1, 1):
        raise UnsupportedLayerError(f"Layer '{layer.name}' is dilated, which cannot be exported.")
    window = {"strides": tuple(layer.strides), "padding": layer.padding, "groups": layer.groups}
    return _linear(graph, "conv", layer, x, shape, _stored_kernel(graph, layer), **window)


@lowers(layers.DepthwiseConv2D)
def _depthwise(graph, layer, call, x, shape):
    _check_channels_last(layer)
    if layer.depth_multiplier != 1:
        raise UnsupportedLayerError(f"Layer '{layer.name}' has a depth multiplier above 1, which cannot be exported.")
    window = {"strides": tuple(layer.strides), "padding": layer.padding}
    return _linear(graph, "depthwise", layer, x, shape, _stored_kernel(graph, layer), **window)


@lowers(layers.Dense)
def _dense(graph, layer, call, x, shape):
    if len(x[0].shape) != 2:
        raise UnsupportedLayerError(f"Layer '{layer.name}', a Dense layer, must read one vector an image.")
    return _linear(graph, "dense", layer, x, shape, _stored_kernel(graph, layer))


def _affine(graph, layer, x, shape, scale, bias):
    vectors = {"scale": np.asarray(scale, "float32"), "bias": np.asarray(bias, "float32")}
    return graph.add("affine", layer.name, x, shape, **vectors)


@lowers(layers.BatchNormalization)
def _batch_normalization(graph, layer, call, x, shape):
    channels = x[0].shape[-1]
    gamma = np.ones(channels) if layer.gamma is None else _array(layer.gamma, "float64")
    beta = np.zeros(channels) if layer.beta is None else _array(layer.beta, "float64")
    scale = gamma / np.sqrt(_array(layer.moving_variance, "float64") + layer.epsilon)
    return _affine(graph, layer, x, shape, scale, beta - _array(layer.moving_mean, "float64") * scale)


@lowers(layers.Normalization)
def _normalization(graph, layer, call, x, shape):
    statistics = (_array(values, "float64").ravel() for values in (layer.mean, layer.variance))
    mean, variance = (np.broadcast_to(vector, x[0].shape[-1]) for vector in statistics)
    scale = 1 / np.maximum(np.sqrt(variance), 1e-7)
    return _affine(graph, layer, x, shape, scale, -mean * scale)


@lowers(layers.Rescaling)
def _rescaling(graph, layer, call, x, shape):
    ones = np.ones(x[0].shape[-1])
    return _affine(graph, layer, x, shape, layer.scale * ones, layer.offset * ones)


@lowers(layers.ReLU)
def _relu(graph, layer, call, x, shape):
    known = {None: "relu", 6.0: "relu6"}
    if layer.negative_slope or layer.threshold or layer.max_value not in known:
        raise UnsupportedLayerError(f"Layer '{layer.name}' must be a plain ReLU or ReLU(6) to be exported.")
    return graph.add("identity", layer.name, x, shape, activation=known[layer.max_value])


lowers(layers.Activation)(lambda graph, layer, call, x, shape: _activate(graph, layer, x[0]))
lowers(layers.Softmax)(lambda graph, layer, call, x, shape: graph.add("softmax", layer.name, x, shape))
lowers(layers.Flatten, layers.Reshape)(lambda graph, layer, call, x, shape: graph.add("reshape", layer.name, x, shape))
# Layers that do something in training alone.
lowers(layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.ActivityRegularization)(
    lambda graph, layer, call, x, shape: x[0]
)


def _pad(graph, layer, x, shape, *, rows=(0, 0), columns=(0, 0), channels=(0, 0), **attributes):
    attributes["paddings"] = ((0, 0), tuple(rows), tuple(columns), channels)
    return graph.add("pad", layer.name, x, shape, attributes=attributes)


@lowers(layers.ZeroPadding2D)
def _zero_padding(graph, layer, call, x, shape):
    rows, columns = layer.padding
    return _pad(graph, layer, x, shape, rows=rows, columns=columns)


@lowers(ours.ChannelPadding)
def _channel_padding(graph, layer, call, x, shape):
    more = layer.channels - x[0].shape[-1]
    return _pad(graph, layer, x, shape, channels=(0, more)) if more else x[0]


def _pooling(kind):
    def rule(graph, layer, call, x, shape):
        window = {"pool_size": tuple(layer.pool_size), "strides": tuple(layer.strides), "padding": layer.padding}
        return graph.add(kind, layer.name, x, shape, attributes=window)

    return rule


lowers(layers.MaxPooling2D)(_pooling("max_pool"))
lowers(layers.AveragePooling2D)(_pooling("average_pool"))


@lowers(ours.PaddedMaxPooling2D)
def _padded_max_pooling(graph, layer, call, x, shape):
    window = {"pool_size": (layer.pool_size,) * 2, "strides": (layer.strides,) * 2, "padding": "valid"}
    border = layer.pool_size // 2
    batch, height, width, channels = x[0].shape
    padded = (batch, height + 2 * border, width + 2 * border, channels)
    y = _pad(graph, layer, x, padded, rows=(border, border), columns=(border, border), mode="symmetric")
    return graph.add("max_pool", layer.name, [y], shape, attributes=window)


def _global_pooling(kind):
    def rule(graph, layer, call, x, shape):
        _check_channels_last(layer)
        return graph.add(kind, layer.name, x, shape, attributes={"keepdims": layer.keepdims})

    return rule


lowers(layers.GlobalAveragePooling2D)(_global_pooling("mean"))
lowers(layers.GlobalMaxPooling2D)(_global_pooling("max"))


def _permute(graph, layer, x, indices):
    return graph.add("permute", layer.name, [x], x.shape, attributes={"indices": np.asarray(indices)})


@lowers(ours.StridedChannelShuffle)
def _strided_shuffle(graph, layer, call, x, shape):
    return _permute(graph, layer, x[0], permutations.strided_shuffle(shape[-1], layer.groups))


@lowers(ours.ChannelShuffle)
def _channel_shuffle(graph, layer, call, x, shape):
    return _permute(graph, layer, x[0], permutations.channel_shuffle(shape[-1], layer.groups, layer.block_size))


@lowers(ours.ChannelSlice)
def _slice(graph, layer, call, x, shape):
    return graph.add("slice", layer.name, x, shape, attributes={"start": layer.start})


def _merging(kind):
    def rule(graph, layer, call, x, shape):
        y = x[0]
        for other in x[1:]:
            y = graph.add(kind, layer.name, [y, other], shape)
        return y

    return rule


lowers(layers.Add)(_merging("add"))
lowers(layers.Multiply)(_merging("multiply"))


@lowers(layers.Concatenate)
def _concatenate(graph, layer, call, x, shape):
    if layer.axis not in (-1, len(shape) - 1):
        raise UnsupportedLayerError(
            f"Layer '{layer.name}' concatenates axis {layer.axis}: only channels can be exported."
        )
    return graph.add("concat", layer.name, x, shape)


_POINTWISE = {"strides": (1, 1), "padding": "valid", "groups": 1}


@lowers(ours.SqueezeExcite)
def _squeeze_excite(graph, layer, call, x, shape):
    """With 1x1 convolutions, not dense layers: delegates run in one piece what keeps the axes of an image."""
    y = graph.add("mean", layer.name, x, (1, 1, 1, shape[-1]), attributes={"keepdims": True})
    for dense in (layer.squeeze, layer.excite):
        kernel = graph.constant(dense, "kernel", lambda dense=dense: _array(dense.kernel)[None, None])
        units = (1, 1, 1, dense.units)
        y = graph.add("conv", layer.name, [y], units, kernel=kernel, bias=_bias(dense), attributes=_POINTWISE)
        y = _activate(graph, dense, y)
    return graph.add("multiply", layer.name, [x[0], y], shape)


# Kernel-shared layers: in full, or as operations on the tensors that they store, which keeps a file as small as the
# network.


def _strides(layer, call):
    strides = call.kwargs.get("strides") or getattr(layer, "strides", (1, 1))
    return (strides, strides) if isinstance(strides, int) else tuple(strides)


def _effective_convolution(graph, layer, call, x, shape):
    """A kernel-shared layer as the ordinary convolution of its effective kernel."""
    kernel = graph.constant(layer, "effective_kernel", lambda: _array(layer.effective_kernel()))
    groups = x[0].shape[-1] // kernel.array.shape[2]
    window = {"strides": _strides(layer, call), "padding": getattr(layer, "padding", "valid"), "groups": groups}
    return _linear(graph, "conv", layer, x, shape, kernel, **window)


@lowers(ours.HighlySharedConv2D)
def _highly_shared(graph, layer, call, x, shape):
    """The filter bank, over every repeat and every arrangement of the image's channels."""
    window = {"strides": _strides(layer, call), "padding": layer.padding, "groups": layer.groups}
    if layer.channel_repeats == 1:
        return _activate(graph, layer, _arranged(graph, layer, x[0], shape, window))
    # Arrangements are materialized: to shuffle the few channels of a small group takes longer than to convolve them.
    kernel = graph.constant(layer, "arranged_kernel", lambda: _arranged_bank(layer))
    return _linear(graph, "shared_conv", layer, x, shape, kernel, **window, channel_repeats=layer.channel_repeats)


def _arranged_bank(layer):
    bank_groups = layer.groups // layer.channel_repeats
    return _array(kernels.arrange(layer.kernel, layer.arrangements, bank_groups, layer.shuffle_groups))


def _arranged(graph, layer, x, shape, window):
    """One convolution for each arrangement, all with the same filters: the image's channels are shuffled instead."""
    group = x.shape[-1] // layer.groups
    part_shape, parts = (*shape[:-1], shape[-1] // layer.arrangements), []
    kernel = _stored_kernel(graph, layer)
    for order in permutations.arrangements(group, layer.arrangements, layer.shuffle_groups):
        # `W[order]` on `x` is `W` on what `x` is when `order` is undone. The first order is the identity.
        indices = (np.arange(layer.groups)[:, None] * group + np.argsort(order)).ravel()
        read = _permute(graph, layer, x, indices) if parts else x
        parts.append(graph.add("conv", layer.name, [read], part_shape, kernel=kernel, attributes=window))
    y = parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape)
    if len(parts) > 1 and layer.groups > 1:
        # From arrangements, groups, filters to the layer's groups, arrangements, filters.
        y = _permute(graph, layer, y, np.arange(shape[-1]).reshape(len(parts), layer.groups, -1).swapaxes(0, 1).ravel())
    return _add_bias(graph, layer, y)


def _add_bias(graph, layer, x):
    return x if layer.bias is None else _affine(graph, layer, [x], x.shape, np.ones(x.shape[-1]), _array(layer.bias))


def _groups_of(graph, layer, x):
    """The channels of one group after the other, each as a value."""
    start = 0
    for size in layer.sizes:
        part = (*x.shape[:-1], size)
        alone = len(layer.sizes) == 1
        yield x if alone else graph.add("slice", layer.name, [x], part, attributes={"start": start})
        start += size


def _group_convolution(graph, layer, index, x):
    kernel = graph.constant(layer, f"kernel_{index + 1}", lambda: _array(layer.kernels[index]))
    shape = (*x.shape[:-1], layer.filters // layer.groups)
    return graph.add("conv", layer.name, [x], shape, kernel=kernel, attributes=_POINTWISE)


def _concatenated(graph, layer, parts, shape):
    y = parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape)
    return _add_bias(graph, layer, y)


@lowers(ours.HierarchicalGroupConv2D)
def _hierarchical(graph, layer, call, x, shape):
    """Group by group, each with the outputs of the one before."""
    outputs = []
    for index, read in enumerate(_groups_of(graph, layer, x[0])):
        if outputs:
            both = (*read.shape[:-1], read.shape[-1] + outputs[-1].shape[-1])
            read = graph.add("concat", layer.name, [read, outputs[-1]], both)
        outputs.append(_group_convolution(graph, layer, index, read))
    return _concatenated(graph, layer, outputs, shape)


@lowers(ours.SplitGroupConv2D)
def _split(graph, layer, call, x, shape):
    """One grouped convolution if the groups have one size, else group by group."""
    if len(set(layer.sizes)) > 1:
        groups = enumerate(_groups_of(graph, layer, x[0]))
        return _concatenated(graph, layer, [_group_convolution(graph, layer, i, read) for i, read in groups], shape)
    kernel = graph.constant(layer, "kernels", lambda: np.concatenate([_array(k) for k in layer.kernels], axis=-1))
    return _linear(graph, "conv", layer, x, shape, kernel, **{**_POINTWISE, "groups": layer.groups})


@lowers(ours.InterleavedGroupConv2D)
def _interleaved(graph, layer, call, x, shape):
    """One grouped convolution after the other, each with its strided channel shuffles."""
    (y,) = x
    for index, (variable, shuffles) in enumerate(zip(layer.kernels, layer.shuffles, strict=True)):
        kernel = graph.constant(layer, f"kernel_{index + 1}", lambda variable=variable: _array(variable))
        _, _, inputs, filters = kernel.array.shape
        window = {**_POINTWISE, "groups": y.shape[-1] // inputs}
        y = graph.add("conv", layer.name, [y], (*y.shape[:-1], filters), kernel=kernel, attributes=window)
        for groups in shuffles:
            y = _permute(graph, layer, y, permutations.strided_shuffle(filters, groups))
    return _add_bias(graph, layer, y)
