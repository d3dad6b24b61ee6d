"""Operators have the versions that TensorFlow's converter writes, and forms that other programs accept."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops
from mobile_networks import convert

from keras_sharenets.mobile.inspect import file

IMAGES = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype("float32")
# Each has another version in this network than in most.
EXPECTED = {
    None: {"DEPTHWISE_CONV_2D": 2, "TRANSPOSE": 4, "MAXIMUM": 3, "SUB": 3, "DIV": 2, "MUL": 1},
    "int8": {"DEPTHWISE_CONV_2D": 3, "TRANSPOSE": 4, "MAXIMUM": 3, "SUB": 3, "LEAKY_RELU": 1, "MUL": 3},
}


def network():
    """Dilation, functions of five axes, and a product whose step is smaller than the product of its factors' steps."""
    x = inputs = keras.Input(IMAGES.shape[1:])
    x = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
    x = layers.Permute((4, 2, 1, 3))(layers.Reshape((3, 2, 6, 4))(layers.LeakyReLU(0.2)(x)))
    x = ops.maximum(x, x[:, :1])
    x = x - x[:, :, :1]
    x = layers.Reshape((6, 6, 4))(x / (1.5 + ops.sigmoid(x[:, :, :, :1])))
    return keras.Model(inputs, layers.Conv2D(4, 1)(ops.relu(x) * ops.relu(0.03 - x)))


def versions(data):
    """`{operator: its largest version}`."""
    return dict(sorted(versions_of(schema.ModelT.InitFromPackedBuf(data, 0))))


def versions_of(model):
    """`(operator, version)` of each operator code of a file."""
    codes = [(max(code.builtinCode, code.deprecatedBuiltinCode), code.version) for code in model.operatorCodes]
    return [(file.OPERATORS[code], version) for code, version in codes]


@pytest.mark.parametrize("quantization", EXPECTED)
def test_versions_are_those_of_the_converter(quantization):
    keras.utils.set_random_seed(0)
    model = network()
    function = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec((1, *IMAGES.shape[1:]))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    if quantization:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in IMAGES)
    theirs, ours = versions(converter.convert()), versions(convert(model, IMAGES, quantization=quantization))
    assert {name: ours[name] for name in EXPECTED[quantization]} == EXPECTED[quantization]
    assert {name: theirs.get(name) for name in EXPECTED[quantization]} == EXPECTED[quantization]


@pytest.mark.parametrize(
    ("quantization", "joined", "activations"), [(None, False, 1), ("int8", False, 0), ("int8", True, 1)]
)
def test_no_fused_activation_of_a_transposed_convolution(quantization, joined, activations):
    """OpenVINO ignores it, and GPU delegates refuse its version; int8 clips unless negative values share its scale."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(IMAGES.shape[1:])
    x = layers.Conv2DTranspose(4, 2, strides=2, activation="relu")(inputs)
    if joined:
        x = layers.Concatenate()([x, layers.Conv2DTranspose(4, 2, strides=2)(inputs)])
    model = keras.Model(inputs, x)
    data = convert(model, IMAGES, quantization=quantization)
    found = schema.ModelT.InitFromPackedBuf(data, 0)
    operators = [(versions_of(found)[each.opcodeIndex], each.builtinOptions) for each in found.subgraphs[0].operators]
    transposed = [options for (name, version), options in operators if name == "TRANSPOSE_CONV" and version == 3]
    assert [options.fusedActivationFunction for options in transposed] == [0] * (1 + joined)
    assert [name for (name, _), _ in operators].count("RELU") == activations
    interpreter = file.open_bytes(data, "The file")
    (output,) = file.run_examples(interpreter, (IMAGES,), [interpreter.get_output_details()[0]["index"]])
    np.testing.assert_allclose(output, model.predict(IMAGES, verbose=0), atol=0.05 if quantization else 1e-5)


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (lambda x: ops.roll(x, 2, axis=1), {"SLICE", "CONCATENATION"}),
        (lambda x: ops.take(x, np.array([4, 5, 0, 1, 2]), axis=2), {"SLICE", "CONCATENATION"}),
        (lambda x: ops.take(x, np.array([2, 3, 1, 0]), axis=3), {"GATHER"}),
    ],
)
def test_rolls_are_slices_that_delegates_support(select, names):
    inputs = keras.Input(IMAGES.shape[1:])
    data = convert(keras.Model(inputs, select(inputs)), IMAGES)
    assert set(versions(data)) == names
    interpreter = file.open_bytes(data, "The file")
    (output,) = file.run_examples(interpreter, (IMAGES,), [interpreter.get_output_details()[0]["index"]])
    np.testing.assert_array_equal(output, np.asarray(select(IMAGES)))
