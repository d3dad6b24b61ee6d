"""Differentiable rounding to the levels of an int8 file."""

import math

import keras
from keras import ops

from keras_sharenets._types import Tensor

# Cluster indices are stored in 8 bits.
MAX_CLUSTERS = 256


def round_filters(kernel: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Rounds a kernel to 127 levels on either side of 0, up to the largest magnitude of each filter.

    The gradient passes through unchanged everywhere, including at the largest value, which determines the step size.

    Args:
        kernel: float tensor.
        axis: int or tuple of ints, trailing axes that index the filters; `None` for one range for the whole kernel.

    Returns:
        A tensor with the shape of `kernel`.

    >>> rounded = round_filters(ops.convert_to_tensor([[1.27, 2.54], [0.333, 0.333]]), axis=-1)
    >>> [round(float(number), 4) for number in rounded[1]]
    [0.33, 0.34]
    """
    if isinstance(axis, tuple):
        filters = math.prod(kernel.shape[-len(axis) :])
        return ops.reshape(round_filters(ops.reshape(kernel, (-1, filters)), -1), kernel.shape)
    # On JAX, Keras supports only the last axis.
    numbers = kernel if axis is None else ops.moveaxis(kernel, axis, -1)
    places = tuple(range(len(numbers.shape) - (axis is not None)))
    limit = ops.maximum(ops.max(ops.abs(numbers), axis=places), 1e-12)
    rounded = keras.quantizers.fake_quant_with_min_max_vars(
        numbers, -limit, limit, narrow_range=True, axis=None if axis is None else -1
    )
    rounded = rounded if axis is None else ops.moveaxis(rounded, -1, axis)
    return kernel + ops.stop_gradient(rounded - kernel)


def round_values(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rounds values to 256 levels from `low` to `high`, shifted so that 0 is a level, and clips those outside.

    The gradient passes unchanged for values inside the range and is 0 outside. The limits get no gradient.

    Args:
        values: float tensor.
        low, high: scalars with `low <= 0 <= high` and `low < high`.

    Returns:
        A tensor with the shape of `values`.
    """
    low, high = (ops.stop_gradient(ops.convert_to_tensor(limit)) for limit in (low, high))
    return keras.quantizers.fake_quant_with_min_max_vars(values, low, high)


def keep_zeros(kernel: Tensor) -> Tensor:
    """The kernel, without gradient where it is 0."""
    return kernel * ops.cast(kernel != 0, kernel.dtype)


def share_gradients(kernel: Tensor, clusters: Tensor) -> Tensor:
    """Replaces each weight by the mean of its cluster, so that each weight gets the mean gradient of its cluster.

    Args:
        kernel: float tensor.
        clusters: uint8 tensor of the same shape, the cluster index of each weight.

    Returns:
        A tensor with the shape of `kernel`.
    """
    members = ops.reshape(ops.cast(clusters, "int32"), (-1,))
    flat = ops.reshape(kernel, (-1,))
    sums = ops.segment_sum(flat, members, num_segments=MAX_CLUSTERS)
    counts = ops.segment_sum(ops.ones_like(flat), members, num_segments=MAX_CLUSTERS)
    means = sums / ops.maximum(counts, 1)
    return ops.reshape(ops.take(means, members), kernel.shape)
