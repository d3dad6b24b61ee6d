"""float32 copies of networks that compute in half precision."""

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets.analysis.copying import in_full_precision
from keras_sharenets.dtype_policies import in_policy

HALF = ("mixed_float16", "mixed_bfloat16", "bfloat16")


def build():
    """Two named inputs, a nested model and a Sequential, a layer also used in one of them, and operations."""
    inputs = {name: keras.Input((8, 8, 4), name=name) for name in ("left", "right")}
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    inside = keras.Input((None, None, 4))
    nested = keras.Model(inside, keras.layers.BatchNormalization(name="norm")(shared(inside)), name="nested")
    block = keras.Sequential([keras.layers.DepthwiseConv2D(3, name="depthwise"), keras.layers.ReLU(6.0)], name="block")
    x = shared(nested(inputs["left"])) + 0.5 * keras.ops.relu(nested(inputs["right"]))
    x = ksn.layers.HighlySharedConv2D(4, 3, groups=2, channel_repeats=2, name="repeated")(block(x))
    x = keras.layers.TimeDistributed(keras.layers.Dense(3, name="dense"), name="rows")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x), name="network")


def network(policy):
    return in_policy(policy, build)


@pytest.mark.parametrize("policy", HALF)
def test_a_copy_is_the_network_built_in_float32(policy):
    random = np.random.default_rng(0)
    model, expected = network(policy), network("float32")
    weights = [random.uniform(0.1, 1, weight.shape) for weight in model.weights]
    model.set_weights(weights)
    expected.set_weights(model.get_weights())  # As they are stored, which is half precision under one of the policies.
    images = {name: random.uniform(-1, 1, (2, 8, 8, 4)).astype("float32") for name in ("left", "right")}
    copy = in_full_precision(model)
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert copy.count_params() == model.count_params()
    np.testing.assert_allclose(copy(images), expected(images), rtol=1e-5)
    assert np.abs(keras.ops.convert_to_numpy(model(images)) - expected(images)).max() > 1e-4
    assert keras.config.dtype_policy().name == "float32"


def test_a_float32_network_is_not_copied():
    model = network("float32")
    assert in_full_precision(model) is model


class Normalized(keras.layers.Layer):
    """A layer with a normalization inside, whose statistics are weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = keras.layers.Normalization(name="normalization")

    def build(self, input_shape):
        self.normalization.build(input_shape)

    def call(self, inputs):
        return self.normalization(inputs)


def test_copies_have_adapted_statistics_and_the_same_functions():
    def sigmoid(x):  # The name of another function in Keras.
        return 2 * x

    def build():
        first = Normalized()
        layers = [first, keras.layers.Lambda(lambda x: x + 1), keras.layers.Activation(sigmoid)]
        return first.normalization, keras.Sequential([keras.Input((3,)), *layers])

    normalization, model = in_policy("mixed_bfloat16", build)
    data = np.random.default_rng(0).normal(5, 3, (64, 3)).astype("float32")
    normalization.adapt(data)
    expected = 2 * ((data - data.mean(axis=0)) / data.std(axis=0) + 1)
    np.testing.assert_allclose(in_full_precision(model)(data), expected, rtol=1e-4, atol=1e-4)
