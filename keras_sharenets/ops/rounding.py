"""Numbers rounded to what an int8 file can hold, in a way that training passes through."""

import math

import keras
from keras import ops

from keras_sharenets._types import Tensor

# What tells clusters apart has 8 bits.
MAX_CLUSTERS = 256


def round_filters(kernel: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """A kernel rounded to 127 steps either side of 0, the last of them the largest magnitude of a filter.

    The gradient of what comes out is that of what goes in, everywhere: the largest number, whose step it sets, too.

    Args:
        kernel: float tensor.
        axis: int, or the last axes, along which filters are counted; `None` for one range for all numbers.

    Returns:
        A tensor of the shape of `kernel`.

    >>> rounded = round_filters(ops.convert_to_tensor([[1.27, 2.54], [0.333, 0.333]]), axis=-1)
    >>> [round(float(number), 4) for number in rounded[1]]
    [0.33, 0.34]
    """
    if isinstance(axis, tuple):
        filters = math.prod(kernel.shape[-len(axis) :])
        return ops.reshape(round_filters(ops.reshape(kernel, (-1, filters)), -1), kernel.shape)
    # On JAX, Keras rounds along the last axis alone.
    numbers = kernel if axis is None else ops.moveaxis(kernel, axis, -1)
    places = tuple(range(len(numbers.shape) - (axis is not None)))
    limit = ops.maximum(ops.max(ops.abs(numbers), axis=places), 1e-12)
    rounded = keras.quantizers.fake_quant_with_min_max_vars(
        numbers, -limit, limit, narrow_range=True, axis=None if axis is None else -1
    )
    rounded = rounded if axis is None else ops.moveaxis(rounded, -1, axis)
    return kernel + ops.stop_gradient(rounded - kernel)


def round_values(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values rounded to the 256 steps from `low` to `high`, moved so that 0 is a step; those outside are cut off.

    A gradient passes unchanged where a value is inside, and is 0 outside. None reaches the limits.

    Args:
        values: float tensor.
        low, high: scalars, `low <= 0 <= high` and `low < high`.

    Returns:
        A tensor of the shape of `values`.
    """
    low, high = (ops.stop_gradient(ops.convert_to_tensor(limit)) for limit in (low, high))
    return keras.quantizers.fake_quant_with_min_max_vars(values, low, high)


def keep_zeros(kernel: Tensor) -> Tensor:
    """The kernel, with no gradient where it is 0."""
    return kernel * ops.cast(kernel != 0, kernel.dtype)


def share_gradients(kernel: Tensor, clusters: Tensor) -> Tensor:
    """The kernel, each number replaced by the mean of its cluster: they are equal, and get one gradient, the mean.

    Args:
        kernel: float tensor.
        clusters: uint8 tensor of the same shape, the number of the cluster that each belongs to.

    Returns:
        A tensor of the shape of `kernel`.
    """
    members = ops.reshape(ops.cast(clusters, "int32"), (-1,))
    flat = ops.reshape(kernel, (-1,))
    sums = ops.segment_sum(flat, members, num_segments=MAX_CLUSTERS)
    counts = ops.segment_sum(ops.ones_like(flat), members, num_segments=MAX_CLUSTERS)
    means = sums / ops.maximum(counts, 1)
    return ops.reshape(ops.take(means, members), kernel.shape)
