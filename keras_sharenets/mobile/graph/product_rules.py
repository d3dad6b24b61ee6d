"""Lowering rules of products of two tensors, and of products with kernels of several axes, as in attention."""

from __future__ import annotations

import inspect
import math
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.elementwise_rules import activate
from keras_sharenets.mobile.graph.inference_graph import Value
from keras_sharenets.mobile.graph.keras_rules import POINTWISE, constant_product
from keras_sharenets.mobile.graph.rules import GraphBuilder, lowers, refuse
from keras_sharenets.mobile.graph.steps import array, reshaped, scaled, transposed, unnamed_class


def _letters(layer: Any, path: str, equation: str, left: Shape, right: Shape) -> tuple[str, str, str]:
    """The letters of the axes of both operands and of the result, with capitals in place of an ellipsis."""
    parts = re.split(",|->", equation.replace(" ", ""))
    capitals = string.ascii_uppercase[: max(len(left) - len(parts[0].replace("...", "")), 0)]
    if len(parts) == 3:
        x, y, z = (part.replace("...", capitals) for part in parts)
        plain = all(part.isalpha() and len(set(part)) == len(part) for part in (x, y, z))
        summed = set(x + y) - set(z)
        product = set(z) <= set(x + y) and summed and summed <= set(x) & set(y) and x[0] == z[0]
        if plain and product and (len(x), len(y)) == (len(left), len(right)):
            sides = set(zip(x + y, (*left, *right), strict=True))
            if len(dict(sides)) == len(sides):  # No axis is broadcast.
                return x, y, z
    raise refuse(layer, path, f"has the equation {equation!r}, which is not a product of matrices for each image.")


def _ordered(graph: GraphBuilder, layer: Any, x: Value, letters: str, order: str, sides: Sequence[int]) -> Value:
    """A value with its axes in the order of their letters, reshaped."""
    return reshaped(graph, layer, transposed(graph, layer, x, list(map(letters.index, order))), (1, *sides))


def _restored(graph: GraphBuilder, layer: Any, x: Value, order: str, letters: str, side: dict[str, int]) -> Value:
    """The inverse: a value with one axis for each letter, from `order` to `letters`."""
    x = reshaped(graph, layer, x, tuple(side[letter] for letter in order))
    return transposed(graph, layer, x, list(map(order.index, letters)))


def product(graph: GraphBuilder, layer: Any, path: str, equation: str, x: Value, y: Value) -> Value:
    """A product of two values in the notation of `einsum`; the batch is the first axis of all."""
    left, right, result = _letters(layer, path, equation, x.shape, y.shape)
    if right[0] != left[0]:
        raise refuse(layer, path, f"has the equation {equation!r}, which mixes the examples of a batch.")
    side = dict(zip(left + right, (*x.shape, *y.shape), strict=True))
    first, both = left[0], "".join(letter for letter in result[1:] if letter in left and letter in right)
    rows = "".join(letter for letter in result if letter not in right)
    columns = "".join(letter for letter in result if letter not in left)
    summed = "".join(letter for letter in left if letter not in result)
    images, height, width, depth = (math.prod(side[each] for each in part) for part in (both, rows, columns, summed))
    outer = (images,) if both else ()
    x = _ordered(graph, layer, x, left, first + both + rows + summed, (*outer, height, depth))
    y = _ordered(graph, layer, y, right, first + both + summed + columns, (*outer, depth, width))
    z = graph.add("matmul", layer.name, [x, y], (1, *outer, height, width))
    return _restored(graph, layer, z, first + both + rows + columns, result, side)


@lowers(unnamed_class(ops.einsum, "Einsum"), reads="subscripts")
def _einsum(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    if len(x) != 2 or not all(isinstance(operand, Tensor) for operand in call.args):
        raise refuse(layer, call.path, "is not a product of two tensors.")
    return product(graph, layer, call.path, layer.subscripts, *x)


@lowers(layers.EinsumDense, reads="equation output_shape activation bias_axes")
def _einsum_dense(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """A 1x1 convolution of an image of one row, or a matrix product of a vector."""
    kernel = array(layer.kernel)
    left, right, result = _letters(layer, call.path, layer.equation, x[0].shape, kernel.shape)
    if set(left) & set(right) & set(result):
        raise refuse(layer, call.path, f"has the equation {layer.equation!r}: its kernel varies along an input axis.")
    side = dict(zip(left + right, (*x[0].shape, *kernel.shape), strict=True))
    first, kept = left[0], "".join(letter for letter in result[1:] if letter in left)
    added = "".join(letter for letter in result if letter in right)
    summed = "".join(letter for letter in left if letter in right)
    rows, channels, filters = (math.prod(side[each] for each in part) for part in (kept, summed, added))
    order = list(map(right.index, summed + added))
    matrix = kernel.transpose(order).reshape(channels, filters)
    bias = _bias(layer, call.path, result, added, shape)
    if kept:
        stored = graph.constant(layer, "kernel of 1x1", lambda: matrix[None, None])
        y = _ordered(graph, layer, x[0], left, first + kept + summed, (1, rows, channels))
        fields = {"kernel": stored, "bias": bias, "attributes": POINTWISE}
        y = graph.add("conv", layer.name, [y], (1, 1, rows, filters), **fields)
    else:
        stored = graph.constant(layer, "kernel", lambda: matrix)
        y = _ordered(graph, layer, x[0], left, first + summed, (channels,))
        y = graph.add("dense", layer.name, [y], (1, filters), kernel=stored, bias=bias)
    return activate(graph, layer, call.path, _restored(graph, layer, y, first + kept + added, result, side))


def _bias(layer, path, result, added, shape):
    """The bias of each filter as a vector, or `None`."""
    if layer.bias is None:
        return None
    bias = array(layer.bias)
    sides = (1,) * (len(result) - bias.ndim) + bias.shape
    if any(side > 1 for side, letter in zip(sides, result, strict=True) if letter not in added):
        raise refuse(layer, path, f"has `bias_axes` (={layer.bias_axes!r}), which include an axis of the input.")
    wide = [shape[axis] if letter in added else 1 for axis, letter in enumerate(result)]
    return np.broadcast_to(bias.reshape(sides), wide).ravel()


@lowers(unnamed_class(ops.matmul, "Matmul"))
def _matmul(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """A product with a constant matrix, or of two tensors with the same number of axes."""
    if len(x) == 1:
        return constant_product(graph, layer, call, x, shape)
    if len(x) != 2 or len(x[0].shape) != len(x[1].shape) or len(x[0].shape) < 3:
        raise refuse(layer, call.path, "is not a product of matrices for each image.")
    return graph.add("matmul", layer.name, x, shape)


@lowers(unnamed_class(ops.dot_product_attention, "DotProductAttention"), reads="flash_attention")
def _attention(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """Attention without a mask: the softmax of the products of queries and keys, times the values."""
    given = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments
    others = [given.get(name) is not None for name in ("bias", "mask")]
    if len(x) != 3 or any(others) or layer.is_causal or layer.attn_logits_soft_cap is not None:
        raise refuse(layer, call.path, "has a mask, a bias, or a cap.")
    query, key, value = x
    if query.shape[2] != key.shape[2]:
        raise refuse(layer, call.path, "has fewer heads for keys than for queries.")
    factor = given.get("scale")
    factor = query.shape[-1] ** -0.5 if factor is None else float(factor)
    scores = scaled(graph, layer, product(graph, layer, call.path, "btnh,bsnh->bnts", query, key), factor)
    scores = graph.add("softmax", layer.name, [scores], scores.shape)
    return product(graph, layer, call.path, "bnts,bsnh->btnh", scores, value)
