"""Training in half precision: choice of precision, layers in full precision, and the files."""

import keras
import numpy as np
import pytest
from tiny_network import MODEL, TINY

from keras_sharenets import create_model, files
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.run.fit import MEASURED, choose_precision, fit, resume
from keras_sharenets.training.run.network import build
from keras_sharenets.training.run.record import Run, RunOptions, read_metrics
from trainers.cli import main

RECORD = {"model": MODEL, "options": {}, "data": {}, "recipe": recipe_for(MODEL, "digits"), "backend": "tensorflow"}


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=2, batch_size=64, learning_rate=0.03)


def choose(monkeypatch, asked, devices=None, seconds=None):
    monkeypatch.setattr("keras_sharenets.training.run.fit.step_seconds", lambda *_: seconds)
    run = Run(precision=asked, versions={}, **RECORD)
    return choose_precision(run, devices or Devices(), None, None)


def test_choice_of_precision(monkeypatch):
    assert choose(monkeypatch, None).precision == "float32"
    assert choose(monkeypatch, None, Devices("tpu", policy="mixed_bfloat16")).precision == "bfloat16"
    assert choose(monkeypatch, "float16").precision == "float16"
    for half, chosen in ((0.5, "bfloat16"), (0.97, "float32"), (1.2, "float32")):
        seconds = {"float32": 1.0, "bfloat16": half}
        run = choose(monkeypatch, "auto", seconds=seconds)
        assert (run.precision, run.step_seconds) == (chosen, seconds)
    with pytest.raises(ValueError, match=r"`precision` \(='auto'\) is measured on one device"):
        choose(monkeypatch, "auto", Devices("mirrored", 2))
    with pytest.raises(ValueError, match=r"`precision` \(='int8'\) must be one of 'float32', 'bfloat16', 'float"):
        RunOptions(precision="int8")


@pytest.mark.parametrize("normalization", [None, "zca"])
def test_layers_in_full_precision(normalization, digits, recipe):
    """Normalization of the pixels and the probabilities are computed in float32."""
    chosen = normalization and override(recipe, normalization=normalization)
    network = in_policy("mixed_bfloat16", lambda: build(MODEL, digits, TINY, chosen))
    dtypes = {layer.name: layer.compute_dtype for layer in network.layers[1:]}
    assert (dtypes.pop("normalize"), dtypes.pop("predictions")) == ("float32", "float32")
    assert set(dtypes.values()) == {"bfloat16"}
    assert network.output.dtype == "float32"
    assert {weight.dtype for weight in network.weights} == {"float32"}


@pytest.mark.parametrize("asked", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_run_in_half_precision(asked, digits, recipe, quick_network, tmp_path, capsys):
    settings = {"recipe": override(recipe, batch_size=256), "options": TINY, "verbose": 0}
    run = fit(MODEL, digits, tmp_path / "run", run_options=RunOptions(precision=asked, jit_compile=False), **settings)
    assert read_metrics(tmp_path / "run" / "metrics.json").precision == asked
    assert run.epochs[1].loss < run.epochs[0].loss
    network = files.load_model(tmp_path / "run" / "last.keras")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    # The recorded accuracy is that of the float32 file.
    probabilities = network.predict(digits.test.pixels(np.arange(359)), verbose=0)
    assert np.mean(probabilities.argmax(-1) == digits.test.labels) == pytest.approx(run.test_accuracy, abs=1e-6)
    assert main(["fit", "--resume", str(tmp_path / "run"), "--precision", "float32"]) == 2
    told = f"`--precision` (=float32) must match the run in {tmp_path / 'run'} (={asked})"
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_auto_measures_both_precisions(digits, recipe, quick_network, tmp_path):
    settings = {"recipe": override(recipe, epochs=1), "options": TINY, "verbose": 0}
    run = fit(MODEL, digits, tmp_path / "run", run_options=RunOptions(precision="auto", jit_compile=False), **settings)
    assert run.precision in MEASURED
    assert set(run.step_seconds) == set(MEASURED)
    assert all(0 < seconds < 60 for seconds in run.step_seconds.values())
    assert resume(tmp_path / "run", digits).step_seconds == run.step_seconds


@pytest.mark.slow
def test_half_precision_learns_like_full_precision(digits, recipe, tmp_path):
    settings = {"recipe": override(recipe, epochs=4), "options": TINY, "verbose": 0}
    full, half = (
        fit(MODEL, digits, tmp_path / name, run_options=RunOptions(precision=name), **settings)
        for name in ("float32", "bfloat16")
    )
    assert half.last.loss == pytest.approx(full.last.loss, abs=0.1)
    assert half.test_accuracy == pytest.approx(full.test_accuracy, abs=0.05)


def test_probabilities_are_not_rounded():
    """In bfloat16, with 8 significant bits, ten probabilities would not sum to 1."""
    network = in_policy("mixed_bfloat16", lambda: create_model(MODEL, num_classes=10, input_shape=(8, 8, 1), **TINY))
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1)).astype("float32")
    sums = keras.ops.convert_to_numpy(network(images, training=False)).astype("float64").sum(-1)
    np.testing.assert_allclose(sums, 1, atol=1e-6)
