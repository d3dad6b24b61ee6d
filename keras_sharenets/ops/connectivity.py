"""Connectivity of an IGC-V2 block: which inputs reach which outputs, and on how many paths.

Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 3.2.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from keras_sharenets import _checks
from keras_sharenets.ops import interleaved, permutations


@dataclasses.dataclass(frozen=True)
class Connectivity:
    """The connections of the 1x1 part of an IGC-V2 block.

    Attributes:
        fewest_paths, most_paths: ints, minimum and maximum over all pairs of an input and an output.
        density: float, share of pairs that are connected by a path.
        complementary: tuple of bools, one for each position between two group convolutions: whether the parts before
            and after it are group convolutions in which any two branches have exactly one channel in common.
    """

    fewest_paths: int
    most_paths: int
    density: float
    complementary: tuple[bool, ...]

    @property
    def dense(self) -> bool:
        """Whether every input reaches every output."""
        return self.fewest_paths > 0

    @property
    def one_path(self) -> bool:
        """Whether exactly one path leads from every input to every output."""
        return self.fewest_paths == self.most_paths == 1


def _walks(channels: int, branch_channels: Sequence[int], filters: int | None) -> list[Callable]:
    """For each group convolution and its shuffle, a function from path counts `(inputs, starts)` to its outputs."""

    def walk(paths, shape, order):
        _, _, inputs, outputs = shape
        branches = channels // inputs
        arrivals = paths.reshape(branches, inputs, -1).sum(axis=1)
        return np.repeat(arrivals, outputs // branches, axis=0)[order]

    filters = channels if filters is None else filters
    orders = permutations.interleaved(channels, branch_channels, filters)
    shapes = interleaved.kernel_shapes(channels, branch_channels, filters)
    return [functools.partial(walk, shape=shape, order=order) for shape, order in zip(shapes, orders, strict=True)]


def _paths(channels, walks):
    return functools.reduce(lambda paths, walk: walk(paths), walks, np.eye(channels, dtype=int))


def path_counts(channels: int, branch_channels: Sequence[int], filters: int | None = None) -> np.ndarray:
    """The number of paths from every input to every output of an `InterleavedGroupConv2D`.

    Args:
        channels: int, number of input channels.
        branch_channels: tuple of ints, number of input channels per branch for each group convolution.
        filters: int, number of output channels; `channels` by default.

    Returns:
        An int matrix `(filters, channels)`.

    Raises:
        ValueError: the sizes are inconsistent.

    >>> path_counts(4, (2, 2)).tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    return _paths(channels, _walks(channels, branch_channels, filters))


def _branches(reach):
    """The branch of each row, where rows with equal reach form a branch; `None` if branches overlap."""
    branches, branch_of = np.unique(reach, axis=0, return_inverse=True)
    return None if branches.sum(axis=0).max() > 1 else branch_of.reshape(-1)


def _meet_once(before, after):
    """Whether each branch of `before` shares exactly one channel with each branch of `after`."""
    givers, readers = _branches(before > 0), _branches(after.T > 0)
    if givers is None or readers is None:
        return False
    shared = np.zeros((givers.max() + 1, readers.max() + 1), dtype=int)
    np.add.at(shared, (givers, readers), 1)
    return bool(np.all(shared == 1))


def connectivity(channels: int, branch_channels: Sequence[int], filters: int | None = None) -> Connectivity:
    """The connectivity of an `InterleavedGroupConv2D`: path counts and the complementary condition.

    Args:
        channels, branch_channels, filters: as in [`path_counts`].

    Returns:
        A `Connectivity`.

    Raises:
        ValueError: the sizes are inconsistent.

    >>> connectivity(64, (8, 8))
    Connectivity(fewest_paths=1, most_paths=1, density=1.0, complementary=(True,))
    >>> connectivity(64, (4, 8)).density
    0.5

    Reference: the paper's condition 1.
    """
    walks = _walks(channels, branch_channels, filters)
    paths = _paths(channels, walks)
    cuts = range(1, len(walks))
    complementary = tuple(_meet_once(_paths(channels, walks[:cut]), _paths(channels, walks[cut:])) for cut in cuts)
    return Connectivity(int(paths.min()), int(paths.max()), float(np.mean(paths > 0)), complementary)


def fewest_convolutions(channels: int, branch_channels: int = 8) -> int:
    """The smallest number of group convolutions with this branch size that connect every input with every output.

    Args:
        channels: int.
        branch_channels: int, at least 2.

    Returns:
        The smallest n with `branch_channels ** n >= channels`, at least 1.

    Raises:
        ValueError: an argument is not an integer or is too small.

    >>> [fewest_convolutions(channels) for channels in (8, 9, 64, 65)]
    [1, 2, 2, 3]

    Reference: the paper's table 1, IGC-V2*.
    """
    _checks.positive("channels", channels)
    _checks.positive("branch_channels - 1", branch_channels - 1)
    # In integers: in floating point, the logarithm of 125 to base 5 is slightly above 3.
    count = 1
    while branch_channels**count < channels:
        count += 1
    return count
