import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest

from keras_sharenets import files
from trainers.callbacks import EXTRAS, check_tensorboard
from trainers.data import load
from trainers.dataset import Arrays
from trainers.evaluate import evaluate
from trainers.fit import fit
from trainers.optimizers import build_optimizer
from trainers.recipes import override, recipe_for
from trainers.recorder import Recorder
from trainers.report import Run

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "hscnet_m32_g4_r2_b1_a2"
# One stage: a third of the layers to compile.
TINY = {"width": (16,), "shuffle_groups": 1, "arrangements": 1}


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=3, batch_size=128, label_smoothing=0.1)


@pytest.fixture(scope="module")
def run(digits, recipe, tmp_path_factory):
    """A finished run with all defaults, XLA included, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "deeper" / "run"
    extras = EXTRAS if keras.backend.backend() == "tensorflow" else ("histograms",)
    settings = {"recipe": recipe, "options": TINY, "seed": 3, "tensorboard": extras}
    return fit(MODEL, digits, folder, verbose=0, **settings), folder


def accuracy_by_hand(path, dataset):
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
    with PIL.Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        assert len(set(picture.convert("RGB").resize((200, 80)).getdata())) > 20


def test_metrics_say_what_went_in(run, digits, recipe):
    metrics = json.loads((run[1] / "metrics.json").read_text())
    assert metrics["model"] == MODEL
    assert metrics["options"] == {"width": [16], "shuffle_groups": 1, "arrangements": 1}
    assert metrics["recipe"] == {**dataclasses.asdict(recipe), "milestones": list(recipe.milestones)}
    assert (metrics["seed"], metrics["jit_compile"], metrics["backend"]) == (3, "auto", keras.backend.backend())
    assert metrics["versions"]["keras"] == keras.__version__
    assert metrics["versions"]["numpy"] == np.__version__
    data = metrics["data"]
    assert (data["name"], data["note"], data["class_names"]) == ("digits", digits.note, list("0123456789"))
    assert (data["train"], data["test"], data["shape"]) == (1438, 359, [8, 8, 1])
    assert (data["mean"], data["variance"]) == (list(digits.mean), list(digits.variance))


def test_metrics_say_what_came_out(run):
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
    # Half a cosine from 0.1, seen at the first step of each of 3 epochs: 0.1, 0.075, 0.025.
    assert [epoch["learning_rate"] for epoch in metrics["epochs"]] == pytest.approx([0.1, 0.075, 0.025], rel=1e-5)
    # It learns: the loss falls from epoch to epoch.
    losses = [epoch["loss"] for epoch in metrics["epochs"]]
    assert losses[0] > losses[1] > losses[2]


def test_history_has_the_same_figures(run):
    with open(run[1] / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == json.loads((run[1] / "metrics.json").read_text())["epochs"]


def test_saved_models_have_the_accuracy_that_is_reported(run, digits):
    result, folder = run
    for name, epoch in (("last", result.last), ("best", result.best)):
        by_hand = accuracy_by_hand(folder / f"{name}.keras", digits)
        assert by_hand == pytest.approx(epoch.test_accuracy, abs=1e-6)
        evaluation = evaluate(folder / f"{name}.keras", digits)
        assert (evaluation.correct, evaluation.pictures) == (round(by_hand * 359), 359)
        assert evaluation.accuracy == by_hand


def test_saved_models_are_for_delivery(run):
    """Without an optimizer, so that anybody can load them and no momentum is shipped."""
    path = run[1] / "last.keras"
    model = keras.saving.load_model(path)
    assert getattr(model, "optimizer", None) is None
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("config.json")).get("compile_config") == {}
    assert isinstance(model.layers[1], keras.layers.Normalization)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))


def test_a_run_can_be_repeated(run, digits, recipe, tmp_path):
    again = fit(MODEL, digits, tmp_path / "run", recipe=recipe, options=TINY, seed=3, verbose=0)
    assert again.epochs[0].loss == pytest.approx(run[0].epochs[0].loss, rel=1e-3)


def test_evaluate_refuses_other_data(run, digits, tmp_path):
    other = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"classes of .*labels\.txt \(0, 1, .*\) are not those of digits"):
        evaluate(run[1] / "last.keras", other)
    model = tmp_path / "alone.keras"
    model.write_bytes((run[1] / "last.keras").read_bytes())
    with pytest.raises(ValueError, match=r"gives \(10,\) numbers a picture, but digits has 12 classes"):
        evaluate(model, dataclasses.replace(digits, class_names=tuple("abcdefghijkl")))
    with pytest.raises(
        ValueError, match=r"takes pictures of the shape \(8, 8, 1\), but those of digits are \(9, 8, 1\)"
    ):
        evaluate(model, dataclasses.replace(digits, shape=(9, 8, 1)))
    with pytest.raises(ValueError, match=r"There is no file .*none\.keras"):
        evaluate(tmp_path / "none.keras", digits)
    with pytest.raises(ValueError, match=r"model\.h5 is neither a \.keras nor a \.tflite file"):
        evaluate(tmp_path / "model.h5", digits)


# What is refused before anything is written


def test_folder_that_holds_a_run(run, digits):
    before = {path: path.read_bytes() for path in run[1].glob("*.*")}
    with pytest.raises(ValueError, match=rf"{run[1]} already holds a run"):
        fit("no such model either", digits, run[1])
    assert {path: path.read_bytes() for path in run[1].glob("*.*")} == before


def test_folder_that_holds_something_else(digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("42")
    for output in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match=rf"{output} exists and is not an empty folder"):
            fit(MODEL, digits, output)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("hscnet_m32_g4_r2_b1", {}, r"`name` \(='hscnet_m32_g4_r2_b1'\) .* 'hscnet_m32_g4_r2_b1_a2'"),
        (MODEL, {"group": 4}, rf"{MODEL} has no option `group`\. Did you mean 'groups'"),
        (MODEL, {"num_classes": 4}, r"`num_classes` cannot be given: it follows from the data"),
        (MODEL, {"include_top": False}, r"`include_top` cannot be given: a trained network is a named classifier"),
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
    with pytest.raises(ValueError, match=r"`seed` \(=-1\) must be a whole number of at least 0"):
        fit(MODEL, digits, tmp_path / "run", seed=-1)
    assert not list(tmp_path.iterdir())


def test_what_tensorboard_cannot_have(monkeypatch):
    with pytest.raises(ValueError, match=r"`tensorboard` \(='images'\) must be one of 'graph', 'histograms'"):
        check_tensorboard(["histograms", "images"])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    check_tensorboard(["histograms"])
    with pytest.raises(ValueError, match=r"`tensorboard` \(='graph'\) needs KERAS_BACKEND=tensorflow"):
        check_tensorboard(["graph"])


# What goes wrong on the way


def test_loss_that_is_no_number_stops_the_run(digits, recipe, tmp_path):
    wild = override(recipe, learning_rate=1e30)
    with pytest.raises(
        ValueError, match=r"The loss is (nan|inf) after step \d+ of epoch 1\. Try a smaller `learning_rate`"
    ):
        fit(MODEL, digits, tmp_path / "run", recipe=wild, options=TINY, jit_compile=False, verbose=0)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["state"], metrics["epochs"], metrics["test_accuracy"]) == ("stopped", [], None)
    assert metrics["reason"].startswith("ValueError: The loss is")
    assert not list((tmp_path / "run").glob("*.keras"))


def test_recorder_keeps_the_first_of_the_best(digits, recipe, tmp_path):
    """Driven by hand: the weight of every epoch is its number, so a file tells when it was saved."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(build_optimizer(recipe, steps_per_epoch=1), "mse")
    start = Run("dense", {}, {"name": "d", "class_names": ["a", "b"]}, recipe, 0, "tensorflow", "auto", {})
    recorder = Recorder(network, tmp_path / "run", start, steps=1)
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
    # JSON knows no NaN.
    assert [epoch["test_loss"] for epoch in metrics()["epochs"]] == [1.0, 1.0, None, 1.0]
    recorder.close("finished")
    assert (metrics()["state"], metrics()["test_accuracy"]) == ("finished", 0.6)
    assert (tmp_path / "run" / "curves.png").is_file()


# Other processes: what a signal leaves behind, and the other backend


def start_long_training(folder):
    """`python -m trainers fit` in a process of its own.

    Without XLA, because it starts sooner; 359 steps an epoch, so that a signal has time to arrive in.
    """
    arguments = ["fit", "--model", MODEL, "--data", "digits", "--output", str(folder)]
    for key, value in TINY.items():
        arguments += ["--model-option", f"{key}={value}"]
    arguments += ["--epochs=50", "--batch-size=4", "--learning-rate=0.01", "--jit-compile=false"]
    return subprocess.Popen(
        [sys.executable, "-m", "trainers", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell starts in the background ignores an interrupt, and so do its children unless told otherwise.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_into(process, epoch):
    """Reads the progress bar, which is not drawn at every step, until that epoch is well on its way."""
    text = ""
    while chunk := os.read(process.stdout.fileno(), 4096).decode(errors="ignore"):
        text += chunk
        if any(int(step) >= 20 for step in re.findall(r"(\d+)/359", text.partition(f"Epoch {epoch}/")[2])):
            return
    raise AssertionError(f"ended with {process.wait()} before epoch {epoch}: {process.stderr.read().decode()}")


def check_whole(folder, epochs):
    """Every file is whole, and speaks of that many finished epochs."""
    names = {path.name for path in folder.iterdir()}
    assert {"metrics.json", "history.csv", "labels.txt"} <= names
    assert {name for name in names if name.endswith(".keras")} == ({"best.keras", "last.keras"} if epochs else set())
    assert not [name for name in names if name.endswith(".partial")]
    for path in folder.glob("*.keras"):
        assert files.load_model(path).output_shape == (None, 10)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics["epochs"]) == epochs
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + epochs
    return metrics


@pytest.mark.parametrize("epoch", [1, 2])
def test_kill_in_the_middle_of_an_epoch_leaves_whole_files(tmp_path, epoch):
    process = start_long_training(tmp_path / "run")
    with process:
        read_into(process, epoch)
        process.kill()
    assert process.returncode == -9
    metrics = check_whole(tmp_path / "run", epochs=epoch - 1)
    assert (metrics["state"], metrics["test_accuracy"]) == ("running", None)


def test_interrupt_is_noted(tmp_path):
    process = start_long_training(tmp_path / "run")
    with process:
        read_into(process, 2)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    metrics = check_whole(tmp_path / "run", epochs=1)
    assert (metrics["state"], metrics["reason"]) == ("stopped", "KeyboardInterrupt")
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the JAX run")
def test_all_of_this_on_jax():
    tests = {
        "test_data.py": ["test_fit_takes_the_batches_in_order_epoch_by_epoch"],
        "test_recipes.py": ["test_weight_decay_counts_a_shared_tensor_once", "test_weight_decay_in_the_loss"],
        "test_fit.py": [
            "test_files_of_a_run",
            "test_metrics_say_what_came_out",
            "test_saved_models_have_the_accuracy_that_is_reported",
        ],
        "test_resume.py": ["test_a_checkpoint_holds_all_that_the_next_steps_depend_on"],
    }
    names = [f"tests/trainers/{file}::{name}" for file, names in tests.items() for name in names]
    command = [sys.executable, "-m", "pytest", "-q", *names]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "7 passed" in result.stdout


def test_real_pictures_from_a_folder(tmp_path):
    """A folder of pictures, decoded batch by batch: red ones, green ones and blue ones."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 100, (8, 8, 3), dtype="uint8")
            pixels[..., channel] += 120
            PIL.Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{number}.png")
    dataset = load(tmp_path / "colours")
    changes = {"epochs": 8, "batch_size": 12, "learning_rate": 0.05, "schedule": "cosine"}
    settings = override(recipe_for(MODEL, dataset.name), **changes)
    run = fit(MODEL, dataset, tmp_path / "run", recipe=settings, options=TINY, jit_compile=False, verbose=0)
    assert run.test_accuracy == 1.0
    assert (tmp_path / "run" / "labels.txt").read_text() == "blue\ngreen\nred\n"


def test_real_cifar10_pictures(cifar10, tmp_path):
    """The first 600 of them, twice, with the paper's recipe shortened."""
    few = [Arrays(source.images[:600], source.labels[:600]) for source in (cifar10.train, cifar10.test)]
    dataset = dataclasses.replace(cifar10, train=few[0], test=few[1])
    recipe = override(recipe_for(MODEL, "cifar10"), epochs=2, batch_size=100)
    run = fit(MODEL, dataset, tmp_path / "run", recipe=recipe, options=TINY, jit_compile=False, verbose=0)
    assert run.epochs[1].loss < run.epochs[0].loss
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["data"]["note"], metrics["data"]["train"]) == (cifar10.note, 600)
    assert "airplane\nautomobile" in (tmp_path / "run" / "labels.txt").read_text()
