"""Lowering rules of this library's layers.

Kernel-shared layers are either fully expanded, or lowered to operations on their stored tensors, which keeps a file as
small as the network.
"""

from __future__ import annotations

import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.mobile.graph.elementwise_rules import activate
from keras_sharenets.mobile.graph.keras_rules import POINTWISE, bias_of, dilation, linear, stored_kernel
from keras_sharenets.mobile.graph.rules import Rule, call_arguments, lowers, refuse
from keras_sharenets.mobile.graph.steps import array, pad, pair, scaled
from keras_sharenets.ops import kernels, permutations


@lowers(ours.ChannelPadding, reads="channels")
def _channel_padding(graph, layer, call, x, shape):
    more = layer.channels - x[0].shape[-1]
    return pad(graph, layer, x, shape, channels=(0, more)) if more else x[0]


@lowers(ours.PaddedMaxPooling2D, reads="pool_size strides")
def _padded_max_pooling(graph, layer, call, x, shape):
    rows, columns = layer.borders(x[0].shape)
    window = {"pool_size": (2 * rows + 1, 2 * columns + 1), "strides": (layer.strides,) * 2, "padding": "valid"}
    batch, height, width, channels = x[0].shape
    padded = (batch, height + 2 * rows, width + 2 * columns, channels)
    y = pad(graph, layer, x, padded, rows=(rows, rows), columns=(columns, columns), mode="symmetric")
    return graph.add("max_pool", layer.name, [y], shape, attributes=window)


def _permute(graph, layer, x, indices):
    return graph.add("permute", layer.name, [x], x.shape, attributes={"indices": np.asarray(indices)})


@lowers(ours.StridedChannelShuffle, reads="groups")
def _strided_shuffle(graph, layer, call, x, shape):
    return _permute(graph, layer, x[0], permutations.strided_shuffle(shape[-1], layer.groups))


@lowers(ours.ChannelShuffle, reads="groups block_size")
def _channel_shuffle(graph, layer, call, x, shape):
    return _permute(graph, layer, x[0], permutations.channel_shuffle(shape[-1], layer.groups, layer.block_size))


@lowers(ours.ChannelSlice, reads="start stop")
def _slice(graph, layer, call, x, shape):
    return graph.add("slice", layer.name, x, shape, attributes={"start": layer.start})


@lowers(ours.SqueezeExcite, reads="reduction")
def _squeeze_excite(graph, layer, call, x, shape):
    """Uses 1x1 convolutions instead of dense layers: keeping the image axes avoids further delegate partitions."""
    y = graph.add("mean", layer.name, x, (1, 1, 1, shape[-1]), attributes={"keepdims": True})
    for dense in (layer.squeeze, layer.excite):
        kernel = graph.constant(dense, "kernel", lambda dense=dense: array(dense.kernel)[None, None])
        units = (1, 1, 1, dense.units)
        y = graph.add("conv", layer.name, [y], units, kernel=kernel, bias=bias_of(dense), attributes=POINTWISE)
        y = activate(graph, dense, call.path, y)
    return graph.add("multiply", layer.name, [x[0], y], shape)


def _strides(layer, call):
    strides = call_arguments(layer, call).get("strides") or getattr(layer, "strides", (1, 1))
    return pair(strides)


def _window(layer, call):
    """The strides, padding and dilation of a layer with an `effective_kernel`, as in Conv2D."""
    padding = getattr(layer, "padding", "valid")
    if not isinstance(padding, str) or padding.lower() not in ("same", "valid"):
        raise refuse(layer, call.path, f'has `padding` (={padding!r}): "same" or "valid" can be exported.')
    for name in ("strides", "dilation_rate"):
        value = getattr(layer, name, 1)
        sides = (value, value) if isinstance(value, int) else value
        numbers = isinstance(sides, (tuple, list)) and all(isinstance(side, int) and side > 0 for side in sides)
        if not numbers or len(sides) != 2:
            raise refuse(layer, call.path, f"has `{name}` (={value!r}): one or two positive integers can be exported.")
    return {"strides": _strides(layer, call), "padding": padding.lower(), **dilation(layer)}


def _effective_convolution(graph, layer, call, x, shape):
    """A layer with an `effective_kernel`, of this library or a custom one, as the ordinary convolution."""
    if getattr(layer, "data_format", "channels_last") not in (None, "channels_last"):
        raise refuse(
            layer, call.path, f"has `data_format` (={layer.data_format!r}): build the network with channels last."
        )
    kernel = graph.constant(layer, "effective_kernel", lambda: array(layer.effective_kernel()))
    channels, sides = x[0].shape[-1], kernel.array.shape
    if len(sides) != 4 or channels % sides[2] or sides[3] != shape[-1]:
        reason = f"has an `effective_kernel()` of shape {sides} for {channels} channels, which is not a convolution."
        raise refuse(layer, call.path, reason)
    window = {**_window(layer, call), "groups": channels // sides[2]}
    return linear(graph, "conv", layer, call, x, shape, kernel, **window)


# All other arguments of such a layer are part of its kernel; the comparison with Keras detects any that are not.
EFFECTIVE = Rule(_effective_convolution, arguments=None, call_arguments=frozenset({"strides"}))


@lowers(
    ours.HighlySharedConv2D,
    reads="filters kernel_size groups channel_repeats arrangements strides padding use_bias shuffle_groups "
    "plane_orders activation",
    call_reads="strides",
)
def _highly_shared(graph, layer, call, x, shape):
    """The filter bank, applied to every repeat and every arrangement of the image's channels."""
    window = {"strides": _strides(layer, call), "padding": layer.padding, "groups": layer.groups}
    if layer.channel_repeats == 1:
        return activate(graph, layer, call.path, _arranged(graph, layer, x[0], shape, window))
    # Arrangements are materialized: shuffling the few channels of a small group takes longer than convolving them.
    kernel = graph.constant(layer, "arranged_kernel", lambda: _arranged_bank(layer))
    return linear(graph, "shared_conv", layer, call, x, shape, kernel, **window, channel_repeats=layer.channel_repeats)


def _arranged_bank(layer):
    bank_groups = layer.groups // layer.channel_repeats
    return array(
        kernels.arrange(layer.kernel, layer.arrangements, bank_groups, layer.shuffle_groups, layer.plane_orders)
    )


def _arranged(graph, layer, x, shape, window):
    """One convolution per arrangement, all with the same filters; the image's channels are shuffled instead."""
    group = x.shape[-1] // layer.groups
    part_shape, parts = (*shape[:-1], shape[-1] // layer.arrangements), []
    kernel = stored_kernel(graph, layer)
    for order in layer.orders(group):
        # `W[order]` on `x` equals `W` on `x` in the inverse of `order`. The first order is the identity.
        indices = (np.arange(layer.groups)[:, None] * group + np.argsort(order)).ravel()
        read = _permute(graph, layer, x, indices) if parts else x
        parts.append(graph.add("conv", layer.name, [read], part_shape, kernel=kernel, attributes=window))
    y = parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape)
    if len(parts) > 1 and layer.groups > 1:
        # From (arrangements, groups, filters) to the layer's (groups, arrangements, filters).
        y = _permute(graph, layer, y, np.arange(shape[-1]).reshape(len(parts), layer.groups, -1).swapaxes(0, 1).ravel())
    return _add_bias(graph, layer, y)


def _add_bias(graph, layer, x):
    return x if layer.bias is None else scaled(graph, layer, x, 1, array(layer.bias))


def _groups_of(graph, layer, x):
    """Yields the channels of each group as a value."""
    start = 0
    for size in layer.sizes:
        part = (*x.shape[:-1], size)
        alone = len(layer.sizes) == 1
        yield x if alone else graph.add("slice", layer.name, [x], part, attributes={"start": start})
        start += size


def _group_convolution(graph, layer, index, x):
    kernel = graph.constant(layer, f"kernel_{index + 1}", lambda: array(layer.kernels[index]))
    shape = (*x.shape[:-1], layer.filters // layer.groups)
    return graph.add("conv", layer.name, [x], shape, kernel=kernel, attributes=POINTWISE)


def _concatenated(graph, layer, parts, shape):
    y = parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape)
    return _add_bias(graph, layer, y)


@lowers(ours.HierarchicalGroupConv2D, reads="filters groups activation use_bias")
def _hierarchical(graph, layer, call, x, shape):
    """Group by group, each with the outputs of the previous group."""
    outputs = []
    for index, read in enumerate(_groups_of(graph, layer, x[0])):
        if outputs:
            both = (*read.shape[:-1], read.shape[-1] + outputs[-1].shape[-1])
            read = graph.add("concat", layer.name, [read, outputs[-1]], both)
        outputs.append(_group_convolution(graph, layer, index, read))
    return activate(graph, layer, call.path, _concatenated(graph, layer, outputs, shape))


@lowers(ours.SplitGroupConv2D, reads="filters groups activation use_bias")
def _split(graph, layer, call, x, shape):
    """One grouped convolution if the groups have equal sizes; otherwise group by group."""
    if len(set(layer.sizes)) > 1:
        parts = [_group_convolution(graph, layer, i, read) for i, read in enumerate(_groups_of(graph, layer, x[0]))]
        return activate(graph, layer, call.path, _concatenated(graph, layer, parts, shape))
    kernel = graph.constant(layer, "kernels", lambda: np.concatenate([array(k) for k in layer.kernels], axis=-1))
    return linear(graph, "conv", layer, call, x, shape, kernel, **{**POINTWISE, "groups": layer.groups})


@lowers(ours.InterleavedGroupConv2D, reads="filters branch_channels activation use_bias")
def _interleaved(graph, layer, call, x, shape):
    """A sequence of grouped convolutions, each with its strided channel shuffles."""
    (y,) = x
    for index, (variable, shuffles) in enumerate(zip(layer.kernels, layer.shuffles, strict=True)):
        kernel = graph.constant(layer, f"kernel_{index + 1}", lambda variable=variable: array(variable))
        _, _, inputs, filters = kernel.array.shape
        window = {**POINTWISE, "groups": y.shape[-1] // inputs}
        y = graph.add("conv", layer.name, [y], (*y.shape[:-1], filters), kernel=kernel, attributes=window)
        for groups in shuffles:
            y = _permute(graph, layer, y, permutations.strided_shuffle(filters, groups))
    return activate(graph, layer, call.path, _add_bias(graph, layer, y))
