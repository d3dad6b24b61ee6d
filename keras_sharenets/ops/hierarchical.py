"""1x1 group convolutions with one kernel per group: computed group by group, or composed into one kernel.

Channels are split into groups `X_1 ... X_G` that may differ by one channel, filters into groups of `p`. A split group
convolution is `Y_i = X_i W_i`. In a hierarchical one, every group except the first also reads the output of the
previous group: `Y_i = [X_i, Y_(i-1)] W_i`. Since there is no nonlinearity, both are equivalent to an ordinary 1x1
convolution, whose kernel follows from a few small products that do not depend on the image.

Kernels have shape `(1, 1, inputs, p)`. In a hierarchical kernel, the rows for `X_i` come first.

Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, equations 1, 2.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.ops import choices, convolution


def split_sizes(channels: int, groups: int) -> tuple[int, ...]:
    """Number of channels of each group, as even as possible: the first `channels % groups` groups have one more.

    Args:
        channels: int.
        groups: int, at most `channels`.

    Returns:
        A tuple of `groups` ints.

    Raises:
        ValueError: an argument is not a positive integer, or there are more groups than channels.

    >>> split_sizes(16, groups=6)
    (3, 3, 3, 3, 2, 2)
    """
    _checks.positive("channels", channels)
    _checks.positive("groups", groups)
    if groups > channels:
        raise ValueError(f"`groups` (={groups}) must be at most the number of input channels (={channels}).")
    return tuple(channels // groups + (group < channels % groups) for group in range(groups))


def split_inputs(sizes: tuple[int, ...], filters: int) -> tuple[int, ...]:
    """Number of inputs of the kernels of a split group convolution: the channels of their own group."""
    return sizes


def chain_inputs(sizes: tuple[int, ...], filters: int) -> tuple[int, ...]:
    """Number of inputs of the kernels of a hierarchical one: their own group, plus `filters` except for the first.

    >>> chain_inputs((3, 2, 2), filters=4)
    (3, 6, 6)
    """
    return (sizes[0], *(size + filters for size in sizes[1:]))


def _groups(inputs: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    if len(sizes) == 1:  # TensorFlow does not split into a single part.
        return [inputs]
    return ops.split(inputs, list(itertools.accumulate(sizes[:-1])), axis=-1)


def split(inputs: Tensor, kernels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The split group convolution, group by group, or as one grouped convolution where TensorFlow supports it.

    Args:
        inputs: tensor `(batch, height, width, sum of sizes)`.
        kernels: one tensor `(1, 1, split_inputs(sizes, p)[i], p)` per group.
        sizes: tuple, number of channels of each group.

    Returns:
        A tensor `(batch, height, width, groups * p)`.
    """
    if len(set(sizes)) == 1 and choices.runtime(inputs.dtype) == "tensorflow":
        return convolution.grouped(inputs, ops.concatenate(kernels, axis=3), len(sizes), 1, (1, 1), "valid")
    own = _groups(inputs, sizes)
    return ops.concatenate([convolution.pointwise(x, kernel) for x, kernel in zip(own, kernels, strict=True)], axis=-1)


def chain(inputs: Tensor, kernels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The hierarchical group convolution, group by group.

    Arguments and result as in [`split`], except for the kernels: `(1, 1, chain_inputs(sizes, p)[i], p)`.
    """
    outputs = []
    for x, kernel in zip(_groups(inputs, sizes), kernels, strict=True):
        read = ops.concatenate([x, outputs[-1]], axis=-1) if outputs else x
        outputs.append(convolution.pointwise(read, kernel))
    return ops.concatenate(outputs, axis=-1)


def _columns(kernels: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """One tensor `(1, 1, sum of sizes, p)` per group: the rows of its own channels, zeros elsewhere."""
    rows = ops.concatenate(kernels, axis=2)
    own = np.repeat(np.eye(len(sizes), dtype=bool), sizes, axis=0)
    return [ops.where(own[:, group, None], rows, ops.zeros_like(rows)) for group in range(len(sizes))]


def split_kernel(kernels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The kernel of the convolution equivalent to [`split`]: `(1, 1, sum of sizes, groups * p)`, block diagonal."""
    return ops.concatenate(_columns(kernels, sizes), axis=3)


def chain_kernel(kernels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The kernel of the convolution equivalent to [`chain`]: `(1, 1, sum of sizes, groups * p)`.

    With `A_i` the rows of `W_i` that read `X_i`, and `B_i` those that read `Y_(i-1)`, the columns of group `i` are
    `E_i = A_i + E_(i-1) B_i`: a group depends on all channels up to its own.
    """
    pairs = list(zip(kernels, sizes, strict=True))
    columns = _columns([kernel[:, :, :size] for kernel, size in pairs], sizes)
    for group, (kernel, size) in enumerate(pairs[1:], start=1):
        columns[group] = ops.add(columns[group], ops.matmul(columns[group - 1], kernel[:, :, size:]))
    return ops.concatenate(columns, axis=3)
