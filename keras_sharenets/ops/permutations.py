"""Channel permutations as numpy index vectors: `x[..., index]` or `keras.ops.take(x, index, axis=-1)` applies one."""

import numpy as np

from keras_sharenets import _checks


def channel_shuffle(channels, groups, block_size=1):
    """The shuffle of ShuffleNet: read a table of `groups` rows column by column.

    Args:
        channels: int, length of the permutation.
        groups: int, rows of the table.
        block_size: int, neighbouring channels that stay together: an entry of the table is a block of them.
            `groups * block_size` must divide `channels`.

    Returns:
        An int vector of shape `(channels,)`: entry `c` is the channel that moves to place `c`.

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


def deal(channels, groups):
    """Deals the channels to `groups` groups like cards: group `g` gets channels `g`, `g + groups`, `g + 2 groups` ...

    Where `groups` divides `channels` this is `channel_shuffle(channels, channels // groups)`.

    Args:
        channels: int, length of the permutation.
        groups: int, at most `channels`. The first `channels % groups` groups get one channel more.

    Returns:
        An int vector of shape `(channels,)`, the groups one after the other: entry `c` is the channel that moves to
        place `c`.

    Raises:
        ValueError: an argument is not a positive whole number, or there are more groups than channels.

    >>> deal(7, groups=3).tolist()
    [0, 3, 6, 1, 4, 2, 5]
    """
    _checks.positive("channels", channels)
    _checks.positive("groups", groups)
    if groups > channels:
        raise ValueError(f"`groups` (={groups}) must be at most the number of channels (={channels}).")
    return np.concatenate([np.arange(first, channels, groups) for first in range(groups)])


def arrangements(channels, count, shuffle_groups=2):
    """The permutations `P_0 ... P_{count-1}` of ASF: `P_0` changes nothing, `P_t` shuffles `t` times.

    Args:
        channels: int, length of every permutation.
        count: int, how many (the paper's T).
        shuffle_groups: int, rows of the shuffle; must divide `channels` when `count > 1`.

    Returns:
        An int array of shape `(count, channels)`, one permutation a row.

    Raises:
        ValueError: `shuffle_groups` does not divide `channels`.

    >>> arrangements(4, count=2).tolist()
    [[0, 1, 2, 3], [0, 2, 1, 3]]

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", equation 2 and section 4.2.
    """
    _checks.positive("count", count)
    rows = [np.arange(channels)]
    if count > 1:
        shuffle = channel_shuffle(channels, shuffle_groups)
        for _ in range(count - 1):
            rows.append(rows[-1][shuffle])
    return np.stack(rows)
