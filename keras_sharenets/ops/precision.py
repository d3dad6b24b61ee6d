"""Sums over many pixels in layers that compute in half precision.

A sum in bfloat16 stands still once it is 256 times as large as what is added to it. The gradient of whatever is the
same at every pixel is such a sum, and it is formed in the type of the operation that brought both together.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_sharenets._types import Tensor
from keras_sharenets.dtype_policies import HALF


def full(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, or else itself.

    >>> full(ops.ones(1, "bfloat16")).dtype == full(ops.ones(1)).dtype
    True
    """
    half = keras.backend.standardize_dtype(tensor.dtype) in HALF
    return ops.cast(tensor, "float32") if half else tensor


def in_full(function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, kernel: Tensor) -> Tensor:
    """`function(inputs, kernel)`, computed in float32 where they are in half precision, in the type of `inputs`."""
    return ops.cast(function(full(inputs), full(kernel)), inputs.dtype)


def add_bias(outputs: Tensor, bias: Tensor) -> Tensor:
    """`outputs + bias` in the type of `outputs`, added so that the gradient of `bias` is summed in full precision.

    Args:
        outputs: tensor.
        bias: tensor or variable that goes with its last axes.

    Returns:
        A tensor of the type and shape of `outputs`.
    """
    return ops.cast(ops.add(full(outputs), full(ops.convert_to_tensor(bias))), outputs.dtype)
