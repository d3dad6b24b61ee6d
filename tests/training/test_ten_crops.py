"""Evaluation on crops of images, compared with their pixels."""

import keras
import numpy as np
import PIL.Image
import pytest
from image_files import save

from keras_sharenets.training.data.sources import load
from keras_sharenets.training.reports.evaluate import evaluate

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("suffix", ["keras", "tflite"])
def test_ten_crops_are_averaged(tmp_path, suffix):
    """The network depends on the upper left pixel only, which differs in the ten crops of 56 out of 64 pixels."""
    for label, name in enumerate(("dark", "light")):
        for number in range(5):
            image = RANDOM.integers(0, 120 + 15 * label, (64, 64, 3), np.uint8)
            save(PIL.Image.fromarray(image), tmp_path / "data" / name / f"{number}.png")
    dataset = load(tmp_path / "data")
    inputs = keras.Input((56, 56, 3))
    dense = keras.layers.Dense(2, "softmax")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((56 * 56 * 3, 2))
    kernel[0, 1] = 0.05
    dense.kernel.assign(kernel)
    dense.bias.assign([0.0, -0.05 * 62])
    path = tmp_path / f"net.{suffix}"
    if suffix == "keras":
        model.save(path)
    else:
        pytest.importorskip("keras_sharenets.mobile").export_tflite(model, path)
    images = dataset.test.pixels(np.arange(2)).astype(float)
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4), (0, 55), (0, 63), (8, 55), (8, 63), (4, 59)]
    reds = np.array([[image[place][0] for place in places] for image in images])
    light = (1 / (1 + np.exp(-0.05 * (reds - 62)))).mean(axis=1)
    expected = int(((light > 0.5) == dataset.test.labels).sum())
    assert evaluate(path, dataset, "ten").correct == expected
    assert evaluate(path, dataset, "center").correct == int(((reds[:, 4] > 62) == dataset.test.labels).sum())
    with pytest.raises(ValueError, match=r"takes images of shape \(56, 56, 3\), .* have \(64, 64, 3\)\. Use `crops`"):
        evaluate(path, dataset)
    with pytest.raises(ValueError, match=r"`crops` \(='five'\) must be one of 'none', 'center', 'ten'"):
        evaluate(path, dataset, "five")
