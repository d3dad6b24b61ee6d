"""Sums over many pixels in layers that compute in half precision.

A sum in bfloat16 stagnates once it is 256 times as large as the terms. The gradient of a value that is applied at every
pixel is such a sum, computed in the dtype of the operation that applied the value.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_sharenets._types import Tensor
from keras_sharenets.dtype_policies import HALF


def full(tensor: Tensor) -> Tensor:
    """Casts a half-precision tensor to float32; returns any other tensor unchanged.

    >>> full(ops.ones(1, "bfloat16")).dtype == full(ops.ones(1)).dtype
    True
    """
    half = keras.backend.standardize_dtype(tensor.dtype) in HALF
    return ops.cast(tensor, "float32") if half else tensor


def in_full(function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, kernel: Tensor) -> Tensor:
    """`function(inputs, kernel)`, computed in float32 if they are in half precision, cast to the dtype of `inputs`."""
    return ops.cast(function(full(inputs), full(kernel)), inputs.dtype)


def add_bias(outputs: Tensor, bias: Tensor) -> Tensor:
    """`outputs + bias` in the dtype of `outputs`, with the gradient of `bias` summed in full precision.

    Args:
        outputs: tensor.
        bias: tensor or variable that broadcasts to `outputs`.

    Returns:
        A tensor with the dtype and shape of `outputs`.
    """
    return ops.cast(ops.add(full(outputs), full(ops.convert_to_tensor(bias))), outputs.dtype)
