"""Lowering rules of layers that pad, pool, crop, resize or transpose images."""

from __future__ import annotations

import math

from keras import layers, ops

from keras_sharenets.mobile.graph.rules import lowers, refuse
from keras_sharenets.mobile.graph.steps import (
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
        (value,) = x
        axes = getattr(layer, "axis", (1, 2))
        axes = range(len(value.shape)) if axes is None else axes if isinstance(axes, (tuple, list)) else (axes,)
        axes = tuple(sorted(axis % len(value.shape) for axis in axes))
        if 0 in axes:
            raise refuse(layer, call.path, "reduces the batch axis.")
        return graph.add(kind, layer.name, x, shape, attributes={"axes": axes, "keepdims": layer.keepdims})

    return rule


lowers(layers.GlobalAveragePooling2D, operation_class(ops.mean), reads="axis keepdims")(_reduced("mean"))
lowers(layers.GlobalMaxPooling2D, operation_class(ops.max), operation_class(ops.amax), reads="axis keepdims")(
    _reduced("max")
)
lowers(operation_class(ops.min), operation_class(ops.amin), reads="axis keepdims")(_reduced("min"))


@lowers(operation_class(ops.var), reads="axis keepdims")
def _variance(graph, layer, call, x, shape):
    """The mean of the squared differences from the mean."""
    mean = _reduced("mean")(graph, layer, call, x, shape)
    axes = graph.operations[-1].attributes["axes"]
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
