import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, pseudo_random

from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import BatchNormalization
from keras_sharenets.ops import fused

CASES = {
    "plain": ({}, (6, 5, 4)),
    "without scale": ({"scale": False}, (6, 5, 4)),
    "without shift": ({"center": False, "momentum": 0.5, "epsilon": 0.1}, (6, 5, 4)),
    "one pixel": ({}, (1, 1, 3)),
    "odd number of channels": ({}, (4, 8, 5)),
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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an operation of TensorFlow")
def test_pixels_side_by_side():
    """Outputs, moments and gradients equal the formula in float64; second gradients equal those of TensorFlow."""
    import tensorflow as tf

    def by_formula(inputs, gamma, beta):
        mean, variance = tf.nn.moments(inputs, (0, 1, 2))
        return (inputs - mean) / tf.sqrt(variance + 0.1) * gamma + beta, mean, variance

    def all_of(normalize, dtype):
        """The outputs, their gradients, and the gradients of a weighted sum of these."""
        shapes = ((3, 4, 8, 6), (6,), (6,))
        given = [tf.constant(pseudo_random(shape, seed=seed), dtype) for seed, shape in enumerate(shapes)]
        weights = [tf.constant(pseudo_random(shape, seed=9 + seed), dtype) for seed, shape in enumerate(shapes)]
        with tf.GradientTape() as outer:
            outer.watch([*given, weights[0]])
            with tf.GradientTape() as inner:
                inner.watch(given)
                results = normalize(*given)
            first = inner.gradient(results[0], given, output_gradients=weights[0])
            total = sum(tf.reduce_sum(weight * each**2) for weight, each in zip(weights, first, strict=True))
        second = outer.gradient(total, [*given[:2], weights[0]])
        return [np.asarray(each) for each in (*results, *first, *second)]

    def by_operation(inputs, gamma, beta):
        given = {"x": inputs, "scale": gamma, "offset": beta, "mean": [], "variance": []}
        return tf.raw_ops.FusedBatchNormV3(**given, epsilon=0.1, is_training=True)[:3]

    found = all_of(lambda *given: fused.normalize_side_by_side(*given, 0.1, 8), "float32")
    expected = all_of(by_formula, "float64")[:6] + all_of(by_operation, "float32")[6:]
    assert len(found) == 9
    for actual, right in zip(found, expected, strict=True):
        assert_close(actual, right, 1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an operation of TensorFlow")
@pytest.mark.parametrize(
    ("shape", "pixels"), [((8, 8, 35), 16), ((8, 8, 70), 8), ((8, 8, 20), 1), ((5, 5, 35), 1), ((None, 8, 35), 1)]
)
def test_where_pixels_are_side_by_side(shape, pixels, monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(fused, "has_grouped_gradients", lambda dtype, there=there: there)
        assert fused.pixels_side_by_side(keras.Input(shape)) == (pixels if there else 1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_in_training(policy):
    model = in_policy(policy, lambda: network(BatchNormalization, {}, (4, 4, 3)))
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
    # 2 of 4 numbers per channel are trained.
    check_layer(BatchNormalization, {"momentum": 0.5}, (4, 3, 3, 5), (4, 3, 3, 5), 4 * 5, tmp_path, other_backend)
