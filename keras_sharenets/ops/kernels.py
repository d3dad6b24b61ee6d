"""Expansion of stored tensors into the kernel of an ordinary convolution `(height, width, inputs per group, filters)`.

Filters are group-major: with `G` groups, the first `filters / G` filters belong to the first group, as in
`keras.layers.Conv2D(groups=G)`.
"""

from keras import ops

from keras_sharenets._types import Tensor
from keras_sharenets.ops import permutations


def arrange(
    kernel: Tensor, arrangements: int, groups: int = 1, shuffle_groups: int = 2, plane_orders: str = "distinct"
) -> Tensor:
    """Arranged shared filters (ASF): every filter is used `arrangements` times with permuted input planes.

    Within each group, `W = concat_t(P_t W_b)`: first the base filters, then their arranged copies.

    Args:
        kernel: tensor `(kh, kw, c, n)`, group-major.
        arrangements: int, number of uses of each filter (the paper's T).
        groups: int, number of groups of the `n` filters.
        shuffle_groups, plane_orders: permutations of the `c` input planes, as in `permutations.arrangements`.

    Returns:
        A tensor `(kh, kw, c, n * arrangements)`.

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", equation 2.
    """
    if arrangements == 1:
        return kernel
    height, width, inputs, filters = kernel.shape
    base = ops.reshape(kernel, (height, width, inputs, groups, 1, filters // groups))
    orders = permutations.arrangements(inputs, arrangements, shuffle_groups, plane_orders)
    copies = [base] + [ops.take(base, order, axis=2) for order in orders[1:]]
    return ops.reshape(ops.concatenate(copies, axis=4), (height, width, inputs, filters * arrangements))


def repeat(kernel: Tensor, channel_repeats: int) -> Tensor:
    """Channel repeated filters (CRF): repeats the whole bank of group filters `channel_repeats` times.

    Group `i` of the result uses the filters of group `i mod (G / R)` of the bank; the paper's stride of `C / R`
    channels is one period of the bank.

    Args:
        kernel: tensor `(kh, kw, c, n)`, the bank of `G / R` groups.
        channel_repeats: int, the paper's R.

    Returns:
        A tensor `(kh, kw, c, n * channel_repeats)`.

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", section 3.1.
    """
    return kernel if channel_repeats == 1 else ops.tile(kernel, (1, 1, 1, channel_repeats))


def block_diagonal(kernel: Tensor, groups: int) -> Tensor:
    """The dense kernel equivalent to `kernel` in a grouped convolution, with zeros between the groups.

    Args:
        kernel: tensor `(kh, kw, c, n)`, group-major.
        groups: int, number of groups.

    Returns:
        A tensor `(kh, kw, groups * c, n)`.
    """
    if groups == 1:
        return kernel
    height, width, inputs, filters = kernel.shape
    columns = ops.reshape(kernel, (height, width, 1, inputs, groups, filters // groups))
    own_group = ops.reshape(ops.eye(groups, dtype=kernel.dtype), (1, 1, groups, 1, groups, 1))
    return ops.reshape(columns * own_group, (height, width, groups * inputs, filters))
