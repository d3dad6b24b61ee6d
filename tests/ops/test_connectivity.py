import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.ops import connectivity


def walked(channels, sizes):
    """The number of paths from each input to each output before the last shuffle, by enumerating paths step by step."""
    counts = np.zeros((channels, channels), int)

    def go(place, convolutions, start):
        if not convolutions:
            counts[place, start] += 1
            return
        size, *rest = convolutions
        for output in range(place // size * size, place // size * size + size):
            q, r = divmod(output, size)
            go(r * (channels // size) + q if rest else output, rest, start)

    for start in range(channels):
        go(start, list(sizes), start)
    return counts


@st.composite
def cases(draw):
    channels = math.prod(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    return channels, tuple(draw(st.lists(st.sampled_from(divisors), min_size=1, max_size=2)))


@given(case=cases())
def test_path_counts_equal_an_enumeration(case):
    channels, sizes = case
    counts, expected = connectivity.path_counts(channels, sizes), walked(channels, sizes)
    # The last shuffle permutes the outputs.
    assert sorted(counts.tolist()) == sorted(expected.tolist())
    found = connectivity.connectivity(channels, sizes)
    assert (found.fewest_paths, found.most_paths) == (expected.min(), expected.max())
    assert found.density == np.count_nonzero(expected) / expected.size
    assert found.dense == bool(expected.all())


@given(case=cases(), widening=st.integers(0, 3))
def test_numbers_of_paths_differ_by_at_most_one(case, widening):
    channels, sizes = case
    filters = channels + widening * (channels // sizes[-1])
    counts = connectivity.path_counts(channels, sizes, filters)
    assert counts.shape == (filters, channels)
    assert np.all(counts.sum(axis=1) == math.prod(sizes))
    whole, rest = divmod(math.prod(sizes), channels)
    assert set(counts.reshape(-1).tolist()) <= {whole, whole + bool(rest)}
    # An output reads consecutive channels, wrapping around at the end.
    starts = counts > np.roll(counts, 1, axis=1)
    assert np.all(starts.sum(axis=1) == bool(rest))


# Channels, branches of each group convolution, and the minimum and maximum numbers of paths.
PATHS = [
    (64, (8, 8), 1, 1),
    (128, (16, 16), 2, 2),
    (256, (32, 32), 4, 4),
    (80, (10, 10), 1, 2),
    (160, (16, 16), 1, 2),
    (320, (20, 20), 1, 2),
    (216, (8, 8, 8), 2, 3),
    (432, (8, 8, 8), 1, 2),
    (864, (8, 8, 8, 8), 4, 5),
    (304, (8, 8, 8), 1, 2),
    (608, (8, 8, 8, 8), 6, 7),
    (1216, (8, 8, 8, 8), 3, 4),
    (416, (8, 8, 8), 1, 2),
    (832, (8, 8, 8, 8), 4, 5),
    (1664, (8, 8, 8, 8), 2, 3),
    (100, (10, 10), 1, 1),
    (169, (13, 13), 1, 1),
    (144, (12, 12), 1, 1),
    (256, (16, 16), 1, 1),
    (361, (19, 19), 1, 1),
    (98, (2, 7, 7), 1, 1),
    (162, (2, 9, 9), 1, 1),
    (242, (2, 11, 11), 1, 1),
]


@pytest.mark.parametrize(("channels", "sizes", "fewest", "most"), PATHS)
def test_paths_of_the_papers_networks(channels, sizes, fewest, most):
    counts = connectivity.path_counts(channels, sizes)
    assert (counts.min(), counts.max()) == (fewest, most)


@pytest.mark.parametrize(
    ("channels", "filters", "sizes"),
    [(64, 128, (16, 16)), (128, 256, (32, 32)), (160, 320, (20, 20)), (64, 216, (8, 8, 8)), (216, 432, (8, 8, 8))],
)
def test_transitions_are_dense(channels, filters, sizes):
    assert connectivity.connectivity(channels, sizes, filters).dense


# Channels, branches, filters, and the condition at each position.
CUTS = [
    (64, (8, 8), None, (True,)),
    (64, (8, 8), 128, (True,)),
    (24, (2, 3, 4), None, (True, True)),
    (16, (2, 2, 2, 2), None, (True, True, True)),
    (64, (4, 8), None, (False,)),  # too few paths
    (16, (8, 8), None, (False,)),  # too many: branches share 4 channels
    (80, (10, 10), None, (False,)),
    (6, (2, 2, 3), None, (False, False)),  # all branches meet, but those before a position overlap
    (64, (64,), None, ()),
]


@pytest.mark.parametrize(("channels", "sizes", "filters", "expected"), CUTS)
def test_complementary_condition(channels, sizes, filters, expected):
    found = connectivity.connectivity(channels, sizes, filters)
    assert found.complementary == expected
    assert found.one_path == all(expected)


def test_sparse_where_the_branches_are_too_small():
    found = connectivity.connectivity(64, (4, 8))
    assert dataclasses.astuple(found) == (0, 1, 0.5, (False,))
    assert not found.dense


@pytest.mark.parametrize(
    ("channels", "size", "expected"),
    [(1, 8, 1), (8, 8, 1), (9, 8, 2), (64, 8, 2), (65, 8, 3), (512, 8, 3), (513, 8, 4), (125, 5, 3), (126, 5, 4)],
)
def test_fewest_convolutions(channels, size, expected):
    assert connectivity.fewest_convolutions(channels, size) == expected


def test_branches_of_one_channel_connect_nothing():
    with pytest.raises(ValueError, match=r"`branch_channels - 1` \(=0\) must be a positive integer\."):
        connectivity.fewest_convolutions(64, 1)
    with pytest.raises(ValueError, match=r"`branch_channels\[0\]` \(=5\) must divide"):
        connectivity.connectivity(64, (5, 8))
