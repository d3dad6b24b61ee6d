"""A run of `fit`: its files and their contents, during and after training."""

import csv
import dataclasses
import json
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
from tiny_network import MODEL, TINY

from keras_sharenets import files
from keras_sharenets.interruption import Request
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.recipes.optimization import build_optimizer
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.record import TENSORBOARD, Run, RunOptions
from keras_sharenets.training.run.recorder import Recorder

TRACED = True  # These tests compile the training step.


@pytest.fixture(scope="module")
def recipe():
    # Numbers of NumPy, as from a grid of settings, become those of Python.
    changes = {"epochs": np.int64(3), "flip": np.bool_(False)}
    return override(recipe_for(MODEL, "digits"), batch_size=128, label_smoothing=0.1, **changes)


@pytest.fixture(scope="module", autouse=True)
def learning_curves():
    """Enables learning curves in this module."""


@pytest.fixture(scope="module")
def run(digits, recipe, quick_network, tmp_path_factory):
    """A finished run with default settings, including XLA, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "deeper" / "run"
    extras = TENSORBOARD if keras.backend.backend() == "tensorflow" else ("histograms",)
    options = {**TINY, "width": (np.int64(16),)}
    settings = {"recipe": recipe, "options": options, "run_options": RunOptions(seed=np.int64(3), tensorboard=extras)}
    return fit(MODEL, digits, folder, verbose=0, **settings), folder


def compute_accuracy(path, dataset):
    model = files.load_model(path)
    right = 0
    for start in range(0, len(dataset.test), 100):
        pixels = dataset.test.pixels(np.arange(start, min(start + 100, len(dataset.test)))).astype("float32")
        guesses = keras.ops.convert_to_numpy(model(pixels)).argmax(axis=1)
        right += (guesses == dataset.test.labels[start : start + 100]).sum()
    return right / len(dataset.test)


def test_files_of_a_run(run):
    _, folder = run
    names = {
        "best.keras",
        "last.keras",
        "labels.txt",
        "metrics.json",
        "history.csv",
        "curves.png",
        "run.yaml",
        "logs",
        "checkpoints",
    }
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "labels.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
    for split in ("train", "validation"):
        assert [path.stat().st_size > 0 for path in (folder / "logs" / split).glob("events.*")] == [True]
    written = b"".join(path.read_bytes() for path in (folder / "logs" / "train").glob("events.*"))
    assert b"epoch_accuracy" in written
    assert b"gamma/histogram" in written
    assert (b"keras" in written) == (keras.backend.backend() == "tensorflow")  # The graph's tag.
    with PIL.Image.open(folder / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1000
        assert len(set(image.convert("RGB").resize((200, 80)).getdata())) > 20


def test_metrics_contain_settings(run, digits, recipe):
    metrics = json.loads((run[1] / "metrics.json").read_text())
    assert metrics["model"] == MODEL
    assert metrics["options"] == {"width": [16], "shuffle_groups": 1, "arrangements": 1}
    assert metrics["recipe"] == {**dataclasses.asdict(recipe), "milestones": list(recipe.milestones)}
    assert (metrics["seed"], metrics["jit_compile"], metrics["backend"]) == (3, "auto", keras.backend.backend())
    assert metrics["dropout_rate"] == 0.0
    assert metrics["versions"]["keras"] == keras.__version__
    assert metrics["versions"]["numpy"] == np.__version__
    data = metrics["data"]
    assert (data["name"], data["note"], data["class_names"]) == ("digits", digits.note, list("0123456789"))
    assert (data["train"], data["test"], data["shape"]) == (1438, 359, [8, 8, 1])
    assert (data["mean"], data["variance"]) == (list(digits.mean), list(digits.variance))


def test_metrics_contain_results(run):
    result, folder = run
    metrics = json.loads((folder / "metrics.json").read_text())
    accuracies = [epoch["test_accuracy"] for epoch in metrics["epochs"]]
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    assert (metrics["state"], metrics["reason"]) == ("finished", None)
    assert metrics["last"] == {"epoch": 3, "test_accuracy": accuracies[2], "file": "last.keras"}
    best = accuracies.index(max(accuracies))
    assert metrics["best"] == {"epoch": best + 1, "test_accuracy": accuracies[best], "file": "best.keras"}
    assert metrics["test_accuracy"] == accuracies[2] == result.test_accuracy
    assert "best.keras is chosen on the test split" in metrics["accuracy_note"]
    assert metrics["seconds"] > sum(epoch["seconds"] for epoch in metrics["epochs"]) > 0
    # A cosine schedule from 0.1, at the first step of each of 3 epochs: 0.1, 0.075, 0.025.
    assert [epoch["learning_rate"] for epoch in metrics["epochs"]] == pytest.approx([0.1, 0.075, 0.025], rel=1e-5)
    # The loss decreases in every epoch.
    losses = [epoch["loss"] for epoch in metrics["epochs"]]
    assert losses[0] > losses[1] > losses[2]


def test_history_equals_metrics(run):
    with open(run[1] / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    epochs = json.loads((run[1] / "metrics.json").read_text())["epochs"]
    others = ("validation_loss", "validation_accuracy", "test_top5_accuracy", "validation_top5_accuracy")
    assert {epoch.pop(name) for epoch in epochs for name in others} == {None}
    assert rows == epochs


def test_saved_models_have_the_reported_accuracy(run, digits):
    result, folder = run
    for name, epoch in (("last", result.last), ("best", result.best)):
        by_hand = compute_accuracy(folder / f"{name}.keras", digits)
        assert by_hand == pytest.approx(epoch.test_accuracy, abs=1e-6)
        evaluation = evaluate(folder / f"{name}.keras", digits)
        assert (evaluation.correct, evaluation.images) == (round(by_hand * 359), 359)
        assert evaluation.accuracy == by_hand


def test_saved_models_have_no_optimizer(run):
    """Anyone can load them, and they contain no momentum."""
    path = run[1] / "last.keras"
    model = keras.saving.load_model(path)
    assert getattr(model, "optimizer", None) is None
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("config.json")).get("compile_config") == {}
    assert isinstance(model.layers[1], keras.layers.Normalization)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))


@pytest.mark.parametrize("jit_compile", [False, pytest.param("auto", marks=pytest.mark.slow)])
def test_run_is_reproducible(jit_compile, run, digits, recipe, tmp_path):
    """Without XLA, results differ only in rounding."""
    settings = {"recipe": recipe, "options": TINY, "run_options": RunOptions(seed=3, jit_compile=jit_compile)}
    again = fit(MODEL, digits, tmp_path / "run", verbose=0, **settings)
    assert again.epochs[0].loss == pytest.approx(run[0].epochs[0].loss, rel=1e-3)


def test_evaluate_rejects_other_data(run, digits, tmp_path):
    other = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"classes in .*labels\.txt \(0, 1, .*\) differ from those of digits"):
        evaluate(run[1] / "last.keras", other)
    model = tmp_path / "alone.keras"
    model.write_bytes((run[1] / "last.keras").read_bytes())
    with pytest.raises(ValueError, match="has 10 outputs for 10 classes, but digits has 12 classes"):
        evaluate(model, dataclasses.replace(digits, class_names=tuple("abcdefghijkl")))
    with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 1\), but those of digits have \(9, 8, 1\)"):
        evaluate(model, dataclasses.replace(digits, shape=(9, 8, 1)))
    with pytest.raises(ValueError, match=r"There is no file .*none\.keras"):
        evaluate(tmp_path / "none.keras", digits)
    with pytest.raises(ValueError, match=r"model\.h5 is neither a \.keras nor a \.tflite file"):
        evaluate(tmp_path / "model.h5", digits)


def test_existing_run_is_not_overwritten(run, digits):
    before = {path: path.read_bytes() for path in run[1].glob("*.*")}
    with pytest.raises(ValueError, match=rf"{run[1]} already contains a run"):
        fit("no such model either", digits, run[1])
    assert {path: path.read_bytes() for path in run[1].glob("*.*")} == before


def test_non_finite_loss_stops_the_run(digits, recipe, quick_network, tmp_path):
    wild, plain = override(recipe, learning_rate=1e30), RunOptions(jit_compile=False)
    with pytest.raises(
        ValueError, match=r"The loss is (nan|inf) after step \d+ of epoch 1\. Try a smaller `learning_rate`"
    ):
        fit(MODEL, digits, tmp_path / "run", recipe=wild, options=TINY, run_options=plain, verbose=0)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["state"], metrics["epochs"], metrics["test_accuracy"]) == ("stopped", [], None)
    assert metrics["reason"].startswith("ValueError: The loss is")
    assert not list((tmp_path / "run").glob("*.keras"))


def test_recorder_keeps_the_first_best_epoch(digits, recipe, tmp_path):
    """The weight equals the number of the epoch, so a file shows when it was saved."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(build_optimizer(recipe, steps_per_epoch=1), "mse")
    data = {"name": "d", "class_names": ["a", "b"]}
    start = Run(model="dense", options={}, data=data, recipe=recipe, backend="tensorflow", versions={})
    recorder = Recorder(
        network, tmp_path / "run", start, steps=1, deliver=lambda: None, request=Request(), gather=Devices().gather
    )
    recorder.set_model(network)

    def metrics():
        return json.loads((tmp_path / "run" / "metrics.json").read_text())

    def weight(name):
        return files.load_model(tmp_path / "run" / name).get_weights()[0].item()

    assert (metrics()["state"], metrics()["last"], metrics()["epochs"]) == ("running", None, [])
    assert (tmp_path / "run" / "history.csv").read_text().startswith("epoch,loss,accuracy,test_loss,test_accuracy")
    best_file = []
    for epoch, accuracy in enumerate([0.5, 0.7, 0.7, 0.6]):
        network.set_weights([np.full((1, 1), epoch + 1.0)])
        recorder.on_epoch_begin(epoch)
        test_loss = float("nan") if epoch == 2 else 1.0
        recorder.on_epoch_end(epoch, {"loss": 2.0, "accuracy": 0.1, "val_loss": test_loss, "val_accuracy": accuracy})
        assert weight("last.keras") == metrics()["last"]["epoch"] == epoch + 1
        assert weight("best.keras") == metrics()["best"]["epoch"]
        assert (metrics()["state"], metrics()["test_accuracy"]) == ("running", None)
        best_file.append(weight("best.keras"))
    assert best_file == [1, 2, 2, 2]
    # JSON has no NaN.
    assert [epoch["test_loss"] for epoch in metrics()["epochs"]] == [1.0, 1.0, None, 1.0]
    recorder.close("finished")
    assert (metrics()["state"], metrics()["test_accuracy"]) == ("finished", 0.6)
    assert (tmp_path / "run" / "curves.png").is_file()
