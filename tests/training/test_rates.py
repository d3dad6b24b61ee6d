"""`find_rate` and `sharenets find-rate`."""

import io
import math

import keras
import numpy as np
import PIL.Image
import pytest

from keras_sharenets.cli import main
from keras_sharenets.training.data import sources
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run import rates
from keras_sharenets.training.run.rates import draw_rates, find_rate, steepest

# Without momentum and weight decay, and with all images in one batch: each step is plain gradient descent.
PLAIN = Recipe(1, 0.1, 0.0, momentum=0.0, nesterov=False, batch_size=6, flip=False, pad=0)


def small_data_set():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype("uint8")
    split = Arrays(images, np.arange(6) % 3)
    return make_dataset("few", "", "abc", split, split)


def build_linear_network(model_name, dataset, options, recipe):
    images = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")(x))


def descend(images, labels, steps):
    """The losses of softmax regression in numpy, starting from zeros, with increasing learning rates."""
    x = np.concatenate([images.reshape(6, -1) / 255, np.ones((6, 1))], axis=1)
    weights, losses = np.zeros((17, 3)), []
    for rate in steps:
        scores = np.exp(x @ weights)
        said = scores / scores.sum(1, keepdims=True)
        losses.append(-np.log((said * labels).sum(1)).mean())
        weights -= rate * x.T @ (said - labels) / 6
    return losses


def test_losses_match_gradient_descent_in_numpy(monkeypatch):
    monkeypatch.setattr(rates, "build", build_linear_network)
    few = small_data_set()
    found = find_rate("linear", few, recipe=PLAIN, steps=10, lowest=1e-3, highest=1.0)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 1.0, 10))
    assert found.losses[0] == pytest.approx(math.log(3))
    expected = descend(few.train.images, np.eye(3)[few.train.labels], np.geomspace(1e-3, 1.0, 10))
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
    assert found.suggested in found.rates
    image = PIL.Image.open(io.BytesIO(draw_rates(found, "linear")))
    assert np.asarray(image).std() > 0


def test_search_stops_when_the_loss_diverges(monkeypatch):
    monkeypatch.setattr(rates, "build", build_linear_network)
    found = find_rate("linear", small_data_set(), recipe=PLAIN, steps=40, lowest=1e-2, highest=1e6)
    assert 3 <= len(found.losses) < 40
    assert found.suggested < found.rates[-1]


def test_steepest_descent():
    # The loss falls like a hyperbolic tangent of the logarithmic rate, then rises: steepest in the middle of the fall.
    steps = np.linspace(-5, 1, 61)
    losses = np.where(steps < -1, 2 - np.tanh(2 * (steps + 3)), 1 + 20 * np.maximum(steps + 1, 0))
    assert math.log10(steepest(list(10.0**steps), list(losses))) == pytest.approx(-3, abs=0.11)


@pytest.mark.parametrize("seed", range(5))
def test_steepest_window_before_the_minimum(seed):
    """The loss falls, rises, and falls even faster, but not as low: the line through five of 25 losses counts."""
    noise = np.random.default_rng(seed).normal(0, 0.3, 25)
    losses = np.concatenate([np.linspace(10, 2, 15), [6.0, 9.0, 12.0, 15.0, 18.0], np.linspace(18, 5, 5)]) + noise
    slopes = [np.polyfit(range(5), losses[start : start + 5], 1)[0] for start in range(11)]
    assert steepest(range(25), losses.tolist()) == int(np.argmin(slopes)) + 2


def test_steepest_descent_of_noisy_losses():
    """In flat parts of the curve, noise causes differences as large as those due to the learning rate."""
    steps = np.linspace(-5, 1, 100)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.15, len(steps))
        losses = 3 - 0.5 * np.tanh(2 * (steps + 2)) + noise
        assert math.log10(steepest(list(10.0**steps), list(losses))) == pytest.approx(-2, abs=0.8), seed


def test_batches_are_those_of_fit(monkeypatch, tmp_path):
    """For 54 images (6 of 60 are held out), `fit` uses batches of 8 instead of the 128 of the recipe."""
    found, calls = rates.Rates((0.1, 1.0), (1.0, 1.0), (1.0, 1.0), 0.1), []
    split = Arrays(np.zeros((60, 4, 4, 1), "uint8"), np.arange(60) % 3)
    monkeypatch.setattr(sources, "load_digits", lambda: make_dataset("few", "", "abc", split, split))
    monkeypatch.setattr(rates, "find_rate", lambda name, dataset, **more: calls.append((dataset, more)) or found)
    words = ["find-rate", "--model", "resnet_8", "--data", "digits", "--output", str(tmp_path / "rates.png")]
    assert main(words) == 0
    ((dataset, more),) = calls
    assert (len(dataset.train), more["recipe"].batch_size) == (54, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "9"], "error: `steps` (=9) must be at least 10."),
        (["--lowest", "1", "--highest", "0.1"], "error: `highest` (=0.1) must be above `lowest` (=1.0)."),
        (["--highest", "inf"], "error: `highest` (=inf) must be a number above 0."),
        (["--output", "rates.pdf"], "error: `--output` (=rates.pdf) must end in .png."),
    ],
)
def test_bad_arguments(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["find-rate", "--model", "resnet_8", "--data", "digits", "--output", "rates.png", *words]) == 2
    assert capsys.readouterr().err == f"{message}\n"
    assert list(tmp_path.iterdir()) == []
