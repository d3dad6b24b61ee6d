import json
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from benchmarks import sharing_accuracy
from benchmarks.cli import main
from keras_sharenets.training.data.dataset import Arrays

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def small():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[100.0] * 3, variance=[400.0] * 3, name="pixels")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="kernel")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3, "softmax", dtype="float32")(x))


def test_copies_with_and_without_weights():
    model = small()
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


def test_originals_with_one_file_name_are_all_kept():
    sources = ["a/last.keras", "b/last.keras", "saved/wrn", "resnet_8", "resnet_8", "wrn"]
    named = sharing_accuracy.by_name(sources)
    assert sorted(named.values()) == sorted(set(sources))
    assert set(named) == {"a/last.keras", "b/last.keras", "saved/wrn", "resnet_8", "wrn"}


def test_accuracy_is_the_share_of_right_answers():
    images = np.zeros((4, 1, 1, 3), "uint8")
    images[np.arange(4), 0, 0, [0, 1, 2, 2]] = 255
    inputs = keras.Input((1, 1, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    assert sharing_accuracy.accuracy(model, Arrays(images, np.array([0, 1, 2, 0]))) == 0.75


@pytest.mark.slow
def test_quick_trains_each_way(tmp_path, capsys):
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


def test_page_says_what_was_measured():
    page, rows = (DOCS / "share.md").read_text(), json.loads((DOCS / "share_accuracy.json").read_text())["rows"]
    stated = page.partition("<!-- sharing accuracy: begin -->\n")[2].partition("\n<!-- sharing accuracy: end -->")[0]
    assert stated == sharing_accuracy.table(rows)
    assert re.search(r"JPEG copy", page)
