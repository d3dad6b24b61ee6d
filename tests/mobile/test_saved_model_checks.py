"""What the export of a SavedModel compares with Keras before it writes, with a decoder that is quick to trace."""

import keras
import pytest
import tensorflow as tf
from harness import slow_after
from mobile_networks import with_noise

from keras_sharenets.mobile import export_saved_model
from keras_sharenets.mobile.export import saved_model
from keras_sharenets.mobile.export.reference import ExportMismatchError

pytestmark = pytest.mark.usefixtures("quick_decoding")


def test_logits_dropout_frozen_layers_and_dicts(tmp_path):
    """Seed generators and frozen weights do not affect the comparison of weights; logits are called scores."""
    inputs = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(8, trainable=False)(x))
    model = keras.Model({"image": inputs}, {"end": keras.layers.Dense(3)(x)})
    assert export_saved_model(model, tmp_path / "m").largest_difference < 1e-5
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    assert set(signature.structured_outputs) == {"class_name", "class_names", "scores"}


@pytest.mark.parametrize("network", slow_after(1, ["plain", "trained", "saturated"]))
def test_wrong_weights_are_detected(request, tmp_path, monkeypatch, network):
    write = saved_model._write
    monkeypatch.setattr(saved_model, "_write", lambda model, *rest: write(with_noise(model), *rest))
    with pytest.raises(ExportMismatchError, match="does not contain the weights of the model, and was not written"):
        export_saved_model(request.getfixturevalue(network), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_wrong_decoding_is_detected(plain, tmp_path, monkeypatch):
    decode = saved_model.decode
    monkeypatch.setattr(saved_model, "decode", lambda data, shape, index: 255 - decode(data, shape, index))
    with pytest.raises(ExportMismatchError, match="signature 'serve_encoded' does not compute what Keras computes"):
        export_saved_model(plain, tmp_path / "m")
    assert not list(tmp_path.iterdir())
