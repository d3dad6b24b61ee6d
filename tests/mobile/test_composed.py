"""Subclassed layers and networks composed of other layers are lowered by the rules of their parts."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import slow_after
from keras import layers, ops
from mobile_networks import convert, lower
from random_networks import images

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.graph.lowering import _symbols_beside_variables
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError
from keras_sharenets.mobile.inspect import file

PIXELS = images(0, 32)


class Attention(layers.Layer):
    """Channel attention followed by spatial attention, as in CBAM."""

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
    """A residual block with a nested custom layer, a weight, and dropout."""

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
    """A subclassed network that contains a functional one."""

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
    """A network that applies a function to the output of a convolution."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, function(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))))


def operators(path):
    return [name for name, *_ in file.operators(file.parse(path.read_bytes()))]


@pytest.fixture(scope="module", params=slow_after(1, ["int8", "float16", None]))
def exported(request, tmp_path_factory):
    """The precision, the network, its file with input and output in that precision, and the report."""
    model, path = network(), tmp_path_factory.mktemp("composed") / "net.tflite"
    ends = {"input_type": "int8", "output_type": "int8"} if request.param == "int8" else {}
    return request.param, model, path, export_tflite(model, path, request.param, representative_data=PIXELS, **ends)


def test_file_matches_keras(exported):
    quantization, model, path, report = exported
    assert report.fallback_layers == ()
    right = np.asarray(model(PIXELS))
    bound = {None: 1e-5, "float16": 2e-3, "int8": 0.05}[quantization]
    assert np.linalg.norm(predict_tflite(path, PIXELS) - right) < bound * np.linalg.norm(right)


@pytest.mark.parametrize("exported", ["int8"], indirect=True)
def test_int8_file_has_no_float_operators(exported):
    _, _, path, _ = exported
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators(path))


def test_two_calls_share_their_constants(exported):
    _, _, path, report = exported
    assert file.repeated_bytes(file.parse(path.read_bytes())) == 0
    assert report.repetition < 1.3


def test_operations_are_named_by_their_path():
    operations = lower(network()).operations
    names = [step.name for step in operations]
    assert {"whole/convolution", "whole/block/attention/squeeze"} & set(names) == set()
    assert {"whole/block/convolution", "whole/classifier"} <= set(names)
    sites = [step.site for step in operations if step.name == "whole/block/convolution"]
    assert len(set(sites)) == len(sites) == 2


def test_two_layers_of_one_class_have_separate_kernels(tmp_path):
    model, path = stem(lambda x: Block(name="second")(Block(name="first")(x))), tmp_path / "net.tflite"
    assert export_tflite(model, path).fallback_layers == ()
    np.testing.assert_allclose(predict_tflite(path, PIXELS), model(PIXELS), atol=1e-4)


def test_lambda_of_supported_functions(tmp_path):
    model = stem(layers.Lambda(lambda x: ops.relu(x) * 2 - ops.mean(x, axis=-1, keepdims=True), name="own"))
    path = tmp_path / "net.tflite"
    assert export_tflite(model, path, "int8", representative_data=PIXELS).fallback_layers == ()
    assert "DEQUANTIZE" not in operators(path)


# Whether two of 36 steps are near each other.
NEAR = np.abs(np.subtract.outer(np.arange(36), np.arange(36))) < 4


def _scores(x):
    return ops.matmul(x, ops.swapaxes(x, 1, 2))


# Functions of a sequence `(36, 4)`, by name.
ATTENTION = {
    "multi head": lambda x: layers.MultiHeadAttention(2, 4, bias_initializer="random_normal")(x, x),
    "with dropout": lambda x: layers.MultiHeadAttention(2, 3, 5, dropout=0.1)(x[:, :9], ops.tanh(x)),
    "grouped queries": lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x),
    "additive": lambda x: layers.AdditiveAttention()([x, ops.relu(x)]),
    "causal": lambda x: layers.MultiHeadAttention(2, 4)(x, x[:, :30], use_causal_mask=True),
    "causal with dropout": lambda x: layers.GroupQueryAttention(4, 4, 2, dropout=0.1)(x, x, use_causal_mask=True),
    "causal alone": lambda x: layers.Attention()([x, ops.relu(x)], use_causal_mask=True),
    "causal additive": lambda x: layers.AdditiveAttention()([x, ops.relu(x)], use_causal_mask=True),
    "constant mask": lambda x: layers.MultiHeadAttention(2, 4)(x, x, attention_mask=NEAR[None]),
    "masked by choice": lambda x: ops.matmul(ops.softmax(ops.where(NEAR, _scores(x), -1e9)), x),
    "masked by sum": lambda x: ops.matmul(ops.softmax(_scores(x) - 1e5 * ~NEAR[None]), x),
    "masked steps": lambda x: ops.matmul(ops.softmax(_scores(x) + np.repeat([0, -1e9], 18).astype("float32")), x),
    "constant in a layer": lambda x: layers.Add()([x, np.linspace(-1, 1, 4, dtype="float32")[None, None]]),
    "constant by name": lambda x: layers.Multiply()(inputs=[x, np.linspace(-1, 1, 4, dtype="float32")[None, None]]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_runs_in_integers(name):
    model = stem(lambda x: ATTENTION[name](layers.Reshape((36, 4))(x)))
    data = convert(model, PIXELS, quantization="int8", input_type="float32", output_type="float32")
    assert [each for each, *_ in file.operators(file.parse(data))].count("DEQUANTIZE") == 1  # Of the output.
    interpreter, right = file.open_bytes(data, "The file"), np.asarray(model(PIXELS))
    (result,) = file.run_examples(interpreter, (PIXELS,), [interpreter.get_output_details()[0]["index"]])
    assert np.linalg.norm(result - right) < 0.05 * np.linalg.norm(right)


class Counting(layers.Layer):
    """Increments a variable in every call."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs * 2


class Normalizing(layers.Layer):
    """Normalizes with the statistics of the batch, also in inference."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = layers.BatchNormalization()

    def build(self, shape):
        self.normalization.build(shape)

    def call(self, inputs):
        return self.normalization(inputs, training=True)


def test_lowering_does_not_change_variables(tmp_path):
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
    ids=["function without a rule", "TensorFlow function"],
)
def test_layer_with_unsupported_part_is_converted_as_a_whole(layer):
    assert lower(stem(layer)).operations[-1].kind == "converted"


def test_layer_that_normalizes_by_batch_in_inference_is_rejected():
    with pytest.raises(UnsupportedLayerError, match="'own', a Normalizing, has no lowering rule"):
        lower(stem(Normalizing(name="own")))


def test_threads_replace_variable_methods_one_at_a_time():
    before, inside = vars(keras.Variable).get("__mul__"), threading.Event()

    def trace():
        with _symbols_beside_variables():
            inside.set()

    thread = threading.Thread(target=trace)
    with _symbols_beside_variables():
        thread.start()
        assert not inside.wait(0.1)
    thread.join()
    assert inside.is_set()
    assert vars(keras.Variable).get("__mul__") is before
