"""Batches passed to `fit` are the same on both backends and with tf.data."""

import keras
import numpy as np
import pytest
from data_readers import first_batches

from keras_sharenets.training.data.augmentation import Augmentation
from keras_sharenets.training.data.batches import Batches, as_tf_data
from keras_sharenets.training.data.dataset import Arrays

RANDOM = np.random.default_rng(0)


def test_batches_are_equal_on_both_backends(partly_unreadable, tmp_path, other_backend):
    """On JAX, TensorFlow is not imported."""
    ours = first_batches(partly_unreadable)
    for here, there in zip(ours, other_backend.first_batches(partly_unreadable, tmp_path), strict=True):
        np.testing.assert_array_equal(here, there)
    first, second, *_ = ours
    assert first.shape == second.shape == (4, 8, 8, 3)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("augmentation", [None, Augmentation(1, True, (3.0, 4.0, 5.0))])
def test_tf_data_batches(augmentation):
    source = Arrays(RANDOM.integers(0, 256, (10, 5, 6, 3), np.uint8), np.arange(10) % 3)
    batches = Batches(source, 3, 4, augmentation, seed=7)
    dataset = as_tf_data(batches)
    count = 3 if augmentation is None else 2
    assert int(dataset.cardinality()) == len(batches) == count
    assert dataset.element_spec[0].shape.as_list() == [None if augmentation is None else 4, 5, 6, 3]
    for epoch in (0, 3):
        batches.epoch = epoch
        found = list(dataset.as_numpy_iterator())
        assert len(found) == count
        for index, (images, labels) in enumerate(found):
            expected = batches.batch(epoch, index)
            np.testing.assert_array_equal(images, expected[0])
            np.testing.assert_array_equal(labels, expected[1])


def test_fit_with_tf_data():
    """The weights equal those trained without tf.data bit for bit."""
    source = Arrays(RANDOM.integers(0, 256, (12, 5, 5, 3), np.uint8), np.arange(12) % 3)
    weights = []
    for change in (lambda batches: batches, as_tf_data):
        model = keras.Sequential(
            [keras.Input((5, 5, 3)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)]
        )
        model.set_weights([np.ones((75, 3)) / 100])
        model.compile(keras.optimizers.SGD(1e-7), "mean_squared_error", jit_compile=False)
        batches = Batches(source, 3, 4, Augmentation(1, True, (3.0, 4.0, 5.0)), seed=2)
        model.fit(change(batches), epochs=3, shuffle=False, callbacks=[batches.callback()], verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)
    assert not np.array_equal(weights[0], np.float32(np.ones((75, 3)) / 100))
