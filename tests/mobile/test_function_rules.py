"""Layers that compute their kernel in `call` and pass it to a function of `keras.ops`."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from mobile_networks import lower
from random_networks import NegatedKernelConv2D, StandardizedConv2D, images

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.inspect import file

PIXELS = images(0, 32)


class RepeatedFilters(layers.Layer):
    """A kernel repeated along the filters, implemented without this library."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 2), name="kernel")

    def call(self, inputs):
        return ops.relu(ops.conv(inputs, ops.tile(self.kernel, (1, 1, 1, 2)), padding="same"))


class Places(layers.Layer):
    """A dilated depthwise convolution, then products of images and vectors with one matrix."""

    def build(self, shape):
        self.depthwise = self.add_weight(shape=(3, 3, shape[-1], 1), name="depthwise")
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

    def call(self, inputs):
        y = ops.depthwise_conv(inputs, self.depthwise, padding="same", dilation_rate=2)
        y = ops.matmul(y, self.matrix)
        gate = ops.sigmoid(ops.dot(ops.mean(y, axis=(1, 2)), self.matrix))
        return y * gate[:, None, None]


LAYERS = {
    "standardized": lambda: StandardizedConv2D(4, 3, strides=2, padding="same", bias_initializer="random_normal"),
    "negated": lambda: NegatedKernelConv2D(4, 1),
    "repeated": RepeatedFilters,
    "places": Places,
}


def network(layer, calls=2):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(x))
    for _ in range(calls):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("name", LAYERS)
def test_file_matches_keras(tmp_path, name, quantization):
    model, path = network(LAYERS[name]()), tmp_path / "net.tflite"
    ends = {} if quantization is None else {"input_type": "int8", "output_type": "int8"}
    report = export_tflite(model, path, quantization, representative_data=PIXELS, **ends)
    assert report.fallback_layers == ()
    content = file.parse(path.read_bytes())
    assert quantization is None or "DEQUANTIZE" not in {operator for operator, *_ in file.operators(content)}
    assert file.repeated_bytes(content) == 0
    right = np.asarray(model(PIXELS))
    bound = {None: 1e-5, "int8": 0.05}[quantization]
    assert np.linalg.norm(predict_tflite(path, PIXELS) - right) < bound * np.linalg.norm(right)


@pytest.mark.parametrize("name", LAYERS)
def test_calls_of_one_layer_share_one_kernel(name):
    kernels = {step.kernel for step in lower(network(LAYERS[name](), calls=2)).operations if step.kernel}
    once = {step.kernel for step in lower(network(LAYERS[name](), calls=1)).operations if step.kernel}
    assert len(kernels) == len(once)


class Correlation(layers.Layer):
    """The second factor is computed from the image, so it is not a stored kernel."""

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(inputs, (0, 1, 3, 2)))


def test_product_with_an_image_dependent_factor():
    kinds = {step.kind for step in lower(network(Correlation(), calls=1)).operations}
    assert "matmul" in kinds
    assert "converted" not in kinds
