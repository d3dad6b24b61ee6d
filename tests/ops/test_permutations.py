import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.ops import permutations

sizes = st.integers(1, 6)


@given(groups=sizes, columns=sizes, block_size=sizes)
def test_channel_shuffle_is_a_permutation_with_the_table_read_by_columns(groups, columns, block_size):
    order = permutations.channel_shuffle(groups * columns * block_size, groups, block_size)
    place = 0
    for column in range(columns):
        for row in range(groups):
            for offset in range(block_size):
                assert order[place] == (row * columns + column) * block_size + offset
                place += 1
    assert place == len(order)


@given(groups=sizes, columns=sizes)
def test_shuffling_by_rows_then_by_columns_changes_nothing(groups, columns):
    there = permutations.channel_shuffle(groups * columns, groups)
    back = permutations.channel_shuffle(groups * columns, columns)
    assert np.array_equal(there[back], np.arange(groups * columns))


@given(groups=sizes, columns=sizes, count=sizes)
def test_arrangement_t_shuffles_t_times(groups, columns, count):
    channels = groups * columns
    rows = permutations.arrangements(channels, count, shuffle_groups=groups, plane_orders="shuffled")
    assert rows.shape == (count, channels)
    planes = np.arange(channels)
    for row in rows:
        assert np.array_equal(row, planes)
        planes = np.array([planes[(place % groups) * columns + place // groups] for place in range(channels)])


@given(groups=sizes, columns=sizes)
def test_two_distinct_arrangements_are_the_shuffle(groups, columns):
    """As before `plane_orders` existed: nearly all networks have two."""
    two = [permutations.arrangements(groups * columns, 2, groups, orders) for orders in permutations.PLANE_ORDERS]
    assert np.array_equal(*two)
    assert two[0][1].tolist() == [place % groups * columns + place // groups for place in range(groups * columns)]


def derangements(planes):
    """The number of orders that move every plane: 0, 1, 2, 9, 44 ... for 1, 2, 3 ... planes."""
    before, count = 1, 0
    for number in range(2, planes + 1):
        before, count = count, (number - 1) * (before + count)
    return count


@given(planes=st.integers(1, 40), count=st.integers(3, 30))
def test_distinct_arrangements_differ_and_move_every_plane_where_there_are_so_many(planes, count):
    rows = permutations.arrangements(planes, count, plane_orders="distinct")
    assert rows.shape == (count, planes)
    assert (np.sort(rows, axis=1) == np.arange(planes)).all()
    assert (rows[0] == np.arange(planes)).all()
    assert len(np.unique(rows, axis=0)) == min(count, math.factorial(planes))
    moves_all = (rows[1:] != np.arange(planes)).all(axis=1)
    assert moves_all[: derangements(planes)].all()
    if count <= planes:
        assert all(len(set(column)) == count for column in rows.T.tolist())


def test_four_arrangements_of_four_planes_are_no_copies():
    """T = 4 on M128-G16: two shuffles of four planes are the identity."""
    assert len(np.unique(permutations.arrangements(4, 4, plane_orders="shuffled"), axis=0)) == 2
    assert sorted(permutations.arrangements(4, 4).T.tolist()[0]) == [0, 1, 2, 3]


def test_one_arrangement_needs_no_shuffle():
    assert permutations.arrangements(5, count=1, shuffle_groups=2).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6, "groups": 4}, r"`groups` \(=4\) must divide the number of channels \(=6\)\."),
        ({"channels": 6, "groups": 0}, r"`groups` \(=0\) must be a positive integer\."),
        ({"channels": 6, "groups": 2, "block_size": 2}, r"`groups \* block_size` \(=4\) must divide .* \(=6\)\."),
        ({"channels": 6.0, "groups": 2}, r"`channels` \(=6\.0\) must be a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        permutations.channel_shuffle(**arguments)


def test_bad_plane_orders():
    with pytest.raises(ValueError, match=r"`plane_orders` \(='random'\) must be one of 'distinct', 'shuffled'\."):
        permutations.arrangements(4, 3, plane_orders="random")


def test_channels_are_shuffled_as_in_the_papers_figure():
    first, second = permutations.interleaved(12, (3, 4), filters=12)
    assert first.tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert second.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def strided(sequence, size):
    """Position `q * size + r` moves to position `r * (channels / size) + q`."""
    moved = [None] * len(sequence)
    for place, entry in enumerate(sequence):
        q, r = divmod(place, size)
        moved[r * (len(sequence) // size) + q] = entry
    return moved


@given(factors=st.lists(st.integers(2, 4), min_size=1, max_size=4))
def test_with_one_path_every_shuffle_has_its_branch_size_and_all_together_are_the_identity(factors):
    channels = int(np.prod(factors))
    orders = permutations.interleaved(channels, factors, filters=channels)
    together = np.arange(channels)
    for size, order in zip(factors, orders, strict=True):
        assert order.tolist() == strided(range(channels), size)
        together = together[order]
    assert together.tolist() == list(range(channels))


@pytest.mark.parametrize("sizes", [(8, 8, 8), (4, 12), (6, 2), (24, 3, 8, 2), (3,)])
def test_the_last_shuffle_restores_the_order(sizes):
    orders = permutations.interleaved(24, sizes, filters=24)
    together = np.arange(24)
    for size, order in zip(sizes[:-1], orders[:-1], strict=True):
        assert order.tolist() == strided(range(24), size)
        together = together[order]
    assert together[orders[-1]].tolist() == list(range(24))


def test_where_the_last_convolution_widens_its_outputs_are_shuffled_by_their_branch_size():
    *first, last = permutations.interleaved(64, (8, 8, 8), filters=216)
    assert [order.tolist() for order in first] == [strided(range(64), 8)] * 2
    assert last.tolist() == strided(range(216), 27)


@pytest.mark.parametrize(
    ("sizes", "filters", "message"),
    [
        ((), 12, r"`branch_channels` \(=\(\)\) must be a tuple or list of at least one positive integer\."),
        (4, 12, r"`branch_channels` \(=4\) must be a tuple or list of at least one positive integer\."),
        ((4, 0), 12, r"`branch_channels` \(=0\) must be a positive integer\."),
        ((4, 5), 12, r"`branch_channels\[1\]` \(=5\) must divide the number of input channels \(=12\)\."),
        ((3, 4), 10, r"`filters` \(=10\) must be at least the number of input channels \(=12\)\."),
        ((4, 3), 18, r"`channels / branch_channels\[-1\]` \(=4\) must divide `filters` \(=18\)\."),
    ],
)
def test_branches_that_do_not_fit(sizes, filters, message):
    with pytest.raises(ValueError, match=message):
        permutations.interleaved(12, sizes, filters)
