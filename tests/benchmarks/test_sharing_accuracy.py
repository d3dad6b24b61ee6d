import json
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from benchmarks import sharing_accuracy
from benchmarks.cli import main
from keras_sharenets.training.data.dataset import Arrays

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def small_network():
    inputs = keras.Input((8, 8, 3))
    pixels = keras.layers.Normalization(name="pixels")
    pixels.adapt(np.array([80.0, 120.0], "float32").repeat(3).reshape(2, 1, 1, 3))
    x = pixels(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="kernel")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3, "softmax", dtype="float32")(x))


def test_copies_with_and_without_weights():
    model = small_network()
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32")
    taken, untrained = (
        sharing_accuracy.copy_in_policy(model, "mixed_bfloat16", weights=weights) for weights in (True, False)
    )
    assert {taken.get_layer("kernel").compute_dtype, untrained.get_layer("kernel").compute_dtype} == {"bfloat16"}
    assert keras.ops.convert_to_numpy(taken(images)) == pytest.approx(
        keras.ops.convert_to_numpy(model(images)), abs=0.02
    )
    assert (
        np.abs(untrained.get_layer("kernel").get_weights()[0] - model.get_layer("kernel").get_weights()[0]).max() > 0.01
    )
    pixels = keras.ops.convert_to_numpy(untrained.get_layer("pixels")(images))
    assert pixels == pytest.approx((images - 100) / 20, abs=1e-4)


def test_accuracy_is_the_share_of_correct_predictions():
    images = np.zeros((4, 1, 1, 3), "uint8")
    images[np.arange(4), 0, 0, [0, 1, 2, 2]] = 255
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    assert sharing_accuracy.accuracy(model, Arrays(images, np.array([0, 1, 2, 0]))) == 0.75


@pytest.mark.slow
def test_quick_runs_every_training(tmp_path, capsys):
    command = ["sharing_accuracy", "--quick", "--share", "channels:arrangements=2", "--output", str(tmp_path)]
    assert main(command) == 0
    contents = json.loads((tmp_path / "sharing_accuracy.json").read_text())
    original = ksn.create_model("resnet_8")
    shared = ksn.share(original, ksn.sharing.ShareChannels(arrangements=2), where="*")
    assert [each["parameters"] for each in contents["originals"]] == [shared.parameters_before]
    ways = [(row["taken_over"], row["teacher"]) for row in contents["rows"]]
    assert ways == [(True, True), (True, False), (False, True), (False, False)]
    for row in contents["rows"]:
        assert row["parameters"] == shared.parameters
        assert set(row["accuracy"]) == {"0", "1"}
    with_teacher, alone, *_ = contents["rows"]
    assert with_teacher["accuracy"]["0"] == alone["accuracy"]["0"]
    assert (tmp_path / "sharing_accuracy.md").read_text() == capsys.readouterr().out


def rows_of(page):
    return json.loads(page.with_name(f"{page.stem}_accuracy.json").read_text())["rows"]


def test_page_matches_measurements(tmp_path):
    page = DOCS / "share.md"
    assert re.search(r"JPEG copy", page.read_text())
    for name in ("share.md", "share_accuracy.json"):
        shutil.copy(DOCS / name, tmp_path)
    sharing_accuracy.update_page(tmp_path / page.name, rows_of(page)[::-1], [])
    assert (tmp_path / page.name).read_text() == page.read_text()
    assert rows_of(tmp_path / page.name) == rows_of(page)


def test_update_adds_only_new_rows(tmp_path, monkeypatch, capsys, eager):
    """Runs of the command with the same page: rows with the same settings are not trained again."""
    page, trained, share, shared = tmp_path / "share.md", [], ksn.share, []

    def share_once(*given, **options):  # Every run shares the same network in the same way.
        shared.append(shared[0] if shared else share(*given, **options))
        return shared[0]

    def fine_tune(shared, teacher, training, *images, seed, **options):
        trained.append((shared.count_params(), training.teacher, seed))
        return {"0": 0.25, "1": 0.5}

    monkeypatch.setattr(ksn, "share", share_once)
    monkeypatch.setattr(sharing_accuracy, "fine_tune", fine_tune)
    monkeypatch.setattr(sharing_accuracy, "_cifar10", sharing_accuracy._random_images)
    command = ["sharing_accuracy", "--epochs", "1", "--output", str(tmp_path / "out"), "--update", str(page)]
    command += ["--share", "channels:arrangements=2", "--trainings", "taken+teacher"]
    page.write_text("No place for a table.\n")
    assert main(command) == 2
    page.write_text(f"Before\n{sharing_accuracy.BEGIN}\n{sharing_accuracy.END}\nafter\n")
    assert main([*command, "--quick"]) == 2
    assert not trained
    assert main(command) == 0
    assert main([*command, "taken", "--repetitions", "2"]) == 0
    assert [way[1:] for way in trained] == [(True, 0), (False, 0), (True, 1), (False, 1)]
    lines = page.read_text().splitlines()
    assert lines[:2] == ["Before", sharing_accuracy.BEGIN]
    assert lines[-2:] == [sharing_accuracy.END, "after"]
    assert lines[2:-2] == sharing_accuracy.table(rows_of(page)).splitlines()
    assert [(row["seed"], row["teacher"], row["accuracy"]["1"]) for row in rows_of(page)] == [
        (0, True, 0.5),
        (0, False, 0.5),
        (1, True, 0.5),
        (1, False, 0.5),
    ]
    assert main([*command, "--batch-size", "64"]) == 0
    assert [row["batch_size"] for row in rows_of(page)] == [256] * 4 + [64]
    assert len(trained) == 5
    before, contents = page.read_text(), json.loads((tmp_path / "share_accuracy.json").read_text())
    contents["originals"][0]["accuracy"] += 0.003
    (tmp_path / "share_accuracy.json").write_text(json.dumps(contents))
    capsys.readouterr()
    assert main([*command, "--repetitions", "3"]) == 2
    assert "`originals` (='resnet_8') must be the network of that name on the page" in capsys.readouterr().err
    assert len(trained) == 5
    assert page.read_text() == before
