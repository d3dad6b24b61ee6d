import keras
import numpy as np
import pytest
from mobile_networks import NAMES, WEIGHTS, small_network
from sklearn.datasets import load_digits

from keras_sharenets import mobile
from keras_sharenets.mobile.graph import lowering


@pytest.fixture
def rules_only(monkeypatch):
    """Disables the fallbacks for layers without a rule: lowering their parts, and TensorFlow's converter."""

    def refuse(graph, layer, call, inputs, refusal):
        raise refusal

    monkeypatch.setattr(lowering, "parts_of", lambda layer, call: None)
    monkeypatch.setattr(lowering, "lower_by_converter", refuse)


@pytest.fixture(scope="session")
def digits():
    """Real images `(1797, 8, 8, 1)` with pixel values from 0 to 255, and their classes."""
    data = load_digits()
    return (data.images[..., None] * (255 / 16)).round().astype(np.uint8), data.target


@pytest.fixture(scope="session")
def trained():
    """The small network with stored weights from `mobile_networks.train`; `test_tflite.py` repeats the training."""
    model = small_network()
    with np.load(WEIGHTS) as arrays:
        model.set_weights([arrays[name] for name in arrays.files])
    return model


@pytest.fixture(scope="session")
def plain():
    """An untrained RGB network of standard Keras layers, without sharing."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6, 5, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3, activation="relu", bias_initializer="ones"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax", bias_initializer="ones"),
    ]
    return keras.Sequential(layers)


@pytest.fixture(scope="session")
def saturated(trained):
    """The trained network with logits scaled by 1000, so that its probabilities are exactly 0 and 1."""
    model = keras.models.clone_model(trained)
    *weights, kernel, bias = trained.get_weights()
    model.set_weights([*weights, 1000 * kernel, 1000 * bias])
    return model


@pytest.fixture(scope="session")
def tflite_files(trained, digits, tmp_path_factory):
    """The trained network exported in each precision: `{quantization: (path, report)}`."""
    folder, images = tmp_path_factory.mktemp("tflite"), digits[0][:200]
    exported = {}
    for quantization in (None, "float16", "int8"):
        path = folder / f"{quantization}.tflite"
        report = mobile.export_tflite(
            trained, path, quantization=quantization, representative_data=images, class_names=NAMES
        )
        exported[quantization] = path, report
    return exported
