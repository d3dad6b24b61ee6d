"""Kernel-shared layers as operations on the tensors that they store: what keeps a file as small as the network.

Each rule takes the growing graph, the layer, the call, the inputs and the output's shape, as those of `lowering` do.
"""

import numpy as np
from keras import ops

from keras_sharenets import layers as ours
from keras_sharenets.mobile.graph.lowering_rules import activate
from keras_sharenets.ops import kernels, permutations


def _array(variable):
    return ops.convert_to_numpy(variable)


def _bias(layer):
    return None if layer.bias is None else np.asarray(_array(layer.bias), "float32")


def _window(groups):
    return {"strides": (1, 1), "padding": "valid", "groups": groups}


def highly_shared(graph, layer, call, x, shape):
    """The bank of filters, over every repeat and every arrangement of the picture's channels."""
    return activate(graph, layer, _highly_shared(graph, layer, call, x, shape), layer.activation)


def _highly_shared(graph, layer, call, x, shape):
    strides = call.kwargs.get("strides") or layer.strides
    attributes = {
        "strides": (strides, strides) if isinstance(strides, int) else tuple(strides),
        "padding": layer.padding,
        "groups": layer.groups,
    }
    if layer.channel_repeats == 1:
        kernel = graph.stored(layer, "kernel", lambda: _array(layer.kernel))
        return _arranged(graph, layer, x[0], shape, kernel, attributes)
    # Arrangements are written out here: to shuffle the few planes of a small group takes longer than to convolve them.
    attributes["channel_repeats"] = layer.channel_repeats
    kernel = graph.stored(layer, "arranged_kernel", lambda: _arranged_bank(layer))
    return graph.add("shared_conv", layer.name, x, shape, kernel=kernel, bias=_bias(layer), attributes=attributes)


def _arranged_bank(layer):
    bank_groups = layer.groups // layer.channel_repeats
    return _array(kernels.arrange(layer.kernel, layer.arrangements, bank_groups, layer.shuffle_groups))


def _arranged(graph, layer, x, shape, kernel, attributes):
    """One convolution for each arrangement, with the same filters: not their planes are shuffled but the picture's."""
    group = x.shape[-1] // layer.groups
    orders = permutations.arrangements(group, layer.arrangements, layer.shuffle_groups)
    filters = shape[-1] // layer.arrangements
    parts = []
    for order in orders:
        # `W[order]` on `x` is `W` on what `x` is when `order` is undone.
        back = np.argsort(order)
        indices = (np.arange(layer.groups)[:, None] * group + back).ravel()
        read = x
        if len(parts):
            read = graph.add("permute", layer.name, [x], x.shape, attributes={"indices": indices})
        part_shape = (*shape[:-1], filters)
        parts.append(graph.add("conv", layer.name, [read], part_shape, kernel=kernel, attributes=attributes))
    y = parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape)
    if len(parts) > 1 and layer.groups > 1:
        # Arrangements, groups, filters; the layer has the groups first.
        table = np.arange(shape[-1]).reshape(len(parts), layer.groups, -1).swapaxes(0, 1)
        y = graph.add("permute", layer.name, [y], shape, attributes={"indices": table.ravel()})
    return _biased(graph, layer, y)


def _biased(graph, layer, x):
    if layer.bias is None:
        return x
    ones = np.ones(x.shape[-1], "float32")
    return graph.add("affine", layer.name, [x], x.shape, scale=ones, bias=_bias(layer))


def _group_outputs(graph, layer, x):
    """`(index, channels of one group as a value)` for every group."""
    batch, height, width, _ = x.shape
    start = 0
    for index, size in enumerate(layer.sizes):
        part = x
        if len(layer.sizes) > 1:
            part_shape = (batch, height, width, size)
            part = graph.add("slice", layer.name, [x], part_shape, attributes={"start": start})
        start += size
        yield index, part


def _joined(graph, layer, parts, shape):
    return _biased(graph, layer, parts[0] if len(parts) == 1 else graph.add("concat", layer.name, parts, shape))


def _group_conv(graph, layer, index, read):
    filters = layer.filters // layer.groups
    kernel = graph.stored(layer, f"kernel_{index + 1}", lambda: _array(layer.kernels[index]))
    shape = (*read.shape[:-1], filters)
    return graph.add("conv", layer.name, [read], shape, kernel=kernel, attributes=_window(1))


def hierarchical(graph, layer, call, x, shape):
    """Group by group, each with the outputs of the one before."""
    outputs = []
    for index, part in _group_outputs(graph, layer, x[0]):
        read = part
        if outputs:
            both = (*part.shape[:-1], part.shape[-1] + outputs[-1].shape[-1])
            read = graph.add("concat", layer.name, [part, outputs[-1]], both)
        outputs.append(_group_conv(graph, layer, index, read))
    return _joined(graph, layer, outputs, shape)


def split(graph, layer, call, x, shape):
    """One group convolution if the groups are of one size, else group by group."""
    if len(set(layer.sizes)) > 1:
        outputs = [_group_conv(graph, layer, index, part) for index, part in _group_outputs(graph, layer, x[0])]
        return _joined(graph, layer, outputs, shape)
    kernel = graph.stored(layer, "kernels", lambda: np.concatenate([_array(k) for k in layer.kernels], axis=-1))
    window = _window(layer.groups)
    return graph.add("conv", layer.name, x, shape, kernel=kernel, bias=_bias(layer), attributes=window)


def interleaved(graph, layer, call, x, shape):
    """One group convolution after the other, each with its shuffles."""
    (y,) = x
    for index, (variable, deals) in enumerate(zip(layer.kernels, layer.shuffles, strict=True)):
        kernel = graph.stored(layer, f"kernel_{index + 1}", lambda variable=variable: _array(variable))
        _, _, inputs, filters = kernel.array.shape
        window = _window(y.shape[-1] // inputs)
        y = graph.add("conv", layer.name, [y], (*y.shape[:-1], filters), kernel=kernel, attributes=window)
        for groups in deals:
            indices = permutations.strided_shuffle(filters, groups)
            y = graph.add("permute", layer.name, [y], y.shape, attributes={"indices": indices})
    return _joined(graph, layer, [y], shape)


RULES = (
    (ours.HighlySharedConv2D, highly_shared),
    (ours.HierarchicalGroupConv2D, hierarchical),
    (ours.SplitGroupConv2D, split),
    (ours.InterleavedGroupConv2D, interleaved),
)
