"""Building blocks of rules: single steps, and checks of a layer's arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call
from keras_sharenets.mobile.graph.inference_graph import Value
from keras_sharenets.mobile.graph.rules import GraphBuilder, refuse


def array(variable: Any, dtype: str = "float32") -> np.ndarray:
    """A variable or tensor as an array."""
    return np.asarray(ops.convert_to_numpy(variable), dtype)


def pair(number: Any) -> tuple[int, int]:
    """One number for rows and columns, or two, as a pair."""
    return (number, number) if isinstance(number, int) else tuple(number)


def affine(graph: GraphBuilder, layer: Any, x: Sequence[Value], shape: Shape, scale: Any, bias: Any) -> Value:
    """`scale * x + bias` with vectors of one number per channel."""
    vectors = {"scale": np.asarray(scale, "float32"), "bias": np.asarray(bias, "float32")}
    return graph.add("affine", layer.name, x, shape, **vectors)


def scaled(graph: GraphBuilder, layer: Any, x: Value, scale: Any, bias: Any = 0) -> Value:
    """`scale * x + bias` with single numbers or vectors of one number per channel."""
    ones = np.ones(x.shape[-1])
    return affine(graph, layer, [x], x.shape, scale * ones, bias * ones)


def check_last(layer: Any, path: str, axis: Any, x: Value, what: str) -> None:
    """Raises an error if an axis, or a sequence of one axis, is not the last."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    if axes not in ((-1,), (len(x.shape) - 1,)):
        raise refuse(layer, path, f"has `axis` (={axis!r}): only {what} along the last axis can be exported.")


def channel_vector(layer: Any, path: str, name: str, numbers: Any, x: Value) -> np.ndarray:
    """Numbers as a vector of one per channel; raises an error if they vary along other axes."""
    numbers, channels = np.asarray(numbers, "float64"), x.shape[-1]
    if numbers.size not in (1, channels) or (numbers.size > 1 and numbers.shape[-1] != channels):
        shown = f"of shape {numbers.shape}"
        raise refuse(layer, path, f"has `{name}` ({shown}): only one number, or one per channel, can be exported.")
    return np.broadcast_to(numbers.ravel(), (channels,))


def aligned(layer: Any, path: str, numbers: np.ndarray, rank: int) -> np.ndarray:
    """Constant numbers with `rank` axes, as they broadcast; raises an error if they vary along the batch."""
    numbers = numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)
    if numbers.ndim > rank or numbers.shape[0] != 1:
        raise refuse(layer, path, f"has a constant of shape {numbers.shape}, which varies along the batch.")
    return numbers


def masked_softmax(graph: GraphBuilder, layer: Any, path: str, x: Value, mask: np.ndarray) -> Value:
    """A softmax along the last axis of the entries for which a constant mask is true."""
    chosen = aligned(layer, path, mask, len(x.shape))
    if not np.broadcast_to(chosen, x.shape).any(axis=-1).all():
        raise refuse(layer, path, "has a mask that excludes all entries of a vector.")
    return graph.add("softmax", layer.name, [x], x.shape, attributes={"mask": chosen})


def operation_class(function: Callable[..., Any], inputs: int = 1) -> type:
    """The class that represents a function of `keras.ops` in a functional model."""
    symbols = [keras.Input((2, 2, 2)) for _ in range(inputs)]
    return type(keras.Function(symbols, function(*symbols)).operations[-1])


def unnamed_class(function: Callable[..., Any], name: str) -> type:
    """A class from the module of a public function, for which Keras has no public name."""
    return vars(sys.modules[function.__module__])[name]


def pairwise(graph: GraphBuilder, kind: str, layer: Any, x: Sequence[Value]) -> Value:
    """Combines values pairwise; those with fewer axes get axes of size 1 after the batch, as in Keras."""
    rank = max(len(value.shape) for value in x)
    aligned = []
    for value in x:
        shape = (1, *(1,) * (rank - len(value.shape)), *value.shape[1:])
        same = shape == value.shape
        aligned.append(value if same else graph.add("reshape", layer.name, [value], shape))
    y = aligned[0]
    for other in aligned[1:]:
        y = graph.add(kind, layer.name, [y, other], np.broadcast_shapes(y.shape, other.shape))
    return y


def constant(graph: GraphBuilder, layer: Any, name: str, make: Callable[[], Any]) -> Value:
    """A constant of a layer as a value that is the same for all images: `make()` with a leading axis of size 1.

    Every use has its own step, but the file stores the numbers once.
    """
    stored = graph.constant(layer, name, lambda: np.asarray(make(), "float32")[None])
    return graph.add("constant", layer.name, [], stored.array.shape, attributes={"constant": stored})


def transposed(graph: GraphBuilder, layer: Any, x: Value, order: Sequence[int]) -> Value:
    """A value with its axes in another order; the batch axis is the first of both."""
    if list(order) == sorted(order):
        return x
    shape = tuple(x.shape[axis] for axis in order)
    return graph.add("transpose", layer.name, [x], shape, attributes={"order": tuple(order)})


def along_last(graph: GraphBuilder, layer: Any, x: Value, axis: int, step: Callable[[Value], Value]) -> Value:
    """`step`, which keeps the shape and works along the last axis, along `axis`: exchanged with it before and after."""
    order = list(range(len(x.shape)))
    order[axis], order[-1] = order[-1], order[axis]
    return transposed(graph, layer, step(transposed(graph, layer, x, order)), order)


def reshaped(graph: GraphBuilder, layer: Any, x: Value, shape: Shape) -> Value:
    """A value in another shape."""
    return x if x.shape[1:] == tuple(shape[1:]) else graph.add("reshape", layer.name, [x], shape)


def concatenated(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape, axis: int) -> Value:
    """Values one after the other along an axis."""
    axis %= len(shape)
    if axis == 0:
        raise refuse(layer, call.path, "concatenates along the batch axis.")
    if len(x) == 1:
        return x[0]
    if axis == len(shape) - 1:
        return graph.add("concat", layer.name, x, shape)
    return graph.add("join", layer.name, x, shape, attributes={"axis": axis})


def unary(graph: GraphBuilder, kind: str, layer: Any, x: Value, **attributes: Any) -> Value:
    """An elementwise function."""
    return graph.add(kind, layer.name, [x], x.shape, attributes=attributes)


def pad(
    graph: GraphBuilder,
    layer: Any,
    x: Sequence[Value],
    shape: Shape,
    *,
    rows: tuple[int, int] = (0, 0),
    columns: tuple[int, int] = (0, 0),
    channels: tuple[int, int] = (0, 0),
    **attributes: Any,
) -> Value:
    """Padding of an image with rows, columns and channels."""
    attributes["paddings"] = ((0, 0), tuple(rows), tuple(columns), channels)
    return graph.add("pad", layer.name, x, shape, attributes=attributes)
