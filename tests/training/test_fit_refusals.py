"""Errors of `fit` before any file is written."""

import dataclasses

import keras
import pytest
from tiny_network import MODEL

from keras_sharenets.training.data.sources import DataSource
from keras_sharenets.training.run.fit import check_tensorboard, fit
from keras_sharenets.training.run.record import RunOptions


def test_nonempty_output_folder(digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("42")
    for output in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match=rf"{output} exists and is not an empty folder"):
            fit(MODEL, digits, output)


def test_output_that_cannot_be_written(digits, tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ValueError, match=r"`output` \(='.*runs/a'\) must be in a folder, but .*runs is a broken link"):
        fit(MODEL, digits, tmp_path / "runs" / "a")


def test_output_among_the_images(digits, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"`output` \(='.*run'\) must not be among the images"):
        fit(MODEL, dataclasses.replace(digits, source=DataSource(str(tmp_path))), tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("hscnet_m32_g4_r2_b1", {}, r"`name` \(='hscnet_m32_g4_r2_b1'\) .* 'hscnet_m32_g4_r2_b1_a2'"),
        (MODEL, {"group": 4}, rf"{MODEL} has no option `group`\. Did you mean 'groups'"),
        (MODEL, {"num_classes": 4}, r"`num_classes` cannot be given: it is determined by the data"),
        (MODEL, {"include_top": False}, r"`include_top` cannot be given: training requires a named classifier"),
        (MODEL, {"groups": 4, "channel_repeats": 3}, r"`channel_repeats` \(=3\) must divide `groups` \(=4\)"),
        (
            MODEL,
            {"width": (32, 64, 128, 256, 512)},
            r"\(=\(8, 8, 1\)\) must be at least the network's total stride \(=16\)",
        ),
    ],
)
def test_bad_networks(digits, tmp_path, model, options, message):
    with pytest.raises(ValueError, match=message):
        fit(model, digits, tmp_path / "run", options=options)
    assert not list(tmp_path.iterdir())


def test_bad_seed(digits, tmp_path):
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(ValueError, match=rf"`seed` \(={seed}\) must be a non-negative integer below 2\*\*32"):
            fit(MODEL, digits, tmp_path / "run", run_options=RunOptions(seed=seed))
    assert not list(tmp_path.iterdir())


def test_precision_chosen_by_time_is_not_deterministic():
    assert RunOptions(deterministic=True, precision="bfloat16").deterministic
    with pytest.raises(ValueError, match=r"`precision` \(='auto'\) depends on times: with `deterministic`"):
        RunOptions(deterministic=True, precision="auto")


def test_bad_tensorboard_options(monkeypatch):
    with pytest.raises(ValueError, match=r"`tensorboard` \(='images'\) must be one of 'graph', 'histograms'"):
        RunOptions(tensorboard=("histograms", "images"))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    check_tensorboard(["histograms"])
    with pytest.raises(ValueError, match=r"`tensorboard` \(='graph'\) requires KERAS_BACKEND=tensorflow"):
        check_tensorboard(["graph"])
