"""Distribution strategies in one process: arguments, and the division of batches and steps."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_sharenets.training.run.fit
import keras_sharenets.training.run.loop
from keras_sharenets import files
from keras_sharenets.training.data.batches import EvenBatches, as_tf_data, held_out_batches, training_batches
from keras_sharenets.training.devices.cluster import read_cluster
from keras_sharenets.training.devices.devices import Devices, check_alike, check_fits, connect
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.network import compile_model
from keras_sharenets.training.run.record import RunOptions, read_metrics
from keras_sharenets.training.run.recorder import list_checkpoints
from trainers.cli import main

TRACED = True  # Several steps per execution require a graph.
MODEL = "hscnet_m32_g4_r2_b1_a2"
TINY = {"width": (16,), "shuffle_groups": 1, "arrangements": 1}
CLUSTER = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=1, batch_size=64, learning_rate=0.03)


def test_unknown_strategy():
    with pytest.raises(ValueError, match=r"`strategy` \(='two'\) must be one of 'default', 'mirrored'"):
        connect("two")


def test_read_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(CLUSTER))
    assert read_cluster() == (["a:1", "b:2"], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"needs the environment variable TF_CONFIG, like \{"),
        ("{", "TF_CONFIG .* must be like .*JSONDecodeError"),
        ("{}", "KeyError: 'cluster'"),
        (json.dumps(CLUSTER).replace("b:2", "b"), "must be like"),
        (json.dumps(CLUSTER).replace("b:2", "b:c"), "invalid literal"),
        (json.dumps(CLUSTER).replace("b:2", "b:65536"), "a port must be a number from 1 to 65535"),
        (json.dumps(CLUSTER).replace("b:2", "a:1"), "the addresses of the workers must be distinct"),
        (json.dumps(CLUSTER).replace('"index": 1', '"index": true'), "the index must count them from 0"),
        (json.dumps(CLUSTER).replace('"index": 1', '"index": 2'), "the index must count them from 0"),
        (json.dumps(CLUSTER).replace('"worker", "index"', '"chief", "index"'), "all tasks must be of type worker"),
        (json.dumps(CLUSTER).replace('"worker": [', '"ps": [], "worker": ['), "all tasks must be of type worker"),
    ],
)
def test_bad_tf_config(text, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        read_cluster()


def test_arguments_that_do_not_fit_the_devices(digits, recipe):
    three = Devices("mirrored", replicas=3)
    with pytest.raises(ValueError, match=r"`devices` \(=3\) must divide `batch_size` \(=64\)"):
        check_fits(three, training_batches(digits, recipe, 0), "auto")
    large = training_batches(digits, override(recipe, batch_size=1500), 0)
    with pytest.raises(ValueError, match=r"`batch_size` \(=1500\) must be at most .* \(=1438\)"):
        check_fits(three, large, "auto")
    check_fits(Devices(), large, True)
    check_fits(three, training_batches(digits, override(recipe, batch_size=66), 0), False)
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match=r"`jit_compile` \(=True\) must be 'auto' or False"):
            check_fits(three, training_batches(digits, override(recipe, batch_size=66), 0), True)


@pytest.fixture(scope="module")
def run(digits, recipe, quick_network, tmp_path_factory):
    """A run on one device with one step per execution, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    options = RunOptions(jit_compile=False)
    return fit(MODEL, digits, folder, recipe=recipe, options=TINY, run_options=options, verbose=0), folder


def test_workers_compare_their_settings(run):
    run, folder = run
    marks = []
    alone = Devices(gather=lambda number: marks.append(number) or [number])
    for change in ({}, {"seconds": 1.0, "versions": {}}, {"seed": 1}, {"model": "other"}):
        check_alike(alone, dataclasses.replace(run, **change), 5)
    check_alike(alone, run, 6)
    # Tuples become lists in the file.
    check_alike(alone, read_metrics(folder / "metrics.json"), 5)
    assert len(set(marks)) == 4
    assert marks[0] == marks[1] == marks[5]
    assert all(mark in range(2**31) for mark in marks)
    with pytest.raises(ValueError, match="The workers differ in model, data"):
        check_alike(Devices(gather=lambda number: [number, number + 1]), run, 5)


def test_even_batches_give_the_means_of_all_images(digits):
    """Two workers share 359 images in batches of 64: each occurs once, and the metrics are those of all images."""
    held_out = held_out_batches(digits, 64)
    parts = [EvenBatches(held_out, worker, 2) for worker in range(2)]
    batches = [parts[worker].batch(0, index) for index in range(6) for worker in range(2)]
    assert {tuple(map(len, batch)) for batch in batches} == {(32, 32, 32)}
    images, labels, weights = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    real = weights > 0
    np.testing.assert_array_equal(images[real], digits.test.pixels(np.arange(359)))
    np.testing.assert_array_equal(labels[real].argmax(-1), digits.test.labels)
    inputs = keras.Input(digits.shape)
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", kernel_regularizer="l2")(hidden))
    model.compile("sgd", "categorical_crossentropy", weighted_metrics=["accuracy"], jit_compile=False)
    even = model.evaluate(EvenBatches(held_out, 0, 1), verbose=0)
    np.testing.assert_allclose(even, model.evaluate(held_out, verbose=0), rtol=1e-5)


def test_steps_per_execution_do_not_change_results(run, digits, recipe, quick_network, tmp_path, monkeypatch):
    """22 steps with at most 8 per execution and a checkpoint every 4 steps: 4 per execution, and 2 at the end."""
    run_options = RunOptions(jit_compile=False, checkpoint_steps=4, keep_checkpoints=9)
    settings = {"recipe": recipe, "options": TINY, "run_options": run_options, "verbose": 0}
    one, _ = run
    monkeypatch.setattr(keras_sharenets.training.run.fit, "connect", lambda strategy: Devices(steps_per_execution=8))
    many = fit(MODEL, digits, tmp_path / "many", **settings)
    names = [path.name for path in list_checkpoints(tmp_path / "many" / "checkpoints")]
    assert names == [f"{step:09d}.npz" for step in (4, 8, 12, 16, 20, 22)]
    for name in ("loss", "accuracy", "test_loss", "test_accuracy", "learning_rate"):
        assert getattr(many.last, name) == pytest.approx(getattr(one.last, name), abs=1e-5)


def test_tpu_settings_on_a_cpu(digits, recipe, quick_network, tmp_path, monkeypatch):
    """Training with fixed shapes, bfloat16, and several steps per execution gives an ordinary file."""
    feed = as_tf_data if keras.backend.backend() == "tensorflow" else lambda batches: batches
    devices = Devices("tpu", feed=feed, policy="mixed_bfloat16", steps_per_execution=4)
    monkeypatch.setattr(keras_sharenets.training.run.fit, "connect", lambda strategy: devices)
    compiled = []
    monkeypatch.setattr(
        keras_sharenets.training.run.loop,
        "compile_model",
        lambda *args, **more: compiled.append(compile_model(*args, **more)) or compiled[0],
    )
    settings = {"recipe": override(recipe, epochs=2, batch_size=256), "options": TINY, "verbose": 0}
    run = fit(MODEL, digits, tmp_path / "run", **settings)
    monkeypatch.undo()
    plain = fit(MODEL, digits, tmp_path / "plain", run_options=RunOptions(jit_compile=False), **settings)
    assert [epoch.loss for epoch in run.epochs] == pytest.approx([epoch.loss for epoch in plain.epochs], abs=0.05)
    computing = [
        layer for layer in compiled[0].layers[2:] if layer.name != "predictions"
    ]  # Probabilities remain float32.
    assert {layer.compute_dtype for layer in computing} == {"bfloat16"}
    assert all(weight.dtype == "float32" for weight in compiled[0].trainable_weights)
    network = files.load_model(tmp_path / "run" / "last.keras")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert not any(getattr(layer, "synchronized", False) for layer in network.layers)
    assert keras.config.dtype_policy().name == "float32"
    # The file contains the trained weights and thus has their accuracy.
    predicted = network.predict(digits.test.pixels(np.arange(359)), verbose=0).argmax(-1)
    assert np.mean(predicted == digits.test.labels) == pytest.approx(run.test_accuracy, abs=0.05)
    for batches in (training_batches(digits, recipe, 0), EvenBatches(held_out_batches(digits, 64), 0, 1)):
        assert all(spec.shape.is_fully_defined() for spec in as_tf_data(batches).element_spec)


def test_missing_tpu(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    arguments = ["--model", MODEL, "--data", "digits", "--output", str(tmp_path / "run"), "--strategy", "tpu"]
    assert main(["fit", *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: `strategy` (='tpu') needs a TPU, but ")
    assert "See docs/gpu_tpu.md for how to start one." in errors[-1]
    assert not (tmp_path / "run").exists()


def test_missing_cluster(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    arguments = ["--model", MODEL, "--data", "digits", "--output", str(tmp_path / "run"), "--strategy", "multi_worker"]
    assert main(["fit", *arguments]) == 2
    assert "needs the environment variable TF_CONFIG" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
