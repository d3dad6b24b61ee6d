"""LiteRT.js on WebGPU: an incorrect operator, which files for GPUs avoid."""

import keras
import numpy as np
import pytest
from families import REPRESENTATIVES, representative

from keras_sharenets import mobile
from keras_sharenets.analysis.randomization import randomize_batchnorm

pytest.importorskip("playwright")
from tools.clients.browser import litert_js

pytestmark = pytest.mark.clients


def make_images(shape):
    return np.random.default_rng(0).integers(0, 256, (3, *shape)).astype("float32")


def difference(path, images):
    found, expected = litert_js(str(path), images, "webgpu"), mobile.predict_tflite(path, images)
    return np.abs(found - expected).max() / np.abs(expected).max()


# If the first two cases are correct, LiteRT.js has fixed the bug, and `join_groups` can be removed.
@pytest.mark.parametrize(
    ("prefer", "read", "given", "right"),
    [("size", 2, 4, False), ("size", 4, 6, False), ("size", 4, 8, True), ("gpu", 2, 4, True), ("gpu", 4, 6, True)],
)
def test_grouped_convolution_needs_multiples_of_four_channels(prefer, read, given, right, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Conv2D(4 * read, 1),
        keras.layers.Conv2D(4 * given, 1, groups=4),
        keras.layers.Flatten(),
        keras.layers.Dense(5, "softmax"),
    ]
    images = make_images((8, 8, 3))
    mobile.export_tflite(keras.Sequential(layers), tmp_path / "net.tflite", prefer=prefer, representative_data=images)
    assert (difference(tmp_path / "net.tflite", images) < 1e-5) == right


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_gpu_files_match_litert(family, tmp_path):
    model = representative(family, include_preprocessing=True)
    randomize_batchnorm(model)
    images = make_images(model.input_shape[1:])
    mobile.export_tflite(model, tmp_path / "net.tflite", target="gpu", representative_data=images)
    assert difference(tmp_path / "net.tflite", images) < 1e-3
