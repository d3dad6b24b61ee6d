"""Untrained networks with normalizations that resemble trained ones."""

import keras
import numpy as np
import pytest

from keras_sharenets.analysis.randomization import random_images, randomize_batchnorm


@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False), (False, False)])
def test_outputs_are_normalized_whatever_a_normalization_has(scale, center):
    """InceptionV3 has no scales."""
    inputs = keras.Input((6, 6, 3))
    norm = keras.layers.BatchNormalization(scale=scale, center=center)
    model = keras.Model(inputs, norm(keras.layers.Conv2D(5, 3)(inputs)))
    randomize_batchnorm(model)
    assert norm.momentum == keras.layers.BatchNormalization().momentum
    outputs = keras.ops.convert_to_numpy(model(random_images(model), training=False)).reshape(-1, 5)
    scales = keras.ops.convert_to_numpy(norm.gamma) if scale else np.ones(5)
    offsets = keras.ops.convert_to_numpy(norm.beta) if center else np.zeros(5)
    np.testing.assert_allclose(outputs.mean(axis=0), offsets, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=0), scales, rtol=2e-2)
    assert scale == (np.ptp(scales) > 0.1)
    assert center == (np.ptp(offsets) > 0.1)
