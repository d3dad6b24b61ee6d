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
from keras_sharenets.mobile.graph.steps import (
    aligned,
    array,
    constant,
    masked_softmax,
    reshaped,
    scaled,
    transposed,
    unnamed_class,
)


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
    if len(call.args) != 2 or "->" not in layer.subscripts:
        raise refuse(layer, call.path, "is not a product of two tensors.")
    if len(x) == 2:
        return product(graph, layer, call.path, layer.subscripts, *x)
    equation, (left, right) = layer.subscripts.replace(" ", ""), call.args
    if isinstance(right, Tensor):
        equation, right = re.sub("^(.*),(.*)->", r"\2,\1->", equation), left
    return _constant_product(
        graph, layer, call.path, equation, x[0], array(right), lambda kernel: graph.equal_constant(layer, kernel)
    )


@lowers(layers.EinsumDense, reads="equation output_shape activation bias_axes")
def _einsum_dense(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    def stored(matrix):
        return graph.constant(layer, "kernel" if matrix.ndim == 2 else "kernel of 1x1", lambda: matrix)

    def bias(result, added):
        return _bias(layer, call.path, result, added, shape)

    y = _constant_product(graph, layer, call.path, layer.equation, x[0], array(layer.kernel), stored, bias)
    return activate(graph, layer, call.path, y)


def _constant_product(graph, layer, path, equation, x, kernel, stored, bias_of=lambda result, added: None):
    """A product with constant numbers: a 1x1 convolution of an image of one row, or a matrix product of a vector.

    Args:
        graph, layer, path: the graph under construction, the layer and its path.
        equation: the product in the notation of `einsum`, with the constant on the right.
        x, kernel: the value, and the constant as an array.
        stored: function from the kernel in the layout of the operation to its `Constant`.
        bias_of: function of the letters of the result and of those from the kernel, that returns a bias or `None`.
    """
    left, right, result = _letters(layer, path, equation, x.shape, kernel.shape)
    if set(left) & set(right) & set(result):
        raise refuse(layer, path, f"has the equation {equation!r}: its kernel varies along an input axis.")
    side = dict(zip(left + right, (*x.shape, *kernel.shape), strict=True))
    first, kept = left[0], "".join(letter for letter in result[1:] if letter in left)
    added = "".join(letter for letter in result if letter in right)
    summed = "".join(letter for letter in left if letter in right)
    rows, channels, filters = (math.prod(side[each] for each in part) for part in (kept, summed, added))
    order = list(map(right.index, summed + added))
    matrix, bias = kernel.transpose(order).reshape(channels, filters), bias_of(result, added)
    if kept:
        y = _ordered(graph, layer, x, left, first + kept + summed, (1, rows, channels))
        fields = {"kernel": stored(matrix[None, None]), "bias": bias, "attributes": POINTWISE}
        y = graph.add("conv", layer.name, [y], (1, 1, rows, filters), **fields)
    else:
        y = _ordered(graph, layer, x, left, first + summed, (channels,))
        y = graph.add("dense", layer.name, [y], (1, filters), kernel=stored(matrix), bias=bias)
    return _restored(graph, layer, y, first + kept + added, result, side)


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
    rank = len(x[0].shape)
    if len(x) == 1:
        return _beside_constant(graph, layer, call, x[0], shape)
    if len(x) != 2 or rank != len(x[1].shape) or rank < 3:
        raise refuse(layer, call.path, "is not a product of matrices for each image.")
    return graph.add("matmul", layer.name, x, shape)


def _beside_constant(graph, layer, call, x, shape):
    """A product with a constant matrix on either side, or with one for each image row, head or the like."""
    left, right = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments.values()
    is_right, rank = isinstance(left, Tensor), len(x.shape)
    numbers = array(right if is_right else left)
    if is_right and numbers.ndim == 2:
        return constant_product(graph, layer, call, [x], shape)
    if len(shape) != rank or not 2 <= numbers.ndim <= rank:
        raise refuse(layer, call.path, f"has a constant of shape {numbers.shape}, not of matrices for each image.")
    numbers, outer = aligned(layer, call.path, numbers, max(rank, 3)), string.ascii_lowercase[: rank - 2]
    if math.prod(numbers.shape[:-2]) == 1:
        equation = f"{outer}xy,yz->{outer}xz" if is_right else f"{outer}yz,xy->{outer}xz"
        matrix = numbers.reshape(numbers.shape[-2:])
        return _constant_product(
            graph, layer, call.path, equation, x, matrix, lambda kernel: graph.equal_constant(layer, kernel)
        )
    pair = [x, constant(graph, layer, "matrices", lambda: numbers[0])]
    return graph.add("matmul", layer.name, pair if is_right else pair[::-1], shape)


@lowers(unnamed_class(ops.dot_product_attention, "DotProductAttention"), reads="is_causal flash_attention")
def _attention(graph: GraphBuilder, layer: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """The softmax of the products of queries and keys, possibly with a constant mask, times the values."""
    given = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments
    if len(x) != 3 or given.get("bias") is not None or layer.attn_logits_soft_cap is not None:
        raise refuse(layer, call.path, "has a mask that depends on the input, a bias, or a cap.")
    query, key, value = x
    if query.shape[2] != key.shape[2]:
        raise refuse(layer, call.path, "has fewer heads for keys than for queries.")
    factor = given.get("scale")
    factor = query.shape[-1] ** -0.5 if factor is None else float(factor)
    scores = scaled(graph, layer, product(graph, layer, call.path, "btnh,bsnh->bnts", query, key), factor)
    mask = np.ones((1, 1, 1, 1), bool) if given.get("mask") is None else array(given["mask"], "bool")
    if layer.is_causal:
        mask = mask & np.tri(*scores.shape[2:], dtype=bool)
    if mask.all():
        scores = graph.add("softmax", layer.name, [scores], scores.shape)
    else:
        scores = masked_softmax(graph, layer, call.path, scores, mask)
    return product(graph, layer, call.path, "bnts,bsnh->btnh", scores, value)
