"""Layers without a lowering rule are converted by TensorFlow, while the other layers keep their sharing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from mobile_networks import convert
from random_networks import SymmetricConv2D, images

from keras_sharenets import mobile
from keras_sharenets.analysis.graph import trace
from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.export.reference import LayerMismatchError
from keras_sharenets.mobile.graph.rules import RULES, UnsupportedLayerError, check_masks
from keras_sharenets.mobile.inspect import file

PIXELS = images(0, 16)


class TensorFlowConv2D(layers.Conv2D):
    """Calls TensorFlow functions, which Keras does not trace."""

    def convolution_op(self, inputs, kernel):
        return tf.nn.conv2d(inputs, kernel, strides=1, padding=self.padding.upper())


def network_around(middle):
    """A network that applies `middle` between two calls of a shared convolution."""
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(4, 3, padding="same", bias_initializer="random_normal", name="shared")
    y = shared(layers.Concatenate()([layers.Rescaling(1 / 255)(inputs), layers.Rescaling(1 / 128)(inputs)]))
    y = middle(layers.ReLU()(y))
    y = layers.ReLU()(shared(layers.Conv2D(6, 1)(y)))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


# By the aspect of the conversion that each case covers.
CASES = {
    "own method": lambda y: TensorFlowConv2D(4, 3, name="odd")(y),
    "two inputs": lambda y: ops.power(y + 1, 0.5 * y),
    "integers": lambda y: ops.where(ops.greater(y, 0.5), y, -y),
    "several outputs": lambda y: ops.stack(ops.unstack(y, axis=2)[::-1], axis=2),
    "kernel": lambda y: layers.EinsumDense("bhwc,wcd->bhwd", (8, 8, 4), name="odd")(y),
    "constant": lambda y: layers.Conv2D(4, 1)(ops.concatenate([y + ops.ones_like(y), ops.zeros_like(y)])),
    "loop": lambda y: layers.Reshape((8, 8, 4))(
        layers.LSTM(32, return_sequences=True, name="odd")(layers.Reshape((8, 32))(y))
    ),
    "attention": lambda y: layers.Reshape((8, 8, 4))(
        layers.MultiHeadAttention(2, 4, name="odd")(
            layers.Reshape((64, 4))(y),
            layers.Reshape((64, 4))(y),
            attention_mask=layers.Reshape((1, 64))(y[..., 0]) >= 0,
        )
    ),
}


@pytest.mark.parametrize("quantization", [None, pytest.param("float16", marks=pytest.mark.slow), "int8"])
@pytest.mark.parametrize("case", ["integers", "several outputs"])
def test_file_matches_keras(tmp_path, case, quantization):
    _check(tmp_path, case, quantization)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
@pytest.mark.parametrize("case", ["loop", "own method", "two inputs", "kernel", "constant", "attention"])
def test_file_matches_keras_for_more_layers(tmp_path, case, quantization):
    _check(tmp_path, case, quantization)


def test_loop_includes_its_subgraphs(tmp_path):
    _check(tmp_path, "loop", None)


def _check(folder, case, quantization):
    model, path = network_around(CASES[case]), folder / "net.tflite"
    ends = {"input_type": "float32", "output_type": "float32"}
    report = export_tflite(model, path, quantization, representative_data=PIXELS, **ends)
    assert bool(report.fallback_layers) == (case != "constant")  # The converter reduces it to a constant.
    tolerance = {None: 1e-5, "float16": 2e-3, "int8": 0.02}[quantization]
    np.testing.assert_allclose(predict_tflite(path, PIXELS), model(PIXELS), atol=tolerance)
    assert file.repeated_bytes(file.parse(path.read_bytes())) == 0


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_class_map_of_segmentation(tmp_path, quantization):
    """TensorFlow's converter rejects the argmax of Keras, and indices must not be quantized."""
    keras.utils.set_random_seed(0)  # With this seed, every class occurs.
    inputs, path = keras.Input((8, 8, 3)), tmp_path / "net.tflite"
    x = layers.Conv2D(5, 3, padding="same", bias_initializer="random_normal")(layers.Rescaling(1 / 255)(inputs))
    export_tflite(keras.Model(inputs, ops.argmax(x, axis=-1)), path, quantization, representative_data=PIXELS)
    expected = np.asarray(keras.Model(inputs, x)(PIXELS)).argmax(-1)
    found = predict_tflite(path, PIXELS)
    assert set(np.unique(found)) == set(range(5)) == set(np.unique(expected))
    assert (found == expected).mean() >= (1.0 if quantization is None else 0.95)
    assert mobile.describe_tflite(path)["outputs"][0]["scale"] == (None if quantization is None else 1.0)


def test_other_layers_keep_sharing_and_quantization(tmp_path):
    """The shared kernel is stored once as int8; only the layer without a rule computes in float."""
    path = tmp_path / "net.tflite"
    report = export_tflite(network_around(CASES["own method"]), path, "int8", representative_data=PIXELS)
    assert report.fallback_layers == ("odd",)
    graph = file.parse(path.read_bytes()).Subgraphs(0)
    shapes = [
        (tuple(tensor.ShapeAsNumpy().tolist()), file.TYPES[tensor.Type()])
        for tensor in map(graph.Tensors, range(graph.TensorsLength()))
    ]
    assert shapes.count(((4, 3, 3, 6), "int8")) == 1
    assert shapes.count(((4, 3, 3, 4), "float32")) == 1
    casts = [name for name, *_ in file.operators(file.parse(path.read_bytes())) if name in ("QUANTIZE", "DEQUANTIZE")]
    assert casts.count("DEQUANTIZE") >= 1


def test_float_output_of_a_converted_layer_is_not_rounded():
    inputs = keras.Input((8, 4))
    model, given = keras.Model(inputs, ops.cumsum(inputs, axis=1)), PIXELS[:4, :, :4, 0]
    data = convert(model, given, quantization="int8", output_type="float32")
    assert [name for name, *_ in file.operators(file.parse(data))][-1] == "CUMSUM"
    (end,) = (interpreter := file.open_bytes(data, "The file")).get_output_details()
    (result,) = file.run_examples(interpreter, (given,), [end["index"]])
    np.testing.assert_allclose(result, model(given), atol=4 * 0.5)  # The rounding of eight inputs.


def test_indices_of_integer_files_are_exact(tmp_path):
    """A step between two integers of the file is 1, also for indices that `representative_data` lacks."""
    inputs, path = keras.Input((3,), dtype="int32"), tmp_path / "net.tflite"
    embedding = layers.Embedding(200, 4)
    model = keras.Model(inputs, embedding(inputs))
    given = np.arange(48).reshape(16, 3) % 101
    export_tflite(model, path, "int8", representative_data=given, output_type="float32")
    rare = np.array([[199, 150, 102]])
    interpreter = file.open_tflite(path)
    (end,) = interpreter.get_output_details()
    (rows,) = file.run_examples(interpreter, (rare,), [end["index"]])
    np.testing.assert_allclose(rows, np.asarray(embedding.embeddings)[rare], atol=1e-6)
    many = keras.Model(inputs, layers.Embedding(1000, 4, name="words")(inputs))
    with pytest.raises(ValueError, match=r"'words' cannot be written in int8: .* need more than 8 bits"):
        export_tflite(many, path, "int8", representative_data=9 * given)


def test_more_classes_than_8_bits(tmp_path):
    inputs, path = keras.Input((300,)), tmp_path / "net.tflite"
    model = keras.Model(inputs, ops.argmax(inputs, axis=-1, keepdims=True))
    peaks = 200 * np.eye(300, dtype="float32")
    with pytest.raises(ValueError, match=r'need more than 8 bits\. .* set `output_type="float32"`'):  # Seen: up to 199.
        export_tflite(model, path, "int8", representative_data=peaks[:200])
    export_tflite(model, path, "int8", representative_data=peaks[::20], output_type="float32")
    interpreter = file.open_tflite(path)
    (end,) = interpreter.get_output_details()
    (classes,) = file.run_examples(interpreter, (peaks[[299, 7]],), [end["index"]])
    assert classes.tolist() == [[299], [7]]


def test_two_calls_of_a_converted_layer_share_its_constants(tmp_path):
    odd = TensorFlowConv2D(4, 3, padding="same", name="odd")
    export_tflite(network_around(lambda y: odd(odd(y))), tmp_path / "twice.tflite")
    export_tflite(network_around(lambda y: odd(y)), tmp_path / "once.tflite")
    sizes = [
        sum(file.constant_bytes(file.parse((tmp_path / f"{name}.tflite").read_bytes())).values())
        for name in ("once", "twice")
    ]
    assert sizes[1] - sizes[0] < 4 * 3 * 3 * 4 * 4


def attention(y, mask):
    return layers.MultiHeadAttention(2, 4)(y, y, query_mask=mask, value_mask=mask)


# Whether Keras passes a mask at run time that the graph of the model lacks.
@pytest.mark.parametrize(
    ("end", "refused"),
    [
        (lambda y, mask: layers.MultiHeadAttention(2, 4)(layers.LayerNormalization()(y), y), True),
        (attention, True),
        (lambda y, mask: layers.Attention()([y, y]), True),
        (lambda y, mask: layers.MultiHeadAttention(2, 4)(y + 1, y + 1), False),
        (lambda y, mask: layers.Bidirectional(layers.GRU(3))(y), False),
        (lambda y, mask: layers.GlobalAveragePooling1D()(layers.Add()([y, y])), False),
        (lambda y, mask: layers.GRU(4)(y, initial_state=y[:, 0, :4]), False),
    ],
)
def test_masks_that_only_keras_passes(end, refused):
    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, end(layers.Embedding(9, 8, mask_zero=True)(inputs), ops.not_equal(inputs, 0)))
    if refused:
        with pytest.raises(UnsupportedLayerError, match="gets the mask of padded steps"):
            check_masks(trace(model))
    else:
        check_masks(trace(model))
    check_masks(trace(keras.Model(inputs, end(layers.Embedding(9, 8)(inputs), ops.not_equal(inputs, 0)))))


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (lambda y: layers.Lambda(ops.erf, name="odd")(y), "'odd', a Lambda, has no lowering rule .* operator for Erf"),
        (lambda y: ops.flip(y, axis=0), "'flip.*', a Flip, would compute something else"),
        (lambda y: SymmetricConv2D(4, padding="causal", name="odd")(y), "'odd', a SymmetricConv2D, has `padding`"),
        (
            lambda y: layers.Lambda(lambda x: x[:, 1:], output_shape=(8, 8, 4), name="odd")(y),
            r"'odd', a Lambda, .* for one example the layer returns \(1, 7, 8, 4\), instead of \(1, 8, 8, 4\)",
        ),
    ],
    ids=["select operator", "mixes examples", "effective kernel", "wrong output shape"],
)
def test_unconvertible_layers_are_named(tmp_path, middle, message, monkeypatch):
    monkeypatch.setattr(SymmetricConv2D, "compute_output_spec", lambda self, x: keras.KerasTensor((None, 8, 8, 4)))
    with pytest.raises((UnsupportedLayerError, LayerMismatchError), match=message):
        export_tflite(network_around(middle), tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


class Gain(layers.Layer):
    """A third-party layer with a weight and an argument."""

    def __init__(self, power=1, odd=False, **kwargs):
        super().__init__(**kwargs)
        self.power, self.odd = power, odd

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="random_uniform", name="gain")

    def call(self, inputs):
        return inputs * (1 + self.gain) ** self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power, "odd": self.odd}


class WavyGain(Gain):
    def call(self, inputs):
        return ops.sin(super().call(inputs))


@pytest.fixture
def rule_for_gain(monkeypatch):
    @mobile.register_lowering(Gain, reads="power")
    def lower_gain(graph, layer, call, inputs, shape):
        scale = (1 + np.asarray(layer.gain)) ** layer.power
        return graph.add("affine", layer.name, inputs, shape, scale=scale, bias=np.zeros_like(scale))

    yield
    del RULES[Gain]


def test_registered_rule_is_used(tmp_path, rule_for_gain):
    model, path = network_around(lambda y: Gain(power=2)(y)), tmp_path / "net.tflite"
    for quantization in (None, "int8"):
        report = export_tflite(model, path, quantization, representative_data=PIXELS)
        assert report.fallback_layers == ()
        np.testing.assert_allclose(predict_tflite(path, PIXELS), model(PIXELS), atol=0.02 if quantization else 1e-5)


def test_registered_rule_does_not_apply_to_overriding_subclass_or_unread_arguments(tmp_path, rule_for_gain):
    path = tmp_path / "net.tflite"
    mobile.register_lowering(Gain, reads="power")(lambda graph, layer, call, inputs, shape: inputs[0])
    for layer, fallback in ((WavyGain(name="own"), ("own",)), (Gain(odd=True, name="own"), ())):
        model = network_around(layer)
        assert export_tflite(model, path).fallback_layers == fallback
        np.testing.assert_allclose(predict_tflite(path, PIXELS), model(PIXELS), atol=1e-5)


def test_wrong_registered_rule_is_detected(tmp_path, rule_for_gain):
    mobile.register_lowering(Gain, reads="power odd")(lambda graph, layer, call, inputs, shape: inputs[0])
    with pytest.raises(LayerMismatchError, match=r"'gain.*', a Gain, would compute something else"):
        export_tflite(network_around(Gain()), tmp_path / "net.tflite")


def test_rule_requires_a_layer_class():
    with pytest.raises(ValueError, match=r"`layer_class` \(=<class 'int'>\) must be a subclass"):
        mobile.register_lowering(int)
