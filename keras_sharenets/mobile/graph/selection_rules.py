"""Lowering rules of functions that take parts of a tensor, reorder or repeat its entries, or stack tensors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.inference_graph import Value
from keras_sharenets.mobile.graph.rules import GraphBuilder, lowers, refuse
from keras_sharenets.mobile.graph.steps import array, concatenated, operation_class, reshaped, unnamed_class

# Of one axis, by concatenation.
_MOST_REPEATS = 32


def _piece(graph: GraphBuilder, layer: Any, x: Value, ranges: Sequence[range]) -> Value:
    """The entries of a value that lie in one range for each axis after the batch, by rows, columns and channels."""
    rank = len(x.shape)
    *sides, channels = [range(1)] * (4 - rank) + list(ranges)
    starts, spans = [each.start for each in sides], [each[-1] - each.start + 1 for each in sides]
    image = (1, *(1,) * (4 - rank), *x.shape[1:])
    y = reshaped(graph, layer, x, image)
    if (1, *spans) != y.shape[:3]:
        y = graph.add("crop", layer.name, [y], (1, *spans, y.shape[-1]), attributes={"start": tuple(starts)})
    if len(channels) != y.shape[-1]:
        shape = (*y.shape[:-1], len(channels))
        y = graph.add("slice", layer.name, [y], shape, attributes={"start": channels.start})
    steps = tuple(each.step for each in sides)
    if steps != (1, 1):
        # The maximum of single numbers.
        window = {"pool_size": (1, 1), "strides": steps, "padding": "valid"}
        y = graph.add("max_pool", layer.name, [y], (1, *map(len, sides), y.shape[-1]), attributes=window)
    return reshaped(graph, layer, y, (1, *map(len, ranges)))


def _gathered(graph: GraphBuilder, layer: Any, x: Value, axis: int, indices: Iterable[int]) -> Value:
    """The entries of an axis with the given indices."""
    chosen, side = np.asarray(indices), x.shape[axis]
    if np.array_equal(chosen, range(side)):
        return x
    shape = (*x.shape[:axis], len(chosen), *x.shape[axis + 1 :])
    if axis == len(shape) - 1 and np.array_equal(np.sort(chosen), range(side)):
        return graph.add("permute", layer.name, [x], shape, attributes={"indices": chosen})
    return graph.add("gather", layer.name, [x], shape, attributes={"axis": axis, "indices": chosen})


def _selected(graph: GraphBuilder, layer: Any, x: Value, ranges: Sequence[range]) -> Value:
    """The entries in one range for each axis after the batch: a slice, then gathers of axes in other orders."""
    ranges = [each if len(each) > 1 else range(each[0], each[0] + 1) for each in ranges]
    whole, rank = [range(side) for side in x.shape[1:]], len(x.shape)

    def is_sliced(axis):
        step = ranges[axis].step
        return rank <= 4 and (step == 1 or (step > 1 and axis < rank - 2))

    first = [each if is_sliced(axis) else whole[axis] for axis, each in enumerate(ranges)]
    y = x if first == whole else _piece(graph, layer, x, first)
    for axis, each in enumerate(ranges):
        y = y if is_sliced(axis) else _gathered(graph, layer, y, axis + 1, each)
    return y


def _axis(layer: Any, call: Call, rank: int) -> int:
    """The axis of an operation along which it selects entries: not the batch."""
    if layer.axis is None or layer.axis % rank == 0:
        raise refuse(layer, call.path, f"has `axis` (={layer.axis}), and selects examples of a batch.")
    return layer.axis % rank


def _axes(layer: Any, call: Call, rank: int, effect: str) -> list[int]:
    """The axes of an operation that reorders the entries of some: not the batch."""
    axes = layer.axis if isinstance(layer.axis, (tuple, list)) else (layer.axis,)
    if None in axes or 0 in [axis % rank for axis in axes]:
        raise refuse(layer, call.path, effect)
    return [axis % rank for axis in axes]


@lowers(operation_class(lambda x: ops.split(x, 2, axis=1)[0]), reads="indices_or_sections axis")
def _split(graph, layer, call, x, shape):
    axis = _axis(layer, call, len(shape))
    ends = np.cumsum([output.shape[axis] for output in call.outputs])
    return [
        _of_axis(graph, layer, x[0], axis, np.arange(end - output.shape[axis], end))
        for end, output in zip(ends, call.outputs, strict=True)
    ]


def _without_ellipsis(keys: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """The keys of an item with slices in place of `...`."""
    place = next((place for place, entry in enumerate(keys) if entry is ...), None)
    if place is None:
        return keys
    axes = sum(entry is not None for entry in keys) - 1
    return (*keys[:place], *[slice(None)] * (rank - axes), *keys[place + 1 :])


def _taken(entry: Any, side: int) -> range:
    """The indices that a key takes of an axis."""
    if isinstance(entry, slice):
        return range(side)[entry]
    return range(side)[entry : entry % side + 1] if isinstance(entry, int) else range(0)


@lowers(operation_class(lambda x: x[:, 1:]))
def _item(graph, layer, call, x, shape):
    """A part of each image, sequence or vector, such as `x[:, 0]` and `x[:, ::-2]`, or new axes: `x[:, None, None]`."""
    key, sides = call.args[1] if len(call.args) > 1 else call.kwargs.get("key"), x[0].shape
    first, *keys = _without_ellipsis(key if isinstance(key, tuple) else (key,), len(sides))
    if not (isinstance(first, slice) and first == slice(None)):
        raise refuse(layer, call.path, "does not take a part of each example.")
    keys = [entry for entry in keys if entry is not None]
    keys += [slice(None)] * (len(sides) - 1 - len(keys))
    ranges = [_taken(entry, side) for entry, side in zip(keys, sides[1:], strict=True)]
    if not all(ranges):
        raise refuse(layer, call.path, "takes no entries, or other ones than those of ranges.")
    return reshaped(graph, layer, _selected(graph, layer, x[0], ranges), shape)


def _indices(layer: Any, call: Call, side: int) -> np.ndarray:
    """The second argument of a call: constant indices of an axis, counted from its start."""
    _, indices = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values()
    if isinstance(indices, Tensor):
        raise refuse(layer, call.path, "has indices that depend on the input.")
    numbers = array(indices, "int64")
    if numbers.size == 0 or numbers.min() < -side or numbers.max() >= side:
        raise refuse(layer, call.path, f"has no indices, or some that are not in an axis of {side}.")
    return numbers % side


@lowers(unnamed_class(ops.take, "Take"), reads="axis")
def _take(graph, layer, call, x, shape):
    axis = _axis(layer, call, len(x[0].shape))
    indices = _indices(layer, call, x[0].shape[axis]).ravel()
    return reshaped(graph, layer, _of_axis(graph, layer, x[0], axis, indices), shape)


def _of_axis(graph: GraphBuilder, layer: Any, x: Value, axis: int, indices: np.ndarray) -> Value:
    """The entries of an axis: a slice if the indices are a range."""
    steps = {*np.diff(indices).tolist()}
    if len(steps) > 1 or 0 in steps:
        return _gathered(graph, layer, x, axis, indices)
    (step,) = steps or {1}
    ranges = [range(side) for side in x.shape[1:]]
    first, last = int(indices[0]), int(indices[-1])
    ranges[axis - 1] = range(first, last + (1 if step > 0 else -1), step)
    return _selected(graph, layer, x, ranges)


@lowers(unnamed_class(ops.take_along_axis, "TakeAlongAxis"), reads="axis")
def _take_along_axis(graph, layer, call, x, shape):
    """The same entries of an axis everywhere, or any numbers of each example, as a vector."""
    (y,), rank = x, len(x[0].shape)
    axis = _axis(layer, call, rank)
    indices = _indices(layer, call, y.shape[axis])
    if indices.shape[0] != 1:
        raise refuse(layer, call.path, "has indices that vary along the batch.")
    if indices.size == indices.shape[axis]:
        return _of_axis(graph, layer, y, axis, indices.ravel())
    numbers = np.arange(math.prod(y.shape)).reshape(y.shape)
    chosen = np.take_along_axis(numbers, indices, axis).ravel()
    flat = reshaped(graph, layer, y, (1, numbers.size))
    return reshaped(graph, layer, _of_axis(graph, layer, flat, 1, chosen), shape)


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
    """Each entry of an axis one or more times: equally often by concatenation along a new axis behind it."""
    axis = _axis(layer, call, len(shape))
    if isinstance(layer.repeats, int) and 1 <= layer.repeats <= _MOST_REPEATS:
        before, behind = x[0].shape[: axis + 1], x[0].shape[axis + 1 :]
        y = reshaped(graph, layer, x[0], (*before, 1, *behind))
        sides = (*before, layer.repeats, *behind)
        return reshaped(graph, layer, concatenated(graph, layer, call, [y] * layer.repeats, sides, axis + 1), shape)
    chosen = np.repeat(np.arange(x[0].shape[axis]), layer.repeats)
    if not chosen.size:
        raise refuse(layer, call.path, "repeats nothing.")
    return _gathered(graph, layer, x[0], axis, chosen)


@lowers(operation_class(lambda x: ops.flip(x, 1)), reads="axis")
def _flipped(graph, layer, call, x, shape):
    (y,) = x
    for axis in _axes(layer, call, len(shape), "flips the batch."):
        y = _gathered(graph, layer, y, axis, range(y.shape[axis])[::-1])
    return y


@lowers(operation_class(lambda x: ops.roll(x, 1, axis=1)), reads="shift axis")
def _rolled(graph, layer, call, x, shape):
    (y,), axes = x, _axes(layer, call, len(shape), "moves entries to other examples.")
    for axis, shift in zip(axes, np.broadcast_to(layer.shift, len(axes)), strict=True):
        y = _gathered(graph, layer, y, axis, np.roll(range(y.shape[axis]), shift))
    return y
