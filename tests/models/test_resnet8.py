"""ResNet-8 against MLPerf Tiny's definition in plain Keras, layer by layer."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.models import ResNet8

TINY = {"include_preprocessing": False, "width": (4, 6, 8), "input_shape": (8, 8, 3), "num_classes": 5}


def reference(side, num_classes):
    """The function `resnet_v1_eembc` of MLPerf Tiny's repository, without its weight penalties."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(inputs)))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.Conv2D(filters, 3, strides, padding="same")(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(side // 4)(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


def test_it_is_the_network_of_mlperf_tiny():
    theirs = reference(32, 10)
    ours = ksn.create_model("resnet_8", classifier_activation=None, include_preprocessing=False)
    assert ours.count_params() == theirs.count_params() == 78_666
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    random = np.random.default_rng(0)
    # Positive, as required for variances; kernels of both signs.
    values = [random.uniform(0.5 if weight.ndim == 1 else -0.3, 1, weight.shape) for weight in ours.get_weights()]
    for model in (ours, theirs):
        model.set_weights(values)
    images = pseudo_random((2, 32, 32, 3))
    assert_close(outputs_of(ours, images), outputs_of(theirs, images), 1e-5)


@pytest.mark.slow
def test_harness(tmp_path, other_backend):
    check_model(ResNet8, TINY, tmp_path, other_backend)


def test_factory(tmp_path):
    check_choice(ResNet8, TINY, tmp_path)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(3, 32, 3\)\) must be at least .* stride \(=4\)"):
        ResNet8(input_shape=(3, 32, 3))
    with pytest.raises(ValueError, match=r"`width` \(=16\) must be a sequence of positive integers"):
        ResNet8(width=16)
    with pytest.raises(ValueError, match=r"`width` \(=\(\)\) must be a tuple or list of at least one positive integer"):
        ResNet8(width=())
