"""Lowering rules of layers and functions that pad, pool, reduce, crop, resize, clip or transpose."""

from __future__ import annotations

import math

import numpy as np
from keras import layers, ops

from keras_sharenets.mobile.graph.rules import call_arguments, lowers, refuse
from keras_sharenets.mobile.graph.steps import (
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
    if shape[0] != call.inputs[0].shape[0] or None in shape[1:] or math.prod(shape[1:]) != math.prod(x[0].shape[1:]):
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
