import keras
import numpy as np
import pytest
from mobile_networks import small_network

import keras_sharenets as ksn
from keras_sharenets.heads import final_activation
from keras_sharenets.mobile.export.reference import keras_scores
from keras_sharenets.mobile.export.saved_model import inference_model
from keras_sharenets.mobile.graph.lowering import lower_model


def implementations(model):
    return [layer.implementation for layer in model.layers if isinstance(layer, ksn.layers.HighlySharedConv2D)]


@pytest.mark.parametrize("name", ["hscnet_m32_g4_r2_b1_a2"])
def test_inference_model_of_named_network(name):
    model = ksn.create_model(name, input_shape=(16, 16, 3))
    copy = inference_model(model)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(copy(images), model(images), atol=1e-5)
    assert set(implementations(copy)) == {"grouped"}
    assert set(implementations(model)) == {"auto"}
    assert [weight.shape for weight in copy.weights] == [weight.shape for weight in model.weights]


def test_copy_has_separate_weights(trained):
    copy, before = inference_model(trained), trained.get_layer("stem").get_weights()[0]
    copy.get_layer("stem").kernel.assign(np.zeros_like(before))
    np.testing.assert_array_equal(trained.get_layer("stem").get_weights()[0], before)


def test_nested_network_called_twice_remains_shared():
    shared = ksn.layers.HighlySharedConv2D(4, 3, groups=2)
    inner = keras.Sequential([keras.Input((8, 8, 4)), shared], name="inner")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, inner(inner(inputs)))
    copy = inference_model(model)
    assert implementations(copy.get_layer("inner")) == ["grouped"]
    assert len(copy.weights) == 1
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(copy(images), model(images), atol=1e-5)


def test_layer_inside_and_outside_a_nested_network_remains_shared():
    shared = ksn.layers.HighlySharedConv2D(4, 3, groups=2, kernel_initializer="random_normal")
    nested = keras.Sequential([keras.Input((8, 8, 4)), shared, keras.layers.ReLU()], name="nested")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, shared(nested(inputs)))
    copy = inference_model(model)
    assert len(copy.weights) == 1
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(copy(images), model(images), atol=1e-5)


@pytest.mark.parametrize("end", ["nested softmax", "softmax layer, then dropout", "keras.ops.softmax", "nested scores"])
def test_final_activation_is_found(end):
    activation = "softmax" if end == "nested softmax" else None
    head = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation)])
    inputs = keras.Input((8, 8, 1))
    x = head(inputs)
    if end == "softmax layer, then dropout":
        x = keras.layers.Dropout(0.5)(keras.layers.Softmax()(x))
    if end == "keras.ops.softmax":
        x = keras.ops.softmax(x)
    assert final_activation(keras.Model(inputs, x)) == (None if end == "nested scores" else "softmax")


def test_subclassed_model_is_rejected():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="must be a functional Keras model or a Sequential"):
        inference_model(Subclassed())


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "layer"])
def test_scores_before_the_probabilities(end):
    model = small_network(None if end == "layer" else end)
    if end == "layer":
        model = keras.Model(model.input, keras.layers.Softmax()(model.output))
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1)).astype("float32")
    scores = keras_scores(lower_model(model), (images,))[0].astype(np.float64)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    expected = 1 / (1 + np.exp(-scores)) if end == "sigmoid" else exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(model(images), expected, atol=1e-6)
    assert final_activation(model) == ("sigmoid" if end == "sigmoid" else "softmax")


def test_linear_output_has_no_final_activation(plain):
    assert final_activation(plain) == "softmax"
    model = small_network(None)
    assert final_activation(model) is None
    images = np.ones((2, 8, 8, 1), "float32")
    np.testing.assert_allclose(keras_scores(lower_model(model), (images,))[0], model(images), rtol=1e-5)
