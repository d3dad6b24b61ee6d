"""What `docs/clients.md` calls the programs' own limits: they fail on files of TensorFlow's own converter too.

A test that fails here is good news: the program has learned it, and the sentence in `tools/clients/page.md` can go.
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
    """Channels shuffled as a table of three axes, which is how files have it."""

    def call(self, inputs):
        return tf.reshape(tf.transpose(tf.reshape(inputs, (64, 2, 2)), (0, 2, 1)), (1, *SHAPE))


def converted(layers, path, **options):
    """The file of TensorFlow's converter."""
    model = keras.Sequential([keras.Input(batch_shape=(1, *SHAPE)), *layers])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in options.items():
        setattr(converter, name, value)
    path.write_bytes(converter.convert())
    return str(path)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (2, *SHAPE)).astype("float32")


def test_opencv_has_no_relu_of_integers(tmp_path, images):
    path = converted(
        [keras.layers.Conv2D(4, 1, activation="relu")],
        tmp_path / "net.tflite",
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([image[None]] for image in images),
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )
    with pytest.raises(cv2.error, match="Lookup table for RELU"):
        cv2.dnn.readNetFromTFLite(path)


def test_opencv_loses_the_order_of_axes_in_a_shuffle(tmp_path, images):
    path = converted([Shuffle(), keras.layers.Conv2D(6, 1)], tmp_path / "net.tflite")
    assert interpreters.litert(path, images).shape == (2, 8, 8, 6)
    try:
        answer = interpreters.opencv(path, images)
    except cv2.error:
        return
    assert answer.size != 2 * 8 * 8 * 6


def test_microcontrollers_do_not_widen_float16(tmp_path, images):
    path = converted(
        [keras.layers.Conv2D(4, 1)],
        tmp_path / "net.tflite",
        optimizations=[tf.lite.Optimize.DEFAULT],
        target_spec=tf.lite.TargetSpec(supported_types=[tf.float16]),
    )
    with pytest.raises(RuntimeError, match="failed to allocate tensors"):
        interpreters.tflite_micro(path, images)
