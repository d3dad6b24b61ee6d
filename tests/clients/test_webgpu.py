"""LiteRT.js on WebGPU: what it computes wrongly, and that files for a GPU do without it."""

import keras
import numpy as np
import pytest
from families import REPRESENTATIVES, representative

from keras_sharenets import mobile
from keras_sharenets.analysis.randomization import randomize_batchnorm

pytest.importorskip("playwright")
from tools.clients.browser import litert_js

pytestmark = pytest.mark.clients


def images_of(shape):
    return np.random.default_rng(0).integers(0, 256, (3, *shape)).astype("float32")


def difference(path, images):
    found, expected = litert_js(str(path), images, "webgpu"), mobile.predict_tflite(path, images)
    return np.abs(found - expected).max() / np.abs(expected).max()


# Whoever finds the first two right has a LiteRT.js without the mistake: `join_groups` can go.
@pytest.mark.parametrize(
    ("prefer", "read", "given", "right"),
    [("size", 2, 4, False), ("size", 4, 6, False), ("size", 4, 8, True), ("gpu", 2, 4, True), ("gpu", 4, 6, True)],
)
def test_groups_of_other_than_multiples_of_four_channels_are_wrong(prefer, read, given, right, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Conv2D(4 * read, 1),
        keras.layers.Conv2D(4 * given, 1, groups=4),
        keras.layers.Flatten(),
        keras.layers.Dense(5, "softmax"),
    ]
    images = images_of((8, 8, 3))
    mobile.export_tflite(keras.Sequential(layers), tmp_path / "net.tflite", prefer=prefer, representative_data=images)
    assert (difference(tmp_path / "net.tflite", images) < 1e-5) == right


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_files_for_a_gpu_are_right(family, tmp_path):
    model = representative(family, include_preprocessing=True)
    randomize_batchnorm(model)
    images = images_of(model.input_shape[1:])
    mobile.export_tflite(model, tmp_path / "net.tflite", target="gpu", representative_data=images)
    assert difference(tmp_path / "net.tflite", images) < 1e-3
