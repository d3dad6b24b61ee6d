import keras
import numpy as np
from harness import pseudo_random
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.ops import kernels


def test_arrange_puts_base_filters_first_inside_each_group():
    # Two groups of one filter, four input planes. Shuffling two rows by columns turns planes 0 1 2 3 into 0 2 1 3.
    kernel = np.array([[10.0, 11, 12, 13], [20, 21, 22, 23]]).T.reshape(1, 1, 4, 2)
    arranged = keras.ops.convert_to_numpy(kernels.arrange(kernel, arrangements=2, groups=2))
    expected = [[10, 11, 12, 13], [10, 12, 11, 13], [20, 21, 22, 23], [20, 22, 21, 23]]
    assert arranged[0, 0].T.tolist() == expected


def test_repeat_uses_the_bank_with_its_own_period():
    kernel = pseudo_random((3, 3, 2, 4))
    repeated = keras.ops.convert_to_numpy(kernels.repeat(kernel, 3))
    for filter_index in range(12):
        assert np.array_equal(repeated[..., filter_index], kernel[..., filter_index % 4])


@given(groups=st.integers(1, 4), inputs=st.integers(1, 3), filters=st.integers(1, 3))
def test_block_diagonal_holds_the_kernel_and_zeros(groups, inputs, filters):
    kernel = pseudo_random((1, 2, inputs, groups * filters))
    dense = keras.ops.convert_to_numpy(kernels.block_diagonal(kernel, groups))
    assert dense.shape == (1, 2, groups * inputs, groups * filters)
    for plane in range(groups * inputs):
        for filter_index in range(groups * filters):
            same_group = plane // inputs == filter_index // filters
            expected = kernel[:, :, plane % inputs, filter_index] if same_group else 0.0
            assert np.array_equal(dense[:, :, plane, filter_index], np.broadcast_to(expected, (1, 2)))
