"""Channel permutations as NumPy index vectors, applied by `x[..., index]` or `keras.ops.take(x, index, axis=-1)`."""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import numpy as np

from keras_sharenets import _checks


def channel_shuffle(channels: int, groups: int, block_size: int = 1) -> np.ndarray:
    """The channel shuffle of ShuffleNet: reads a table of `groups` rows column by column.

    Args:
        channels: int, length of the permutation.
        groups: int, number of rows of the table.
        block_size: int, number of neighboring channels that stay together as one entry of the table.
            `groups * block_size` must divide `channels`.

    Returns:
        An int vector of shape `(channels,)`: entry `c` is the channel that moves to position `c`.

    Raises:
        ValueError: `groups * block_size` does not divide `channels`.

    >>> channel_shuffle(6, groups=2).tolist()
    [0, 3, 1, 4, 2, 5]
    >>> channel_shuffle(8, groups=2, block_size=2).tolist()
    [0, 1, 4, 5, 2, 3, 6, 7]

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", section 4.2.
    """
    _checks.positive("channels", channels)
    _checks.positive("groups", groups)
    _checks.positive("block_size", block_size)
    row_name = "groups" if block_size == 1 else "groups * block_size"
    _checks.divides(row_name, groups * block_size, "the number of channels", channels)
    table = np.arange(channels).reshape(groups, -1, block_size)
    return table.swapaxes(0, 1).reshape(-1)


def strided_shuffle(channels: int, groups: int) -> np.ndarray:
    """Group `g` reads the channels with a stride of `groups`: `g`, `g + groups`, `g + 2 groups` ...

    If `groups` divides `channels`, this equals `channel_shuffle(channels, channels // groups)`.

    Args:
        channels: int, length of the permutation.
        groups: int, at most `channels`. The first `channels % groups` groups get one channel more.

    Returns:
        An int vector of shape `(channels,)` with the groups concatenated: entry `c` is the channel that moves to
        position `c`.

    Raises:
        ValueError: an argument is not a positive integer, or there are more groups than channels.

    >>> strided_shuffle(7, groups=3).tolist()
    [0, 3, 6, 1, 4, 2, 5]
    """
    _checks.positive("channels", channels)
    _checks.positive("groups", groups)
    if groups > channels:
        raise ValueError(f"`groups` (={groups}) must be at most the number of channels (={channels}).")
    return np.concatenate([np.arange(first, channels, groups) for first in range(groups)])


PLANE_ORDERS = ("distinct", "shuffled")


def arrangements(channels: int, count: int, shuffle_groups: int = 2, plane_orders: str = "distinct") -> np.ndarray:
    """The permutations `P_0 ... P_{count-1}` of ASF, where `P_0` is the identity.

    The paper shuffles the planes to "disrupt the original order as much as possible", but does not specify orders
    beyond the first shuffle. Two `"distinct"` orders are `P_0` and the shuffle. More than two, for C planes, are:

    * up to C: rotations, by multiples of a step near the golden section of C. Any two orders differ in every position.
      Each except `P_0` thus moves every plane, and every position of a filter reads `count` different planes;
    * up to C!: pairwise different orders. Each except `P_0` moves every plane as long as such orders exist, that is, as
      long as `count - 1` is at most the number of derangements of C planes;
    * above C!: all orders, repeated cyclically.

    With `"shuffled"`, `P_t` shuffles `t` times. The first and the last plane stay in place, and some `P_t` may equal
    `P_0`, as `P_2` does for four planes.

    Args:
        channels: int, length of each permutation (C).
        count: int, number of permutations (the paper's T).
        shuffle_groups: int, number of rows of the shuffle; must divide `channels` if there is a shuffle.
        plane_orders: `"distinct"` or `"shuffled"`.

    Returns:
        An int array of shape `(count, channels)`, one permutation per row.

    Raises:
        ValueError: an argument violates one of these rules.

    >>> arrangements(4, count=2).tolist()
    [[0, 1, 2, 3], [0, 2, 1, 3]]
    >>> arrangements(5, count=3).tolist()
    [[0, 1, 2, 3, 4], [3, 4, 0, 1, 2], [1, 2, 3, 4, 0]]

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", equation 2 and section 4.2.
    """
    _checks.positive("channels", channels)
    _checks.positive("count", count)
    _checks.one_of("plane_orders", plane_orders, PLANE_ORDERS)
    if count > 1 and not shuffles(count, plane_orders):
        orders = list(itertools.islice(_distinct_orders(channels), count))
        return np.array([orders[place % len(orders)] for place in range(count)])
    rows = [np.arange(channels)]
    if count > 1:
        shuffle = channel_shuffle(channels, shuffle_groups)
        for _ in range(count - 1):
            rows.append(rows[-1][shuffle])
    return np.stack(rows)


def shuffles(count: int, plane_orders: str = "distinct") -> bool:
    """Whether `count` `arrangements` involve a shuffle, whose rows must divide the channels."""
    return count == 2 or (count > 2 and plane_orders == "shuffled")


def count_distinct(channels: int, count: int, shuffle_groups: int = 2, plane_orders: str = "distinct") -> int:
    """Number of different `arrangements` with these arguments; fewer than `count` produce duplicate filters.

    >>> count_distinct(4, count=3, plane_orders="shuffled")
    2
    """
    return len(set(map(tuple, arrangements(channels, count, shuffle_groups, plane_orders))))


def _distinct_orders(channels: int) -> Iterator[tuple[int, ...]]:
    """All orders without duplicates: rotations, starting with the identity, then other derangements, then the rest."""
    # A step with a common divisor would map groups of channels to groups of channels.
    step = next(size for size in range(round(0.618 * channels), -1, -1) if math.gcd(size, channels) == 1)
    planes = tuple(range(channels))

    def rotated(turn: int) -> tuple[int, ...]:
        first = turn * step % channels
        return planes[first:] + planes[:first]

    yield from map(rotated, planes)
    known = set(map(rotated, planes))
    staying = (order for order in itertools.permutations(planes) if any(map(operator.eq, order, planes)))
    yield from (order for order in itertools.chain(_derangements(planes), staying) if order not in known)


def _derangements(planes: tuple[int, ...], place: int = 0) -> Iterator[tuple[int, ...]]:
    """All orders of the planes, at positions from `place` on, in which no plane is at its own index."""
    if not planes:
        yield ()
    for plane in planes:
        if plane != place:
            others = tuple(other for other in planes if other != plane)
            yield from ((plane, *rest) for rest in _derangements(others, place + 1))


def interleaving(channels: int, branch_channels: Sequence[int], filters: int) -> tuple[tuple[int, ...], ...]:
    """The strided shuffles after each group convolution of IGC-V2, so that the next one mixes different channels.

    With the channel index in mixed radix, `c = d_1 + K_1 (d_2 + K_2 (d_3 + ...))` for branches of `K_1, K_2 ...`
    channels, group convolution `l` mixes only the digit `d_l`. A strided shuffle of `K_l` groups makes this digit the
    slowest and the next one the fastest. If the product of all `K_l` is `channels`, exactly one path leads from each
    input to each output. In general, an output reads as many consecutive channels as the product, wrapping around at
    the end. The numbers of paths then differ by at most one, and all are above zero if the product is at least
    `channels`.

    After the last convolution, the channels return to their original order, so that a shortcut adds matching channels.
    If the last convolution widens, there is no such order, and its outputs are shuffled once more.

    Args:
        channels: int, number of channels of the input and between the convolutions.
        branch_channels: tuple or list of ints, number of input channels per branch for each group convolution; each
            must divide `channels`.
        filters: int, number of outputs of the last convolution; at least `channels`, and a multiple of the number of
            its branches.

    Returns:
        One tuple per group convolution: the `groups` of its [`strided_shuffle`]s, in order.

    Raises:
        ValueError: an argument violates one of these rules.

    >>> interleaving(12, (3, 4), filters=12)
    ((3,), (4,))
    >>> interleaving(16, (8, 8, 8), filters=16)
    ((8,), (8,), (2, 2))
    >>> interleaving(16, (8, 8), filters=32)
    ((8,), (16,))

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, equation 4 and
    condition 1.
    """
    _checks.positive("channels", channels)
    _checks.positive("filters", filters)
    sizes = _checks.sizes("branch_channels", branch_channels)
    for place, size in enumerate(sizes):
        _checks.divides(f"branch_channels[{place}]", size, "the number of input channels", channels)
    if filters < channels:
        raise ValueError(f"`filters` (={filters}) must be at least the number of input channels (={channels}).")
    *first, last = sizes
    _checks.divides("channels / branch_channels[-1]", channels // last, "`filters`", filters)
    if filters > channels:
        after = (filters * last // channels,)
    elif math.prod(sizes) == channels:
        after = (last,)
    else:
        after = tuple(channels // size for size in first)
    return (*((size,) for size in first), after)


def interleaved(channels: int, branch_channels: Sequence[int], filters: int) -> list[np.ndarray]:
    """The permutations after each group convolution of IGC-V2 (the paper's P_1, P_2 ...).

    Arguments and errors as in [`interleaving`].

    Returns:
        A list with one int vector per group convolution: entry `c` is the channel that moves to position `c`.

    >>> [order.tolist() for order in interleaved(6, (2, 3), filters=6)]
    [[0, 2, 4, 1, 3, 5], [0, 3, 1, 4, 2, 5]]
    """
    orders = []
    for place, after in enumerate(interleaving(channels, branch_channels, filters), start=1):
        order = np.arange(filters if place == len(branch_channels) else channels)
        for groups in after:
            order = order[strided_shuffle(len(order), groups)]
        orders.append(order)
    return orders
