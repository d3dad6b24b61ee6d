"""Lowering rules of layers and functions that pad, pool, reduce, crop, resize, clip, slice or reorder numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from keras_sharenets.mobile.graph.rules import call_arguments, lowers, refuse
from keras_sharenets.mobile.graph.steps import (
    along_last,
    concatenated,
    constant,
    operation_class,
    pad,
    pair,
    pairwise,
    reshaped,
    scaled,
    unary,
    unnamed_class,
)

# Of one axis.
_MOST_REPEATS = 32


@lowers(layers.ZeroPadding2D, reads="padding")
def _zero_padding(graph, layer, call, x, shape):
    rows, columns = layer.padding
    return pad(graph, layer, x, shape, rows=rows, columns=columns)


def _pooling(kind):
    def rule(graph, layer, call, x, shape):
        if len(shape) != 4:
            raise refuse(layer, call.path, "does not pool images.")
        size = pair(layer.pool_size)
        window = {"pool_size": size, "strides": pair(layer.strides or size), "padding": layer.padding}
        return graph.add(kind, layer.name, x, shape, attributes=window)

    return rule


for _kind, _classes in {
    "max_pool": (layers.MaxPooling2D, unnamed_class(ops.max_pool, "MaxPool")),
    "average_pool": (layers.AveragePooling2D, unnamed_class(ops.average_pool, "AveragePool")),
}.items():
    lowers(*_classes, reads="pool_size strides padding")(_pooling(_kind))


def _reduced(kind):
    """A rule for the mean or maximum over an image, or over any axes of an operation except the batch."""

    def rule(graph, layer, call, x, shape):
        attributes = {"axes": _reduced_axes(layer, call, x[0]), "keepdims": layer.keepdims}
        return graph.add(kind, layer.name, x, shape, attributes=attributes)

    return rule


def _reduced_axes(layer, call, x):
    """The axes that a layer or an operation reduces, in order; by default height and width."""
    rank, axes = len(x.shape), getattr(layer, "axis", (1, 2))
    axes = range(rank) if axes is None else axes if isinstance(axes, (tuple, list)) else (axes,)
    axes = tuple(sorted(axis % rank for axis in axes))
    if 0 in axes:
        raise refuse(layer, call.path, "reduces the batch axis.")
    return axes


lowers(layers.GlobalAveragePooling2D, operation_class(ops.mean), reads="axis keepdims")(_reduced("mean"))
lowers(layers.GlobalMaxPooling2D, operation_class(ops.max), operation_class(ops.amax), reads="axis keepdims")(
    _reduced("max")
)
lowers(operation_class(ops.min), operation_class(ops.amin), reads="axis keepdims")(_reduced("min"))


@lowers(operation_class(ops.var), reads="axis keepdims")
def _variance(graph, layer, call, x, shape):
    """The mean of the squared differences from the mean."""
    mean = _reduced("mean")(graph, layer, call, x, shape)
    axes = _reduced_axes(layer, call, x[0])
    sides = tuple(1 if axis in axes else side for axis, side in enumerate(x[0].shape))
    centered = pairwise(graph, "subtract", layer, [x[0], reshaped(graph, layer, mean, sides)])
    return _reduced("mean")(graph, layer, call, [pairwise(graph, "multiply", layer, [centered] * 2)], shape)


@lowers(operation_class(ops.std), reads="axis keepdims")
def _deviation(graph, layer, call, x, shape):
    return unary(graph, "sqrt", layer, _variance(graph, layer, call, x, shape))


@lowers(operation_class(lambda x: ops.sum(x, axis=-1)), reads="axis keepdims")
def _sum(graph, layer, call, x, shape):
    """The mean times the number of elements."""
    if len(shape) < 2:
        raise refuse(layer, call.path, "leaves no axis except the batch.")
    mean = _reduced("mean")(graph, layer, call, x, shape)
    count = math.prod(x[0].shape) // math.prod(mean.shape)
    return scaled(graph, layer, mean, count)


def _cropped(graph, layer, x, shape, top, left):
    return graph.add("crop", layer.name, x, shape, attributes={"start": (top, left)})


@lowers(layers.Cropping2D, reads="cropping")
def _cropping(graph, layer, call, x, shape):
    (top, _), (left, _) = layer.cropping
    return _cropped(graph, layer, x, shape, top, left)


@lowers(layers.CenterCrop, reads="height width")
def _center_crop(graph, layer, call, x, shape):
    more_rows, more_columns = x[0].shape[1] - layer.height, x[0].shape[2] - layer.width
    if len(x[0].shape) != 4 or more_rows < 0 or more_columns < 0:
        raise refuse(layer, call.path, "resizes images that are smaller than its crop, which cannot be exported.")
    return _cropped(graph, layer, x, shape, more_rows // 2, more_columns // 2)


def _resized(graph, layer, call, x, shape):
    if layer.interpolation not in ("nearest", "bilinear"):
        reason = f"has `interpolation` (={layer.interpolation!r}): only nearest and bilinear can be exported."
        raise refuse(layer, call.path, reason)
    return graph.add("resize", layer.name, x, shape, attributes={"mode": layer.interpolation})


lowers(layers.UpSampling2D, reads="size interpolation")(_resized)
# The fill arguments only matter with `pad_to_aspect_ratio`, which raises an error.
lowers(layers.Resizing, reads="height width interpolation fill_mode fill_value")(_resized)


@lowers(layers.Permute, reads="dims")
def _permute(graph, layer, call, x, shape):
    return graph.add("transpose", layer.name, x, shape, attributes={"order": (0, *layer.dims)})


@lowers(operation_class(lambda x: ops.pad(x, 1)), reads="pad_width mode")
def _pad(graph, layer, call, x, shape):
    """Padding of an image with zeros, symmetrically, or by reflection."""
    filled = call_arguments(layer, call).get("constant_values")
    sides = tuple(tuple(side) for side in layer.pad_width)
    modes = "constant", "symmetric", "reflect"
    if len(sides) != 4 or sides[0] != (0, 0) or filled not in (None, 0) or layer.mode not in modes:
        raise refuse(layer, call.path, "does not pad images with zeros, symmetrically, or by reflection.")
    attributes = {"paddings": sides} if layer.mode == "constant" else {"paddings": sides, "mode": layer.mode}
    return graph.add("pad", layer.name, x, shape, attributes=attributes)


def _transposing(order_of):
    """A rule for a transposition to the order that `order_of(operation, rank)` returns."""

    def rule(graph, layer, call, x, shape):
        order = tuple(axis % len(shape) for axis in order_of(layer, len(shape)))
        if order[0] != 0:
            raise refuse(layer, call.path, f"moves the batch axis: its order is {order}.")
        return graph.add("transpose", layer.name, x, shape, attributes={"order": order})

    return rule


def _swapped(layer, rank):
    order = list(range(rank))
    order[layer.axis1], order[layer.axis2] = order[layer.axis2], order[layer.axis1]
    return order


def _moved(layer, rank):
    sources, targets = ([axis % rank for axis in axes] for axes in (layer.source, layer.destination))
    moved, others = dict(zip(targets, sources, strict=True)), (axis for axis in range(rank) if axis not in sources)
    return [moved[place] if place in moved else next(others) for place in range(rank)]


lowers(operation_class(ops.transpose), reads="axes")(_transposing(lambda layer, rank: layer.axes or range(rank)[::-1]))
lowers(operation_class(lambda x: ops.swapaxes(x, 1, 2)), reads="axis1 axis2")(_transposing(_swapped))
lowers(operation_class(lambda x: ops.moveaxis(x, 1, 2)), reads="source destination")(_transposing(_moved))


@lowers(operation_class(lambda x: ops.squeeze(ops.reshape(x, (-1, 1, 8)), 1)), reads="axis")
@lowers(operation_class(lambda x: ops.expand_dims(x, 1)), reads="axis")
def _reshaped(graph, layer, call, x, shape):
    if shape[0] is not None or None in shape[1:] or math.prod(shape[1:]) != math.prod(x[0].shape[1:]):
        raise refuse(layer, call.path, "changes the batch axis.")
    return graph.add("reshape", layer.name, x, shape)


@lowers(operation_class(lambda x: ops.clip(x, 0, 1)), reads="x_min x_max")
def _clipped(graph, layer, call, x, shape):
    """A maximum with one bound and a minimum with the other, which do not change integers."""
    if np.size(layer.x_min) != 1 or np.size(layer.x_max) != 1:
        raise refuse(layer, call.path, "has bounds that are not single numbers.")
    sides = (1,) * (len(shape) - 1)
    bounds = [
        constant(graph, layer, name, lambda name=name: np.full(sides, getattr(layer, name)))
        for name in ("x_min", "x_max")
    ]
    return pairwise(graph, "minimum", layer, [pairwise(graph, "maximum", layer, [x[0], bounds[0]]), bounds[1]])


def _piece(graph, layer, call, x, ranges):
    """The entries of a value that lie in one range for each axis after the batch, by rows, columns and channels."""
    rank = len(x.shape)
    if rank > 4:
        raise refuse(layer, call.path, "takes a part of a tensor of more than 4 axes.")
    *sides, channels = [range(1)] * (4 - rank) + list(ranges)
    starts, spans = [each.start for each in sides], [each[-1] - each.start + 1 for each in sides]
    image = (1, *(1,) * (4 - rank), *x.shape[1:])
    x = x if image == x.shape else graph.add("reshape", layer.name, [x], image)
    if (1, *spans) != x.shape[:3]:
        x = graph.add("crop", layer.name, [x], (1, *spans, x.shape[-1]), attributes={"start": tuple(starts)})
    if len(channels) != x.shape[-1]:
        shape = (*x.shape[:-1], len(channels))
        x = graph.add("slice", layer.name, [x], shape, attributes={"start": channels.start})
    steps = tuple(each.step for each in sides)
    if steps != (1, 1):
        # The maximum of single numbers.
        window = {"pool_size": (1, 1), "strides": steps, "padding": "valid"}
        x = graph.add("max_pool", layer.name, [x], (1, *map(len, sides), x.shape[-1]), attributes=window)
    return x


@lowers(operation_class(lambda x: ops.split(x, 2, axis=1)[0]), reads="indices_or_sections axis")
def _split(graph, layer, call, x, shape):
    axis = layer.axis % len(shape)
    if axis == 0:
        raise refuse(layer, call.path, "splits the batch.")
    pieces, start = [], 0
    for output in call.outputs:
        ranges = [range(side) for side in x[0].shape[1:]]
        ranges[axis - 1] = range(start, start + output.shape[axis])
        pieces.append(reshaped(graph, layer, _piece(graph, layer, call, x[0], ranges), output.shape))
        start += output.shape[axis]
    return pieces


def _without_ellipsis(keys: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """The keys of an item with slices in place of `...`."""
    place = next((place for place, entry in enumerate(keys) if entry is ...), None)
    if place is None:
        return keys
    axes = sum(entry is not None for entry in keys) - 1
    return (*keys[:place], *[slice(None)] * (rank - axes), *keys[place + 1 :])


def _taken(entry: Any, side: int) -> range:
    """The indices that a key takes of an axis; none if they are not in ascending order."""
    if isinstance(entry, slice):
        taken = range(side)[entry]
        return taken if taken.step > 0 else range(0)
    return range(side)[entry : entry % side + 1] if isinstance(entry, int) else range(0)


@lowers(operation_class(lambda x: x[:, 1:]))
def _item(graph, layer, call, x, shape):
    """A part of each image, sequence or vector, such as `x[:, 0]` and `x[:, ::2]`, or new axes: `x[:, None, None]`."""
    key, sides = call.args[1] if len(call.args) > 1 else call.kwargs.get("key"), x[0].shape
    first, *keys = _without_ellipsis(key if isinstance(key, tuple) else (key,), len(sides))
    if not (isinstance(first, slice) and first == slice(None)):
        raise refuse(layer, call.path, "does not take a part of each example.")
    keys = [entry for entry in keys if entry is not None]
    keys += [slice(None)] * (len(sides) - 1 - len(keys))
    ranges = [_taken(entry, side) for entry, side in zip(keys, sides[1:], strict=True)]
    if not all(ranges) or ranges[-1].step > 1:
        raise refuse(layer, call.path, "takes other entries than ranges of rows, columns or channels.")
    whole = all(len(taken) == side for taken, side in zip(ranges, sides[1:], strict=True))
    return reshaped(graph, layer, x[0] if whole else _piece(graph, layer, call, x[0], ranges), shape)


@lowers(operation_class(lambda *x: ops.stack(x, axis=1), 2), reads="axis")
def _stacked(graph, layer, call, x, shape):
    """A concatenation along a new axis."""
    axis = layer.axis % len(shape)
    sides = tuple(1 if place == axis else side for place, side in enumerate(shape))
    parts = [graph.add("reshape", layer.name, [value], sides) for value in x]
    return concatenated(graph, layer, call, parts, shape, axis)


@lowers(operation_class(lambda x: ops.tile(x, 2)), reads="repeats")
def _tiled(graph, layer, call, x, shape):
    """Concatenations of a value with itself."""
    repeats = layer.repeats if isinstance(layer.repeats, (tuple, list)) else (layer.repeats,)
    repeats = (1,) * (len(shape) - len(repeats)) + tuple(repeats)
    if len(repeats) != len(x[0].shape) or repeats[0] != 1 or min(repeats) < 1 or max(repeats) > _MOST_REPEATS:
        raise refuse(layer, call.path, f"has `repeats` (={layer.repeats!r}): up to {_MOST_REPEATS} can be exported.")
    (y,) = x
    for axis, count in enumerate(repeats):
        sides = tuple(side * (count if place == axis else 1) for place, side in enumerate(y.shape))
        y = concatenated(graph, layer, call, [y] * count, sides, axis) if count > 1 else y
    return y


@lowers(operation_class(lambda x: ops.repeat(x, 2, axis=1)), reads="repeats axis")
def _repeated(graph, layer, call, x, shape):
    """Each entry of an axis as often, by concatenation along a new axis behind it."""
    axis = None if layer.axis is None else layer.axis % len(shape)
    if not axis or not isinstance(layer.repeats, int) or not 1 <= layer.repeats <= _MOST_REPEATS:
        raise refuse(
            layer, call.path, f"has other `repeats` (={layer.repeats!r}) than 1 to {_MOST_REPEATS}, or no axis."
        )
    before, behind = x[0].shape[: axis + 1], x[0].shape[axis + 1 :]
    y = reshaped(graph, layer, x[0], (*before, 1, *behind))
    sides = (*before, layer.repeats, *behind)
    return reshaped(graph, layer, concatenated(graph, layer, call, [y] * layer.repeats, sides, axis + 1), shape)


@lowers(operation_class(lambda x: ops.flip(x, 1)), reads="axis")
def _flipped(graph, layer, call, x, shape):
    (y,) = x
    axes = layer.axis if isinstance(layer.axis, (tuple, list)) else (layer.axis,)
    if None in axes or 0 in [axis % len(shape) for axis in axes]:
        raise refuse(layer, call.path, "flips the batch.")

    def reverse(y):
        return graph.add("permute", layer.name, [y], y.shape, attributes={"indices": np.arange(y.shape[-1])[::-1]})

    for axis in axes:
        y = along_last(graph, layer, y, axis, reverse)
    return y
