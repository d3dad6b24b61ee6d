import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, pseudo_random, with_policy

from keras_sharenets.layers import BatchNormalization

CASES = {
    "plain": ({}, (6, 5, 4)),
    "without scale": ({"scale": False}, (6, 5, 4)),
    "without shift": ({"center": False, "momentum": 0.5, "epsilon": 0.1}, (6, 5, 4)),
    "one pixel": ({}, (1, 1, 3)),
    "channels first": ({"axis": 1}, (3, 6, 5)),
    "vectors": ({}, (7,)),
}


def network(layer_class, arguments, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer_class(**arguments)(inputs))
    for place, weight in enumerate(model.trainable_weights):
        weight.assign(pseudo_random(weight.shape, seed=place))
    return model


@pytest.mark.parametrize("case", CASES)
def test_equals_the_layer_of_keras(case):
    """In outputs, gradients and moving statistics, in training and after."""
    arguments, shape = CASES[case]
    images = 3 + 2 * pseudo_random((8, *shape), seed=4)
    ours, theirs = (network(layer, arguments, shape) for layer in (BatchNormalization, keras.layers.BatchNormalization))
    for training in (True, True, False):
        actual, expected = (outputs_and_gradients(model, images, training) for model in (ours, theirs))
        assert_close(actual[0], expected[0], 1e-5)
        for one, other in zip(actual[1], expected[1], strict=True):
            assert_close(one, other, 1e-5)
    for weight, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(weight, other, 1e-5)


def test_statistics_are_those_of_the_formula():
    model = network(BatchNormalization, {"momentum": 0.75}, (4, 3, 2))
    images = 1 + pseudo_random((5, 4, 3, 2))
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(images, images)
    mean, variance = model.layers[-1].moving_mean, model.layers[-1].moving_variance
    assert_close(mean.numpy(), 0.25 * images.mean((0, 1, 2)), 1e-5)
    assert_close(variance.numpy(), 0.75 + 0.25 * images.var((0, 1, 2)), 1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_in_training(policy):
    model = with_policy(policy, lambda: network(BatchNormalization, {}, (4, 4, 3)))
    theirs = network(BatchNormalization, {}, (4, 4, 3))
    images = pseudo_random((8, 4, 4, 3))
    outputs = [outputs_and_gradients(each, images, training=True) for each in (model, theirs)]
    assert keras.backend.standardize_dtype(model.output.dtype) == policy.removeprefix("mixed_")
    assert_close(outputs[0][0], outputs[1][0], 1e-2)
    for one, other in zip(outputs[0][1], outputs[1][1], strict=True):
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


def test_frozen_it_uses_its_statistics():
    model = network(BatchNormalization, {}, (4, 4, 3))
    model.layers[-1].trainable = False
    images = 5 + pseudo_random((8, 4, 4, 3))
    assert_close(model(images, training=True), model(images, training=False), 1e-6)
    np.testing.assert_array_equal(model.layers[-1].moving_mean.numpy(), 0)


def test_harness(tmp_path, other_backend):
    # 2 of 4 numbers a channel are trained.
    check_layer(BatchNormalization, {"momentum": 0.5}, (4, 3, 3, 5), (4, 3, 3, 5), 4 * 5, tmp_path, other_backend)
