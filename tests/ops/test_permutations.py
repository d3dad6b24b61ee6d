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
    rows = permutations.arrangements(channels, count, shuffle_groups=groups)
    assert rows.shape == (count, channels)
    planes = np.arange(channels)
    for row in rows:
        assert np.array_equal(row, planes)
        planes = np.array([planes[(place % groups) * columns + place // groups] for place in range(channels)])


def test_one_arrangement_needs_no_shuffle():
    assert permutations.arrangements(5, count=1, shuffle_groups=2).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6, "groups": 4}, r"`groups` \(=4\) must divide the number of channels \(=6\)\."),
        ({"channels": 6, "groups": 0}, r"`groups` \(=0\) must be a whole number of at least 1\."),
        ({"channels": 6, "groups": 2, "block_size": 2}, r"`groups \* block_size` \(=4\) must divide .* \(=6\)\."),
        ({"channels": 6.0, "groups": 2}, r"`channels` \(=6\.0\) must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        permutations.channel_shuffle(**arguments)
