"""Whitening, initialization, dropout, and the plateau schedule."""

import csv
import json

import keras
import numpy as np
import pytest

from keras_sharenets import files
from keras_sharenets.layers.whitening import Whitening, whitening_statistics
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.reports.card import _training
from keras_sharenets.training.run.fit import fit, resume
from keras_sharenets.training.run.network import build, highest_dropout
from keras_sharenets.training.run.record import RunOptions, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import Recorder

DIGITS = find_recipe("digits")
TINY = {"width": (16,), "shuffle_groups": 1, "arrangements": 1}


def test_size_of_whitened_images():
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(None, 64, 65, 1\)\) must have at most 4096 values"):
        Whitening().build((None, 64, 65, 1))


def contrast(images):
    """Global contrast normalization of each image."""
    rows = [image.astype("float64").ravel() for image in images]
    return np.array([(row - row.mean()) / np.sqrt(10 + row.var()) for row in rows])


def test_whitened_pixels_are_uncorrelated(digits):
    recipe = override(DIGITS, normalization="zca")
    network = build("hscnet_m32_g4_r2_b1_a2", digits, TINY, recipe)
    whitening = network.layers[1]
    assert isinstance(whitening, Whitening)
    assert (len(whitening.trainable_weights), whitening.count_params()) == (0, 64 + 64 * 64)
    images = digits.train.images
    found = keras.ops.convert_to_numpy(whitening(images.astype("float32"))).reshape(len(images), -1)
    values = contrast(images)
    covariance = np.cov(values.T, bias=True)
    # Along every principal direction, the variance v becomes v / (v + 0.1); the correlation is zero up to this filter.
    variances, directions = np.linalg.eigh(covariance)
    expected = directions @ np.diag(variances / (variances + 0.1)) @ directions.T
    np.testing.assert_allclose(np.cov(found.T, bias=True), expected, atol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    # ZCA is the symmetric whitening matrix: whitened images resemble the original ones.
    matrix = keras.ops.convert_to_numpy(whitening.matrix)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    assert np.linalg.eigvalsh(matrix).min() > 0
    np.testing.assert_allclose(found, (values - values.mean(axis=0)) @ matrix, atol=1e-3)


def test_whitening_is_saved(digits, tmp_path):
    network = build("hscnet_m32_g4_r2_b1_a2", digits, TINY, override(DIGITS, normalization="zca"))
    files.save_model(network, tmp_path / "net.keras")
    images = digits.test.images[:8].astype("float32")
    again = files.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again.layers[1](images), network.layers[1](images))


def test_images_too_large_for_whitening():
    with pytest.raises(ValueError, match=r"`normalization` \(='zca'\) is for images of at most 4096 values; .* 12288"):
        whitening_statistics([], (64, 64, 3))


@pytest.mark.parametrize(("how", "fan"), [("he_fan_in", lambda i, o: i), ("he_fan_out", lambda i, o: o)])
def test_initialization(digits, how, fan):
    options = {"depth": 10, "width_multiplier": 4}
    network = build("sha_wrn_40_4", digits, options, override(DIGITS, initialization=how))
    convolutions = [layer for layer in network.layers if type(layer) is keras.layers.Conv2D]
    assert len(convolutions) > 5
    for layer in convolutions:
        height, width, inputs, outputs = layer.kernel.shape
        values = keras.ops.convert_to_numpy(layer.kernel)
        expected = np.sqrt(2 / (height * width * fan(inputs, outputs)))
        assert values.std() == pytest.approx(expected, rel=4 / np.sqrt(values.size))
        assert abs(values.mean()) < 4 * expected / np.sqrt(values.size)


def test_initialization_of_other_layers(digits):
    with pytest.raises(
        ValueError,
        match=r"`initialization` \(='he_fan_out'\) applies to ordinary convolutions only, but '.*HighlyShared",
    ):
        build("hscnet_m32_g4_r2_b1_a2", digits, {}, override(DIGITS, initialization="he_fan_out"))


VGG = {"width": 8, "convs_per_block": (1,), "hidden_units": (4,)}


@pytest.mark.parametrize(
    ("options", "dropout", "real"), [({}, 0.0, 0.5), ({}, 0.3, 0.3), ({"dropout_rate": 0}, 0.3, 0.0)]
)
def test_dropout_of_recipe_or_option_overrides_the_network(options, dropout, real, digits):
    network = build("sl_vggnet_32", digits, {**VGG, **options}, override(DIGITS, dropout=dropout))
    assert highest_dropout(network) == real


@pytest.mark.slow
def test_dropout_of_the_network_is_recorded(digits, tmp_path):
    """The recipe has no dropout, but ShardVGG has 0.5, which is in the record and the card."""
    recipe = override(DIGITS, epochs=1)
    run = fit("sl_vggnet_32", digits, tmp_path / "run", recipe=recipe, options=VGG, verbose=0)
    assert (run.recipe.dropout, run.dropout_rate) == (0.0, 0.5)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["dropout_rate"] == 0.5
    assert read_metrics(tmp_path / "run" / "metrics.json").dropout_rate == 0.5
    assert ", dropout 0.5," in "".join(_training(run))
    older = run_from_dict({name: value for name, value in written.items() if name != "dropout_rate"})
    assert older.dropout_rate is None
    assert ", dropout 0.0," in "".join(_training(older))


def test_recipe_sets_dropout_of_the_network(digits):
    recipe = override(DIGITS, dropout=0.3)
    network = build("sha_wrn_40_4", digits, {"depth": 10, "width_multiplier": 1}, recipe)
    assert {layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)} == {0.3}
    with pytest.raises(ValueError, match="has no option `dropout_rate`"):
        build("sl3_resnet_64", digits, {}, recipe)


def test_plateau_schedule_is_restored_on_resume(digits, quick_network, tmp_path, monkeypatch):
    """The learning rate is tiny, so the accuracy fluctuates; it is halved after every epoch without improvement."""
    changes = {"schedule": "plateau", "patience": 1, "decay_factor": 0.5, "learning_rate": 1e-9}
    recipe = override(DIGITS, epochs=5, batch_size=359, **changes)
    publish = Recorder._publish

    def interrupt(recorder):
        publish(recorder)
        if len(recorder.run.epochs) == 3:
            raise KeyboardInterrupt

    settings = {"recipe": recipe, "options": TINY, "run_options": RunOptions(jit_compile=False), "verbose": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit("hscnet_m32_g4_r2_b1_a2", digits, tmp_path / "run", **settings)
    run = resume(tmp_path / "run", digits, verbose=0)
    expected, best = [1e-9], run.epochs[0].accuracy
    for epoch in run.epochs[1:-1]:
        expected.append(expected[-1] * (1 if epoch.accuracy > best else 0.5))
        best = max(best, epoch.accuracy)
    expected.insert(1, 1e-9)  # The first epoch is always an improvement.
    assert expected[-1] < 1e-9
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        assert [float(row["learning_rate"]) for row in csv.DictReader(file)] == pytest.approx(expected, rel=1e-6)
