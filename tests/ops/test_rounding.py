import keras
import numpy as np
import pytest
from harness import assert_close, outputs_and_gradients, pseudo_random
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.ops import rounding


class Rounded(keras.layers.Layer):
    """The product of the input with a kernel that is transformed by a function."""

    def __init__(self, kernel, function):
        super().__init__()
        self.given, self.function = kernel, function

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=self.given.shape, name="kernel")
        self.kernel.assign(self.given)

    def call(self, inputs):
        return inputs * keras.ops.reshape(self.function(keras.ops.convert_to_tensor(self.kernel)), (1, -1))


def gradient(kernel, function):
    """The gradient of `sum(function(kernel) * probe)`, and the probe."""
    inputs = keras.Input((kernel.size,))
    model = keras.Model(inputs, Rounded(kernel, function)(inputs))
    ones = np.ones((1, kernel.size), "float32")
    probe = pseudo_random(ones.shape, seed=1).reshape(kernel.shape)
    return outputs_and_gradients(model, ones)[1][0], probe


@given(seed=st.integers(0, 1000), axis=st.sampled_from([None, -1, 0, 2]))
def test_filters_are_whole_multiples_of_a_127th_of_the_largest(seed, axis):
    kernel = pseudo_random((3, 2, 4, 5), seed)
    rounded = keras.ops.convert_to_numpy(rounding.round_filters(keras.ops.convert_to_tensor(kernel), axis))
    filters = [(kernel, rounded)]
    if axis is not None:
        filters = [(kernel.take(i, axis), rounded.take(i, axis)) for i in range(kernel.shape[axis])]
    for before, after in filters:
        step = np.abs(before).max() / 127
        assert_close(after / step, np.round(after / step), 1e-5)
        assert np.abs(after - before).max() <= step * 0.501
        # The largest value is a level itself, so rounding is idempotent.
        assert_close(np.abs(after).max(), np.abs(before).max(), 1e-6)


def test_a_filter_of_zeros_stays_and_disturbs_no_other():
    kernel = np.stack([np.zeros(4), [1.27, 0.333, -0.5, 0]], -1).astype("float32")
    rounded = keras.ops.convert_to_numpy(rounding.round_filters(keras.ops.convert_to_tensor(kernel), -1))
    assert_close(rounded, np.stack([np.zeros(4), [1.27, 0.33, -0.5, 0]], -1), 1e-6)


@pytest.mark.parametrize("axis", [None, -1])
def test_gradients_of_filters_pass_unchanged(axis):
    actual, probe = gradient(pseudo_random((6, 5)), lambda kernel: rounding.round_filters(kernel, axis))
    assert_close(actual, probe, 1e-6)


def test_gradients_of_values_pass_inside_the_range_only():
    values = np.array([-1.2, -0.9, 0.0, 1.9, 2.2], "float32")
    actual, probe = gradient(values, lambda x: rounding.round_values(x, -1.0, 2.0))
    assert_close(actual, probe * [0, 1, 1, 1, 0], 1e-6)


@given(low=st.floats(-5, 0), high=st.floats(0.01, 5), seed=st.integers(0, 100))
def test_values_are_one_of_256_steps_and_zero_is_one(low, high, seed):
    values = np.append(4 * pseudo_random((200,), seed), 0.0).astype("float32")
    rounded = rounding.round_values(keras.ops.convert_to_tensor(values), np.float32(low), np.float32(high))
    rounded = keras.ops.convert_to_numpy(rounded)
    step = (np.float32(high) - np.float32(low)) / 255
    integers = rounded / step
    assert_close(integers, np.round(integers), 1e-4)
    assert rounded[-1] == 0
    assert rounded.min() >= low - step
    assert rounded.max() <= high + step
    assert np.round(integers.max() - integers.min()) <= 255
    inside = (values > low + step) & (values < high - step)
    assert np.all(np.abs(rounded - values)[inside] <= step * 0.501)


def test_zeros_get_no_gradient():
    kernel = np.array([0.0, 1.0, -2.0, 0.0], "float32")
    actual, probe = gradient(kernel, rounding.keep_zeros)
    assert_close(actual, probe * [0, 1, 1, 0], 1e-6)


def test_a_cluster_gets_the_mean_of_its_gradients():
    clusters = np.array([0, 1, 1, 7, 7, 7], "uint8")
    kernel = np.array([0.5, 1.0, 1.0, -2.0, -2.0, -2.0], "float32")
    actual, probe = gradient(kernel, lambda k: rounding.share_gradients(k, keras.ops.convert_to_tensor(clusters)))
    means = {cluster: probe[clusters == cluster].mean() for cluster in set(clusters.tolist())}
    assert_close(actual, np.array([means[cluster] for cluster in clusters.tolist()]), 1e-6)


def test_a_cluster_is_equal_exactly():
    kernel = np.array([1.0, 1.0000001, 3.0], "float32")
    shared = rounding.share_gradients(keras.ops.convert_to_tensor(kernel), np.array([4, 4, 255], "uint8"))
    first, second, third = keras.ops.convert_to_numpy(shared)
    assert first == second
    assert third == 3
