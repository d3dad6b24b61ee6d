"""Lowering rules of functions of `keras.ops` that only move or clip numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from keras_sharenets.mobile.graph.rules import call_arguments, lowers, refuse
from keras_sharenets.mobile.graph.steps import constant, operation_class, pairwise


@lowers(operation_class(lambda x: ops.pad(x, 1)), reads="pad_width mode")
def _pad(graph, layer, call, x, shape):
    """Padding of an image with zeros or symmetrically."""
    filled = call_arguments(layer, call).get("constant_values")
    sides = tuple(tuple(pair) for pair in layer.pad_width)
    if len(sides) != 4 or sides[0] != (0, 0) or filled not in (None, 0) or layer.mode not in ("constant", "symmetric"):
        raise refuse(layer, call.path, "is not a zero padding or symmetric padding of images.")
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


lowers(operation_class(ops.transpose), reads="axes")(_transposing(lambda layer, rank: layer.axes or range(rank)[::-1]))
lowers(operation_class(lambda x: ops.swapaxes(x, 1, 2)), reads="axis1 axis2")(_transposing(_swapped))


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


def _piece(graph, layer, x, starts, shape):
    """The part of an image that begins at `starts`, a row, column and channel."""
    top, left, channel = starts
    size = (*shape[1:3], x.shape[-1])
    if size != x.shape[1:]:
        x = graph.add("crop", layer.name, [x], (1, *size), attributes={"start": (top, left)})
    if shape[-1] != size[-1]:
        x = graph.add("slice", layer.name, [x], (1, *shape[1:]), attributes={"start": channel})
    return x


@lowers(operation_class(lambda x: ops.split(x, 2, axis=1)[0]), reads="indices_or_sections axis")
def _split(graph, layer, call, x, shape):
    axis = layer.axis % len(shape)
    if len(shape) != 4 or axis == 0:
        raise refuse(layer, call.path, "does not split an image along its rows, columns or channels.")
    pieces, start = [], 0
    for output in call.outputs:
        starts = [start if place == axis else 0 for place in (1, 2, 3)]
        pieces.append(_piece(graph, layer, x[0], starts, output.shape))
        start += output.shape[axis]
    return pieces


def _without_ellipsis(keys: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """The keys of an item with slices in place of `...`."""
    place = next((place for place, entry in enumerate(keys) if entry is ...), None)
    if place is None:
        return keys
    axes = sum(entry is not None for entry in keys) - 1
    return (*keys[:place], *[slice(None)] * (rank - axes), *keys[place + 1 :])


@lowers(operation_class(lambda x: x[:, 1:]))
def _item(graph, layer, call, x, shape):
    """A contiguous part of an image, or new axes: `x[:, None, None]`."""
    key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
    sides = x[0].shape
    keys: Any = _without_ellipsis(key if isinstance(key, tuple) else (key,), len(sides))
    whole = all(entry is None or (isinstance(entry, slice) and entry == slice(None)) for entry in keys)
    if whole and keys[:1] != (None,):
        return graph.add("reshape", layer.name, x, shape)
    known = len(sides) == len(shape) == 4 and len(keys) <= 4 and all(isinstance(entry, slice) for entry in keys)
    if not known or keys[0] != slice(None):
        raise refuse(layer, call.path, "does not take a contiguous part of each image.")
    ranges = [entry.indices(side) for entry, side in zip(keys[1:], sides[1:], strict=False)]
    if any(step != 1 for *_, step in ranges):
        raise refuse(layer, call.path, "skips rows, columns or channels.")
    starts = [start for start, *_ in ranges] + [0] * (3 - len(ranges))
    return _piece(graph, layer, x[0], starts, shape)
