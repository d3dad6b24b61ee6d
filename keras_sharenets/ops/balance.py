"""The balance condition of IGC-V2: the branch sizes that minimize the number of weights of a block.

A block has L convolutions: a spatial one, with `kernel_area` (S) weights for each pair of channels that it connects,
and 1x1 convolutions. Together, they connect every input with every output on exactly one path.

Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 3.2.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

from keras_sharenets import _checks


@dataclasses.dataclass(frozen=True)
class Balance:
    """The sizes that minimize the number of weights of a block; generally not integers.

    Attributes:
        convolutions: number of convolutions, including the spatial one (L).
        spatial_branch: number of input channels per branch of the spatial convolution (K_1).
        branch_channels: number of input channels per branch of each 1x1 convolution (K_2 = ... = K_L).
        parameters: number of weights of the block (Q).
    """

    convolutions: float
    spatial_branch: float
    branch_channels: float
    parameters: float


@dataclasses.dataclass(frozen=True)
class Factors:
    """Integer sizes: the branches of each 1x1 convolution after a depthwise one, and the total number of weights."""

    branch_channels: tuple[int, ...]
    parameters: float


@dataclasses.dataclass(frozen=True)
class Block:
    """A depthwise convolution and 1x1 convolutions with branches of equal size.

    Attributes:
        channels: number of input and output channels (C).
        convolutions: number of convolutions, including the depthwise one (L).
        branch_channels: number of input channels per branch of each 1x1 convolution (K).
        kernel_area: height times width of the spatial kernel (S).
    """

    channels: int
    convolutions: int
    branch_channels: int
    kernel_area: int = 9

    @property
    def parameters(self) -> int:
        """Number of weights of the block, `C (S + (L - 1) K)`."""
        return self.channels * (self.kernel_area + (self.convolutions - 1) * self.branch_channels)

    @property
    def paths(self) -> float:
        """Average number of paths from an input to an output, `K^(L - 1) / C`; 1 if the block is complementary."""
        return self.branch_channels ** (self.convolutions - 1) / self.channels

    @property
    def density(self) -> float:
        """Share of the inputs that an output depends on, with the shuffles of `InterleavedGroupConv2D`."""
        return min(1.0, self.paths)

    @property
    def non_sparsity(self) -> float:
        """Ratio of the number of weights to that of the dense kernel `(C, S C)` (the paper's figure 3)."""
        return self.parameters / (self.kernel_area * self.channels**2)


def _check(channels: int, kernel_area: int) -> None:
    _checks.positive("channels", channels)
    _checks.positive("kernel_area", kernel_area)
    if channels == 1:
        raise ValueError("`channels` (=1) must be at least 2: a single channel has no branches.")


def parameters(
    channels: int, branch_channels: Sequence[float], spatial_branch: float = 1, *, kernel_area: int = 9
) -> float:
    """Number of weights of a block that does not widen (the paper's equation 7).

    Args:
        channels: int.
        branch_channels: sequence of numbers, input channels per branch of each 1x1 convolution.
        spatial_branch: number of input channels per branch of the spatial convolution; 1 for a depthwise convolution.
        kernel_area: int, height times width of the spatial kernel.

    >>> parameters(98, (7, 7), spatial_branch=2)
    3136
    """
    return channels * (kernel_area * spatial_branch + sum(branch_channels))


def balance(channels: int, convolutions: int | None = None, *, kernel_area: int = 9) -> Balance:
    """The balance condition over all convolutions of a block (the paper's equations 10, 11 and 14).

    Args:
        channels: int (C).
        convolutions: int, number of convolutions of the block, or `None` for the optimal number, `ln(S C)`.
        kernel_area: int, height times width of the spatial kernel (S).

    Returns:
        A `Balance` with `S K_1 = K_2 = ... = K_L = (S C)^(1 / L)`.

    Raises:
        ValueError: an argument is not a positive integer.

    >>> [round(size, 2) for size in dataclasses.astuple(balance(98, convolutions=3))]
    [3, 1.07, 9.59, 2819.49]
    """
    _check(channels, kernel_area)
    total = kernel_area * channels
    if convolutions is not None:
        _checks.positive("convolutions", convolutions)
    count = math.log(total) if convolutions is None else convolutions
    size = total ** (1 / count)
    return Balance(count, size / kernel_area, size, channels * count * size)


def separated_balance(channels: int, convolutions: int | None = None, *, kernel_area: int = 9) -> Balance:
    """The balance condition over only the 1x1 convolutions after a depthwise one, as recommended in the paper.

    Args:
        channels, kernel_area: as in [`balance`].
        convolutions: int, at least 2, or `None` for the optimal number, `1 + ln(C)`.

    Returns:
        A `Balance` with `K_1 = 1` and `K_2 = ... = K_L = C^(1 / (L - 1))`.

    Raises:
        ValueError: an argument is not an integer or is too small.

    >>> separated_balance(144, convolutions=3)
    Balance(convolutions=3, spatial_branch=1, branch_channels=12.0, parameters=4752.0)
    """
    _check(channels, kernel_area)
    if convolutions is not None:
        _checks.positive("convolutions - 1", convolutions - 1)
    count = 1 + math.log(channels) if convolutions is None else convolutions
    size = channels ** (1 / (count - 1))
    return Balance(count, 1, size, kernel_area * channels + (count - 1) * channels * size)


def widest(max_parameters: int, convolutions: int, branch_channels: int, *, kernel_area: int = 9) -> Block:
    """The widest block for a number of weights, a number of convolutions and a branch size.

    Args:
        max_parameters: int, maximum number of weights.
        convolutions: int, at least 2, number of convolutions including the depthwise one (L).
        branch_channels: int, number of input channels per branch of each 1x1 convolution (K).
        kernel_area: int, height times width of the spatial kernel (S).

    Returns:
        A `Block` with the largest multiple C of K that satisfies `C (S + (L - 1) K) <= max_parameters`.

    Raises:
        ValueError: an argument is not an integer or is too small. `max_parameters` must allow at least one branch.

    >>> widest(4752, convolutions=3, branch_channels=12)
    Block(channels=144, convolutions=3, branch_channels=12, kernel_area=9)

    Reference: the paper's figure 2.
    """
    _checks.positive("max_parameters", max_parameters)
    _checks.positive("convolutions - 1", convolutions - 1)
    _checks.positive("branch_channels", branch_channels)
    _checks.positive("kernel_area", kernel_area)
    branch = Block(branch_channels, convolutions, branch_channels, kernel_area)
    branches = max_parameters // branch.parameters
    if branches == 0:
        raise ValueError(
            f"`max_parameters` (={max_parameters}) must be at least {branch.parameters}, for one branch of "
            f"`branch_channels` (={branch_channels}) in `convolutions` (={convolutions})."
        )
    return dataclasses.replace(branch, channels=branches * branch_channels)


def widest_dense(max_parameters: int, convolutions: int, *, kernel_area: int = 9) -> Block:
    """The widest block in which every output depends on every input, over all branch sizes.

    Args:
        max_parameters, convolutions, kernel_area: as in [`widest`].

    Returns:
        A `Block`, as close to the balance and the complementary condition as integers and the limit allow.

    Raises:
        ValueError: an argument is not an integer or is too small. `max_parameters` must allow a branch of two channels.

    >>> [widest_dense(4752, convolutions).channels for convolutions in range(2, 9)]
    [64, 144, 174, 188, 198, 174, 156]

    Reference: the paper's figure 3.
    """
    blocks, size = [], 2
    while not blocks or Block(size, convolutions, size, kernel_area).parameters <= max_parameters:
        block = widest(max_parameters, convolutions, size, kernel_area=kernel_area)
        # At most the number of channels that a chain of branches connects.
        blocks.append(dataclasses.replace(block, channels=min(block.channels, size ** (convolutions - 1))))
        size += 1
    return max(blocks, key=lambda block: block.channels)


@functools.cache
def _least_sum(channels: int, count: int | None) -> tuple[int, ...] | None:
    """The factors above 1 with the smallest sum: `count` factors, or any number of them if it is `None`."""
    found: list[tuple[int, ...]] = [(channels,)] if count in (None, 1) else []
    fewer = count and count - 1
    # The smallest of several factors is at most the square root.
    for size in range(2, math.isqrt(channels) + 1) if count != 1 else ():
        rest = _least_sum(channels // size, fewer) if channels % size == 0 else None
        if rest:
            found.append((size, *rest))
    return min(found, key=sum, default=None)


def best_integer(channels: int, group_convolutions: int | None = None, *, kernel_area: int = 9) -> Factors:
    """The factorization of `channels` into integers that minimizes the number of weights.

    Args:
        channels: int, at least 2.
        group_convolutions: int, number of factors, or `None` for any number.
        kernel_area: int, height times width of the kernel of the depthwise convolution.

    Returns:
        `Factors` in increasing order. Without a given number, they are the prime factors, except that a 4 may replace
        two twos, with the same number of weights.

    Raises:
        ValueError: an argument is not an integer or is too small, or `channels` has fewer prime factors.

    >>> best_integer(144, group_convolutions=2)
    Factors(branch_channels=(12, 12), parameters=4752)
    """
    _check(channels, kernel_area)
    if group_convolutions is not None:
        _checks.positive("group_convolutions", group_convolutions)
    sizes = _least_sum(channels, group_convolutions)
    if sizes is None:
        raise ValueError(
            f"`group_convolutions` (={group_convolutions}) must be at most the number of prime factors of `channels` "
            f"(={channels})."
        )
    return Factors(sizes, parameters(channels, sizes, kernel_area=kernel_area))
