"""Limitations of other programs listed in `docs/clients.md`, which also affect files of TensorFlow's converter.

If a test fails, the program has fixed the limitation, and the sentence in `tools/clients/page.md` can be removed.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("cv2")
pytest.importorskip("tflite_micro")
import cv2

from tools.clients import interpreters

pytestmark = pytest.mark.clients
SHAPE = (8, 8, 4)


class Shuffle(keras.layers.Layer):
    """A channel shuffle with three axes, as in files."""

    def call(self, inputs):
        return tf.reshape(tf.transpose(tf.reshape(inputs, (64, 2, 2)), (0, 2, 1)), (1, *SHAPE))


def write_converted(layers, path, **options):
    """Writes the file of TensorFlow's converter and returns its path."""
    model = keras.Sequential([keras.Input(batch_shape=(1, *SHAPE)), *layers])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in options.items():
        setattr(converter, name, value)
    path.write_bytes(converter.convert())
    return str(path)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (2, *SHAPE)).astype("float32")


def test_opencv_has_no_int8_relu(tmp_path, images):
    path = write_converted(
        [keras.layers.Conv2D(4, 1, activation="relu")],
        tmp_path / "net.tflite",
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([image[None]] for image in images),
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )
    with pytest.raises(cv2.error, match="Lookup table for RELU"):
        cv2.dnn.readNetFromTFLite(path)


def test_opencv_computes_shuffles_incorrectly(tmp_path, images):
    path = write_converted([Shuffle(), keras.layers.Conv2D(6, 1)], tmp_path / "net.tflite")
    assert interpreters.litert(path, images).shape == (2, 8, 8, 6)
    try:
        answer = interpreters.opencv(path, images)
    except cv2.error:
        return
    assert answer.size != 2 * 8 * 8 * 6


def test_tflite_micro_does_not_dequantize_float16(tmp_path, images):
    path = write_converted(
        [keras.layers.Conv2D(4, 1)],
        tmp_path / "net.tflite",
        optimizations=[tf.lite.Optimize.DEFAULT],
        target_spec=tf.lite.TargetSpec(supported_types=[tf.float16]),
    )
    with pytest.raises(RuntimeError, match="failed to allocate tensors"):
        interpreters.tflite_micro(path, images)
