"""Top-5 accuracy for more than 10 classes, and the default crops of `evaluate`."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from made_up_runs import fake_run

from keras_sharenets import files
from keras_sharenets.training.data.dataset import Arrays, Files, make_dataset
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.reports.evaluate import Evaluation, evaluate
from keras_sharenets.training.run.finished import crops_of_file
from keras_sharenets.training.run.fit import fit, resume
from keras_sharenets.training.run.record import RunOptions, write_metrics
from keras_sharenets.training.run.recorder import Recorder, list_checkpoints
from trainers.cli import main

RECIPE = override(find_recipe("digits"), epochs=2, batch_size=24)
OPTIONS = RunOptions(jit_compile=False)


def random_images(classes):
    """A data set of few random images, from which a network learns hardly anything."""
    random = np.random.default_rng(0)
    parts = [
        Arrays(random.integers(0, 256, (4 * classes, 8, 8, 1), np.uint8), np.repeat(np.arange(classes), 4))
        for _ in range(2)
    ]
    return make_dataset("random", "noise", [f"class{label}" for label in range(classes)], *parts)


@pytest.mark.usefixtures("quick_network")
def test_top5_accuracy_of_a_run_matches_its_file(tmp_path):
    dataset = random_images(12)
    run = fit("resnet_8", dataset, tmp_path / "run", recipe=RECIPE, run_options=OPTIONS, verbose=0)
    path = tmp_path / "run" / "last.keras"
    probabilities = files.load_model(path).predict(dataset.test.images.astype("float32"), verbose=0)
    ranks = (probabilities > probabilities[np.arange(48), dataset.test.labels][:, None]).sum(axis=1)
    expected = int((ranks < 5).sum())
    assert 0 < int((ranks < 1).sum()) < expected < 48
    assert run.last.test_top5_accuracy == pytest.approx(expected / 48)
    found = evaluate(path, dataset)
    assert (found.correct, found.correct_top5) == (int((ranks < 1).sum()), expected)
    header, *rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[header.split(",").index("test_top5_accuracy")]) == run.last.test_top5_accuracy


@pytest.mark.usefixtures("quick_network")
def test_old_checkpoint_without_top5(tmp_path, monkeypatch):
    """A checkpoint within an epoch that lacks the two variables of the metric."""
    dataset = random_images(12)

    def stop(self, batch, logs=None):
        self._step = 1
        self._save_checkpoint()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            fit("resnet_8", dataset, tmp_path / "run", recipe=RECIPE, run_options=OPTIONS, verbose=0)
    (path,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    with np.load(path) as file:
        arrays = dict(file)
    names = sorted(name for name in arrays if name.startswith("metrics/"))
    assert len(names) == 6
    for name in names[-2:]:
        del arrays[name]
    state = json.loads(arrays.pop("state").item())
    np.savez(path, state=json.dumps(state), **arrays)
    run = resume(tmp_path / "run", dataset, verbose=0)
    assert run.state == "finished"
    assert run.last.test_top5_accuracy is not None


@pytest.mark.usefixtures("quick_network")
def test_no_top5_accuracy_for_few_classes(tmp_path):
    run = fit("resnet_8", random_images(10), tmp_path / "run", recipe=RECIPE, run_options=OPTIONS, verbose=0)
    assert run.last.test_top5_accuracy is None
    assert "top5" not in (tmp_path / "run" / "history.csv").read_text()
    assert evaluate(tmp_path / "run" / "last.keras", random_images(10)).top5_accuracy is None


def test_default_crops_are_those_of_the_run(tmp_path, capsys, monkeypatch):
    """`evaluate` uses the same crops as `fit` by default."""
    monkeypatch.chdir(tmp_path)
    write_metrics(
        fake_run("resnet_8", 0, 0.5, override(RECIPE, crop="area", crop_size=6)), tmp_path / "run/metrics.json"
    )
    write_metrics(fake_run("resnet_8", 0, 0.5, RECIPE), tmp_path / "whole/metrics.json")
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(inputs)))
    for name in ("run/last.keras", "run/export/model.keras", "run/export/hub/model.keras"):
        files.save_model(model, tmp_path / name)
        assert crops_of_file(tmp_path / name) == "center"
    files.write_json(tmp_path / "upload" / "export.json", {"run": "../run"})
    assert crops_of_file("upload/hub/model.keras") == crops_of_file("upload/saved_model") == "center"
    files.write_json(tmp_path / "old" / "export.json", {"model": "resnet_8"})
    assert crops_of_file("old/int8.tflite") == "none"
    assert [crops_of_file(place) for place in ("whole/last.keras", "elsewhere.keras")] == ["none", "none"]
    (tmp_path / "link.keras").symlink_to("run/last.keras")
    assert crops_of_file("link.keras") == "center"
    recipe = dataclasses.asdict(override(RECIPE, crop="area", crop_size=6))
    files.write_json(tmp_path / "search" / "search.json", {"recipe": recipe})
    assert crops_of_file("search/winner/int8.tflite") == "center"
    files.write_json(tmp_path / "other" / "metrics.json", {"accuracy": 1})  # Of another program.
    with pytest.warns(UserWarning, match=r"metrics\.json is not the record of a run.*belongs to no run"):
        assert crops_of_file("other/net.keras") == "none"
    assert main(["evaluate", "run/last.keras", "--data", "digits", "--json", "found.json"]) == 0
    text, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert "on the center crop of images resized so that the short side is 8/7 of the crop" in text
    assert (found["crops"], found["error_rate"]) == ("center", pytest.approx(1 - found["accuracy"]))
    assert main(["evaluate", "run/last.keras", "--data", "digits", "--crops", "none"]) == 2


def test_images_of_any_size(tmp_path):
    """A network without a fixed input size sees each image as it is; it finds the brightest channel."""
    inputs = keras.Input((None, None, 3))
    scores = keras.layers.GlobalAveragePooling2D()(inputs)
    files.save_model(keras.Model(inputs, keras.layers.Softmax()(scores)), tmp_path / "net.keras")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (5 + number, 9 - number, 3), np.uint8) for number in range(6)]
    brightest = np.array([image.mean(axis=(0, 1)).argmax() for image in images])
    labels = np.array([brightest[0], *(brightest[1:] + 1) % 3])
    part = Files(tuple(range(6)), labels, (None, None, 3), False, lambda number, shape: images[number])
    dataset = make_dataset("sizes", "noise", ("red", "green", "blue"), part, part)
    assert evaluate(tmp_path / "net.keras", dataset).correct == 1
    with pytest.raises(ValueError, match=r"`crops` \(='center'\) must be 'none': .* takes images of any size"):
        evaluate(tmp_path / "net.keras", dataset, "center")


def test_top5_accuracy_of_an_evaluation():
    assert Evaluation("net.keras", "data", 1, 4).top5_accuracy is None
    assert Evaluation("net.keras", "data", 1, 4, 3).top5_accuracy == 0.75
