"""Layers and networks written as classes, put together from others: a file has what they call, by its rules."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from random_networks import images

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.graph.lowering import lower
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError
from keras_sharenets.mobile.inspect import file

PIXELS = images(0, 32)


class Attention(layers.Layer):
    """Channels and then places weighed, as in CBAM."""

    def build(self, shape):
        self.squeeze = layers.Dense(2, activation="relu")
        self.excite = layers.Dense(shape[-1])
        self.places = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
        self.squeeze.build((None, shape[-1]))
        self.excite.build((None, 2))
        self.places.build((*shape[:-1], 2))

    def call(self, inputs):
        means, largest = ops.mean(inputs, axis=(1, 2)), ops.max(inputs, axis=(1, 2))
        gate = ops.sigmoid(sum(self.excite(self.squeeze(pooled)) for pooled in (means, largest)))
        y = inputs * ops.expand_dims(ops.expand_dims(gate, 1), 1)
        two = [ops.mean(y, axis=-1, keepdims=True), ops.max(y, axis=-1, keepdims=True)]
        return y * self.places(ops.concatenate(two, axis=-1))


class Block(layers.Layer):
    """A residual block with a layer of its own inside, a weight, and a dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(4, 3, padding="same", use_bias=False, name="convolution")
        self.normalization = layers.BatchNormalization(beta_initializer="random_normal", name="normalization")
        self.attention, self.dropout = Attention(name="attention"), layers.Dropout(0.5)

    def build(self, shape):
        self.gain = self.add_weight(shape=(4,), initializer="random_uniform", name="gain")
        self.convolution.build(shape)
        self.normalization.build(shape)
        self.attention.build(shape)

    def call(self, inputs, training=None):
        y = ops.relu(self.normalization(self.convolution(inputs), training=training))
        return inputs + self.gain * self.dropout(self.attention(y), training=training)


class Network(keras.Model):
    """A network that is a class, over a functional one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, padding="same")(layers.Rescaling(1 / 255)(inputs))
        self.stem = keras.Model(inputs, x, name="stem")
        self.block = Block(name="block")
        self.classifier = layers.Dense(3, name="classifier")

    def call(self, inputs):
        return self.classifier(ops.mean(self.block(self.block(self.stem(inputs))), axis=(1, 2)))


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, Network(name="whole")(inputs))


def stem(function):
    """Something on images that a convolution gives."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, function(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))))


def operators(path):
    return [name for name, *_ in file.operators(file.parse(path.read_bytes()))]


@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_file_gives_what_keras_gives(tmp_path, quantization):
    model, path = network(), tmp_path / "net.tflite"
    report = export_tflite(model, path, quantization, representative_data=PIXELS)
    assert report.fallback_layers == ()
    right = np.asarray(model(PIXELS))
    bound = {None: 1e-5, "float16": 2e-3, "int8": 0.05}[quantization]
    assert np.linalg.norm(predict_tflite(path, PIXELS) - right) < bound * np.linalg.norm(right)


def test_integers_throughout(tmp_path):
    path = tmp_path / "net.tflite"
    export_tflite(network(), path, "int8", representative_data=PIXELS, input_type="int8", output_type="int8")
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators(path))


def test_what_two_calls_have_in_common_is_there_once(tmp_path):
    path = tmp_path / "net.tflite"
    report = export_tflite(network(), path, "int8", representative_data=PIXELS)
    assert file.repeated_bytes(file.parse(path.read_bytes())) == 0
    assert report.repetition < 1.3


def test_operations_have_the_names_of_what_they_are_in():
    names = [step.name for step in lower(network()).operations]
    assert {"whole/convolution", "whole/block/attention/squeeze"} & set(names) == set()
    assert {"whole/block/convolution", "whole/classifier"} <= set(names)
    sites = [step.site for step in lower(network()).operations if step.name == "whole/block/convolution"]
    assert len(set(sites)) == len(sites) == 2


def test_two_of_a_class_keep_their_kernels_apart(tmp_path):
    model, path = stem(lambda x: Block(name="second")(Block(name="first")(x))), tmp_path / "net.tflite"
    assert export_tflite(model, path).fallback_layers == ()
    np.testing.assert_allclose(predict_tflite(path, PIXELS), model(PIXELS), atol=1e-4)


def test_lambda_of_known_functions(tmp_path):
    model = stem(layers.Lambda(lambda x: ops.relu(x) * 2 - ops.mean(x, axis=-1, keepdims=True), name="own"))
    path = tmp_path / "net.tflite"
    assert export_tflite(model, path, "int8", representative_data=PIXELS).fallback_layers == ()
    assert "DEQUANTIZE" not in operators(path)


class Counting(layers.Layer):
    """Writes to a variable whenever it is called."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs * 2


class Normalizing(layers.Layer):
    """Normalizes with the batch that it is given, in inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = layers.BatchNormalization()

    def build(self, shape):
        self.normalization.build(shape)

    def call(self, inputs):
        return self.normalization(inputs, training=True)


def test_nothing_is_written_to_the_variables_of_a_layer(tmp_path):
    layer = Counting()
    model = stem(layer)
    lower(model)
    assert float(layer.calls) == 0


@pytest.mark.parametrize(
    "layer",
    [
        layers.Lambda(lambda x: ops.sin(ops.relu(x) + 1), name="own"),
        layers.Lambda(lambda x: tf.nn.relu(x) * 2, output_shape=(6, 6, 4), name="own"),
    ],
    ids=["part without a rule", "computes with TensorFlow"],
)
def test_what_rules_do_not_hold_for_is_converted_as_a_whole(layer):
    assert lower(stem(layer)).operations[-1].kind == "converted"


def test_what_trains_in_inference_is_not_taken_for_inference():
    with pytest.raises(UnsupportedLayerError, match="'own', a Normalizing, has no lowering rule"):
        lower(stem(Normalizing(name="own")))
