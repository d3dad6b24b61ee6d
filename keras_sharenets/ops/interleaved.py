"""The 1x1 part of IGC-V2: group convolutions with shuffles between, computed in sequence or composed into one kernel.

Channels are rows and pixels are columns, as in the paper's `y = P_n W_n ... P_1 W_1 x`: a group convolution is a batch
of small matrix products, and a shuffle permutes rows. The composed kernel is the result for the identity matrix.

Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, equation 4.
"""

from collections.abc import Sequence

from keras import ops

from keras_sharenets._types import Tensor

# For each group convolution, the numbers of groups of the strided shuffles after it.
Shuffles = Sequence[Sequence[int]]


def kernel_shapes(channels: int, branch_channels: Sequence[int], filters: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of the stored kernels, as in `keras.layers.Conv2D(groups=channels / branch_channels[l])`.

    >>> kernel_shapes(16, (8, 8), filters=32)
    ((1, 1, 8, 16), (1, 1, 8, 32))
    """
    *first, last = branch_channels
    return (*((1, 1, size, channels) for size in first), (1, 1, last, filters))


def _group_pointwise(rows: Tensor, kernel: Tensor) -> Tensor:
    """A 1x1 group convolution whose branches are contiguous rows."""
    _, _, inputs, filters = kernel.shape
    branches = rows.shape[0] // inputs
    matrices = ops.transpose(ops.reshape(kernel, (inputs, branches, filters // branches)), (1, 2, 0))
    return ops.reshape(ops.matmul(matrices, ops.reshape(rows, (branches, inputs, -1))), (filters, -1))


def _strided_shuffle(rows: Tensor, groups: int) -> Tensor:
    """`permutations.strided_shuffle` of rows as a transpose, whose gradient is faster than that of a gather."""
    channels = rows.shape[0]
    table = ops.reshape(rows, (channels // groups, groups, -1))
    return ops.reshape(ops.transpose(table, (1, 0, 2)), (channels, -1))


def chain(rows: Tensor, kernels: Sequence[Tensor], shuffles: Shuffles) -> Tensor:
    """All group convolutions in sequence, each followed by its shuffles.

    Args:
        rows: tensor `(channels, pixels)`.
        kernels: one tensor per group convolution, with the shapes of `kernel_shapes`.
        shuffles: the result of `permutations.interleaving`.

    Returns:
        A tensor `(filters, pixels)`.
    """
    for kernel, after in zip(kernels, shuffles, strict=True):
        rows = _group_pointwise(rows, kernel)
        for groups in after:
            rows = _strided_shuffle(rows, groups)
    return rows


def compose(channels: int, kernels: Sequence[Tensor], shuffles: Shuffles) -> Tensor:
    """The kernel of the 1x1 convolution equivalent to [`chain`]: a tensor `(1, 1, channels, filters)`."""
    units = ops.eye(channels, dtype=kernels[0].dtype)
    matrix = ops.transpose(chain(units, kernels, shuffles))
    return ops.reshape(matrix, (1, 1, *matrix.shape))


def factored(inputs: Tensor, kernels: Sequence[Tensor], shuffles: Shuffles) -> Tensor:
    """The group convolutions in sequence: from `(batch, height, width, channels)` to `(..., filters)`."""
    _, height, width, channels = ops.shape(inputs)
    rows = chain(ops.transpose(ops.reshape(inputs, (-1, channels))), kernels, shuffles)
    return ops.reshape(ops.transpose(rows), (-1, height, width, rows.shape[0]))
