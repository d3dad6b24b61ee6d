"""The 1x1 part of IGC-V2: group convolutions with shuffles between them, run as drawn or composed into one kernel.

Channels are rows here and pixels columns, as in the paper's `y = P_n W_n ... P_1 W_1 x`: a group convolution is one
batch of small matrix products, and a shuffle moves whole rows. The composed kernel is what comes out for the unit
vectors.

Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, equation 4.
"""

from keras import ops


def kernel_shapes(channels, branch_channels, filters):
    """Shapes of the stored kernels, as in `keras.layers.Conv2D(groups=channels / branch_channels[l])`.

    >>> kernel_shapes(16, (8, 8), filters=32)
    ((1, 1, 8, 16), (1, 1, 8, 32))
    """
    *first, last = branch_channels
    return (*((1, 1, size, channels) for size in first), (1, 1, last, filters))


def _group_pointwise(rows, kernel):
    """A 1x1 convolution whose branches are neighboring rows."""
    _, _, inputs, filters = kernel.shape
    branches = rows.shape[0] // inputs
    matrices = ops.transpose(ops.reshape(kernel, (inputs, branches, filters // branches)), (1, 2, 0))
    return ops.reshape(ops.matmul(matrices, ops.reshape(rows, (branches, inputs, -1))), (filters, -1))


def _deal(rows, groups):
    """`permutations.deal` for rows, as a transposition: the gradient of an indexed read is slow, this one's is not."""
    channels = rows.shape[0]
    table = ops.reshape(rows, (channels // groups, groups, -1))
    return ops.reshape(ops.transpose(table, (1, 0, 2)), (channels, -1))


def chain(rows, kernels, deals):
    """All group convolutions one after the other, each followed by its shuffle.

    Args:
        rows: tensor `(channels, pixels)`.
        kernels: one tensor of the shape that `kernel_shapes` gives for each group convolution.
        deals: what `permutations.interleaving` gives.

    Returns:
        A tensor `(filters, pixels)`.
    """
    for kernel, groups_of_deals in zip(kernels, deals, strict=True):
        rows = _group_pointwise(rows, kernel)
        for groups in groups_of_deals:
            rows = _deal(rows, groups)
    return rows


def compose(channels, kernels, deals):
    """The kernel of the ordinary 1x1 convolution that [`chain`] is: a tensor `(1, 1, channels, filters)`."""
    units = ops.eye(channels, dtype=kernels[0].dtype)
    matrix = ops.transpose(chain(units, kernels, deals))
    return ops.reshape(matrix, (1, 1, *matrix.shape))


def factored(inputs, kernels, deals):
    """The group convolutions as the paper draws them: tensor `(batch, height, width, channels)` in, `filters` out."""
    _, height, width, channels = ops.shape(inputs)
    rows = chain(ops.transpose(ops.reshape(inputs, (-1, channels))), kernels, deals)
    return ops.reshape(ops.transpose(rows), (-1, height, width, rows.shape[0]))
