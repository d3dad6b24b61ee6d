"""Multiply-adds of a call, computed from shapes for every layer with known arithmetic.

A rule counts the products of stored weights with activations for one image. Biases, normalizations, activations,
pooling and sums count as zero, as usual in the literature.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import layers

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Call, Tensor, is_functional, trace
from keras_sharenets.layers import SqueezeExcite

# May have weights of two or more axes, but apply them elementwise or only look them up.
_ELEMENTWISE = (
    layers.BatchNormalization,
    layers.Embedding,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
)
# Products without stored weights, and functions that run another one, which may multiply. Keras has no public classes
# for its functions, so they are identified by name.
_PRODUCTS = {
    "AdditiveAttention",
    "AssociativeScan",
    "Attention",
    "Cond",
    "Conv",
    "ConvTranspose",
    "Correlate",
    "DepthwiseConv",
    "Dot",
    "DotProductAttention",
    "Einsum",
    "ForiLoop",
    "Inner",
    "Map",
    "Matmul",
    "Outer",
    "Scan",
    "SeparableConv",
    "Switch",
    "Tensordot",
    "Vdot",
    "VectorizedMap",
    "WhileLoop",
}


class _OpenSideError(Exception):
    """A cost depends on a dimension that is `None`."""


def _product(sides: Sequence[int | None]) -> int:
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        raise _OpenSideError
    return math.prod(known)


def _size(shape: Shape) -> int:
    """Number of values per image of a tensor that starts with the batch axis."""
    return _product(shape[1:])


def _channels(layer: Any, shape: Shape) -> int:
    return shape[1 if layer.data_format == "channels_first" else -1]


def _convolution(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Every output value reads a window of the input channels of its group."""
    return _size(outputs) * math.prod(layer.kernel_size) * (_channels(layer, inputs) // layer.groups)


def _depthwise(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Every output value reads a window of one input channel."""
    return _size(outputs) * math.prod(layer.kernel_size)


def _separable(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Depthwise at the output's resolution, then 1x1."""
    hidden = _channels(layer, inputs) * layer.depth_multiplier
    pixels = _size(outputs) // layer.filters
    return pixels * hidden * math.prod(layer.kernel_size) + pixels * hidden * layer.filters


def _transposed(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Every input value contributes to a window of the output; positions beyond the border count."""
    return _size(inputs) * math.prod(layer.kernel_size) * layer.filters


def _dense(layer: Any, inputs: Shape, outputs: Shape) -> int:
    return _size(outputs) * inputs[-1]


def _squeeze_excite(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Two dense layers on one vector per image."""
    return 2 * inputs[-1] * (inputs[-1] // layer.reduction)


def _einsum_dense(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """The whole kernel once for every position along the axes that are not in the kernel."""
    terms, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    before, _, after = terms.partition("...")
    hidden = len(inputs) - len(before) - len(after)
    labels = [*before, *[""] * hidden, *after]
    places = [side for label, side in zip(labels, inputs, strict=True) if not label or label not in kernel]
    return _product(places[1:]) * math.prod(layer.kernel.shape)


def _recurrent(layer: Any, inputs: Shape, outputs: Shape) -> int:
    """Both kernels once for every step; the products of gates and states have no weights."""
    kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
    return _product(inputs[1:2]) * sum(math.prod(kernel.shape) for kernel in kernels)


def _inside(layer: Any, inputs: Shape) -> int | None:
    """The multiply-adds of a layer or network in a wrapper for one image, or `None`."""
    if is_functional(layer):
        calls = trace(layer, inputs[1:]).calls
    else:
        ends = (inputs, tuple(layer.compute_output_shape(inputs)))
        tensor, output = (Tensor(place, shape, layer.compute_dtype) for place, shape in enumerate(ends))
        calls = (Call(layer.name, layer, 0, (tensor,), {}, (output,)),)
    return _total([multiply_adds(call, _effective_kernel_shape(call.operation)) for call in calls])


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _bidirectional(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    """The layers of both directions; they may be of any kind."""
    return _total([_inside(each, inputs) for each in (layer.forward_layer, layer.backward_layer)])


def _time_distributed(layer: Any, inputs: Shape, outputs: Shape) -> int | None:
    """The layer once for every step."""
    step = _inside(layer.layer, (inputs[0], *inputs[2:]))
    return _product(inputs[1:2]) * step if step else step


_RULES = (
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    ((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    ((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    ((layers.Dense,), _dense),
    ((layers.EinsumDense,), _einsum_dense),
    ((SqueezeExcite,), _squeeze_excite),
    ((layers.SimpleRNN, layers.GRU, layers.LSTM), _recurrent),
    ((layers.Bidirectional,), _bidirectional),
    ((layers.TimeDistributed,), _time_distributed),
)


def _effective_kernel_shape(operation: Any) -> Shape | None:
    """The shape of the effective kernel of a layer, if it has one."""
    return tuple(operation.effective_kernel().shape) if hasattr(operation, "effective_kernel") else None


def _kernel_rule(kernel_shape: Shape) -> Callable[[Any, Shape, Shape], int]:
    """Every output value uses the full kernel of its filter, unless the paper counts fewer products."""

    def rule(layer: Any, inputs: Shape, outputs: Shape) -> int:
        if hasattr(layer, "products_per_pixel"):
            return _size(outputs) // outputs[-1] * layer.products_per_pixel()
        return _size(outputs) * math.prod(kernel_shape[:-1])

    return rule


def _rule(call: Call) -> Callable[[Any, Shape, Shape], int | None] | None:
    # The reverse of an embedding is a dense layer: it computes a score for each entry of the table.
    if isinstance(call.operation, layers.Embedding) and (call.kwargs.get("reverse") or True in call.args[1:]):
        return _dense
    return next((rule for classes, rule in _RULES if isinstance(call.operation, classes)), None)


def multiply_adds(call: Call, kernel_shape: Shape | None = None, *, batch: int | None = None) -> int | None:
    """The multiply-adds of one call for one image.

    Args:
        call: a `Call` of `keras_sharenets.analysis.graph`.
        kernel_shape: shape of the layer's effective kernel, if it has one; the last axis is the filters.
        batch: batch size of the network, for a call with another one, for example after the frames of a video have
            become images; `None`: that of the call.

    Returns:
        An int; `None` if the arithmetic is unknown: for a layer without a rule that has a weight of two or more axes,
        also in a wrapper, or for a product without weights (attention, `keras.ops.matmul`), possibly in a function that
        an operation runs (`keras.ops.vectorized_map`).

    Raises:
        ValueError: the cost depends on unknown dimensions.
    """
    operation = call.operation
    rule = _kernel_rule(kernel_shape) if kernel_shape is not None else _rule(call)
    if rule is not None:
        inputs, outputs = call.input_shapes[0], call.output_shapes[0]
        try:
            products = rule(operation, inputs, outputs)
            return products if batch is None or not products else _product((products, outputs[0])) // batch
        except _OpenSideError as error:
            raise ValueError(
                f"`input_shape` must specify the unknown dimensions of the model: the multiply-adds of '{call.path}' "
                f"depend on them (its input is {inputs}, its output {outputs})."
            ) from error
    if isinstance(operation, _ELEMENTWISE):
        return 0
    weights = getattr(operation, "weights", ())
    unknown = type(operation).__name__ in _PRODUCTS or any(len(weight.shape) > 1 for weight in weights)
    return None if unknown else 0
