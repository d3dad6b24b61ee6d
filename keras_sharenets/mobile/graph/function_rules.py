"""Lowering rules of the functions of `keras.ops` that take a kernel, as used in the `call` of custom layers.

The kernel must be known at export: a weight, or a value computed only from weights, such as a standardized or repeated
kernel. Equal kernels become one constant, so a layer that is called twice stores it once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Tensor
from keras_sharenets.mobile.graph.inference_graph import Value
from keras_sharenets.mobile.graph.keras_rules import linear, matrix_product, window
from keras_sharenets.mobile.graph.product_rules import product_of_two
from keras_sharenets.mobile.graph.rules import GraphBuilder, lowers, refuse
from keras_sharenets.mobile.graph.steps import array, unnamed_class


def _kernel(operation: Any, call: Call, rank: int) -> np.ndarray:
    """The second argument of a call, if it is a constant with `rank` axes."""
    image, kernel = inspect.signature(operation.call).bind(*call.args, **call.kwargs).arguments.values()
    if isinstance(kernel, Tensor) or not isinstance(image, Tensor):
        raise refuse(operation, call.path, "needs an image, then a kernel that does not depend on the input.")
    numbers = array(kernel)
    if numbers.ndim != rank:
        raise refuse(operation, call.path, f"has a kernel of shape {numbers.shape}, which cannot be exported.")
    return numbers


def _windowed(kind: str):
    """A convolution; its number of groups follows from the channels of the image and the kernel."""

    def rule(graph: GraphBuilder, operation: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
        kernel = graph.equal_constant(operation, _kernel(operation, call, rank=4))
        groups = {"groups": x[0].shape[-1] // kernel.array.shape[2]} if kind == "conv" else {}
        return linear(graph, kind, operation, call, x, shape, kernel, **window(operation), **groups)

    return rule


lowers(unnamed_class(ops.conv, "Conv"), reads="strides padding dilation_rate")(_windowed("conv"))
lowers(unnamed_class(ops.depthwise_conv, "DepthwiseConv"), reads="strides padding dilation_rate")(
    _windowed("depthwise")
)


@lowers(unnamed_class(ops.dot, "Dot"))
def _product(graph: GraphBuilder, operation: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    numbers = _kernel(operation, call, rank=2)
    kernel = graph.equal_constant(operation, numbers if len(x[0].shape) == 2 else numbers[None, None])
    return matrix_product(graph, operation, call, x, shape, kernel)


@lowers(unnamed_class(ops.matmul, "Matmul"))
def _matmul(graph: GraphBuilder, operation: Any, call: Call, x: Sequence[Value], shape: Shape) -> Value:
    """A product with a constant matrix, or of two tensors."""
    rule = _product if len(x) == 1 else product_of_two
    return rule(graph, operation, call, x, shape)
