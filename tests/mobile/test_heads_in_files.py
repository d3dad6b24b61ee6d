"""Binary, multi-label, and regression heads: names, threshold, agreement, and metadata of files, and the commands.

The weights are set so that the color of an image determines the correct output: "dog" is red, and a label is present
if its channel is bright.
"""

import dataclasses
import json

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from harness import slow_after
from keras import layers
from test_metadata import Table

from keras_sharenets import files, precisions
from keras_sharenets.heads import head_of
from keras_sharenets.mobile import export_saved_model, export_tflite, predict_tflite
from keras_sharenets.mobile.export import conversion, saved_model
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.export.saved_model import open_saved_model
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.inspect.file import parse, read_buffer, read_head, read_labels
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.reports.evaluate import evaluate, predict_test_split

NAMES = {"binary": ("cat", "dog"), "multilabel": ("red", "green", "blue"), "value": None}
COLORS = np.random.default_rng(1).integers(20, 236, (48, 3))
COLORS[np.abs(COLORS - 127.5) < 12] += 30
IMAGES = (COLORS[:, None, None] + np.random.default_rng(2).integers(-9, 10, (48, 8, 8, 3))).astype("uint8")
BRIGHT = COLORS > 127.5


def network(kind):
    """Scores are 20 times the difference between the mean of a channel, in 0..1, and 0.5."""
    units = 3 if kind == "multilabel" else 1
    end = layers.Dense(units, activation=None if kind == "value" else "sigmoid")
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), end])
    end.set_weights([20 * np.eye(3, units), np.full(units, -10.0)])
    return model


@pytest.fixture(scope="module", params=slow_after(1, ["multilabel", "binary", "value"]))
def exported(request, tmp_path_factory, quick_decoding):
    """Kind, folder, and the report of each exported file."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    model, how = network(kind), {"representative_data": IMAGES, "class_names": NAMES[kind]}
    files.save_model(model, folder / "net.keras")
    if NAMES[kind]:
        files.write_labels(folder, NAMES[kind])
    reports = {
        "net.tflite": export_tflite(model, folder / "net.tflite", **how),
        "int8.tflite": export_tflite(model, folder / "int8.tflite", "int8", **how),
        "served": export_saved_model(model, folder / "served", **how),
    }
    for index in range(4):
        PIL.Image.fromarray(IMAGES[index]).save(folder / f"{index}.png")
    return kind, folder, reports


@pytest.mark.parametrize("name", ["net.tflite", "int8.tflite"])
def test_tflite_file(exported, name):
    kind, folder, reports = exported
    assert read_head(folder / name) == head_of(network(kind))
    assert read_labels(folder / name) == NAMES[kind]
    assert reports[name].classes == len(NAMES[kind] or ())
    assert reports[name].top1_agreement == (None if kind == "value" else 1.0)
    if kind != "value":
        units = BRIGHT[:, :1] if kind == "binary" else BRIGHT
        np.testing.assert_array_equal(predict_tflite(folder / name, IMAGES) > 0.5, units)


def test_agreement_compares_predicted_classes(tmp_path, monkeypatch):
    """A file that inverts every prediction has an agreement of 0, although an argmax over one output always agrees."""
    wrong = network("binary")
    wrong.layers[-1].set_weights([-20 * np.eye(3, 1), np.full(1, 10.0)])
    convert = conversion.convert
    monkeypatch.setattr(conversion, "convert", lambda lowered, **how: convert(lower_model(wrong), **how))
    tolerant = dataclasses.replace(precisions.PRECISIONS[None], tolerance=1e9)
    monkeypatch.setitem(precisions.PRECISIONS, None, tolerant)
    assert export_tflite(network("binary"), tmp_path / "m.tflite", representative_data=IMAGES).top1_agreement == 0.0


def test_served_model(exported):
    kind, folder, _ = exported
    signatures = tf.saved_model.load(str(folder / "served")).signatures
    encoded = [tf.io.encode_png(image).numpy() for image in IMAGES]
    for results in (
        signatures["serving_default"](images=tf.constant(IMAGES, tf.float32)),
        signatures["serve_encoded"](encoded=tf.constant(encoded)),
    ):
        if kind == "value":
            assert set(results) == {"scores"}
            continue
        assert results["class_names"].numpy().tolist() == [[name.encode() for name in NAMES[kind]]] * len(IMAGES)
        if kind == "binary":
            assert set(results) == {"class_name", "class_names", "probabilities"}
            assert results["class_name"].numpy().tolist() == [b"dog" if red else b"cat" for red in BRIGHT[:, 0]]
        else:
            assert set(results) == {"present", "class_names", "probabilities"}
            np.testing.assert_array_equal(results["present"], BRIGHT)
    names, head, _ = open_saved_model(folder / "served").classify(IMAGES)
    assert (names, head) == (NAMES[kind], head_of(network(kind)))


def test_wrong_class_names_in_served_model_are_detected(tmp_path, monkeypatch, quick_decoding):
    write = saved_model._write
    monkeypatch.setattr(
        saved_model, "_write", lambda model, head, folder, names, *rest: write(model, head, folder, names[::-1], *rest)
    )
    with pytest.raises(ExportMismatchError, match="'serving_default' does not compute what Keras computes"):
        export_saved_model(network("binary"), tmp_path / "m", class_names=["cat", "dog"])


@pytest.mark.parametrize("target", ["net.keras", "net.tflite", "int8.tflite", "served"])
def test_predict(exported, sharenets, target):
    kind, folder, _ = exported
    status, out, err = sharenets("predict", folder / target, *(folder / f"{index}.png" for index in range(4)))
    assert status == 0, err
    lines = out.strip().splitlines()[-4:]
    status, out, _ = sharenets("predict", folder / target, folder / "0.png", "--top", 1, "--json", "-")
    (answer,) = json.loads(out)
    for line, bright, color in zip(lines, BRIGHT, COLORS, strict=False):
        told = line.split()[1:]
        if kind == "binary":
            assert told[0] == ("dog" if bright[0] else "cat")
            assert float(told[1]) > 0.5
        elif kind == "multilabel":
            assert {name for name in NAMES[kind] if name in told} == {
                NAMES[kind][place] for place in np.flatnonzero(bright)
            }
        else:
            assert len(told) == 1
            assert float(told[0]) == pytest.approx(20 * color[0] / 255 - 10, abs=0.5)
    if kind == "value":
        assert set(answer) == {"image", "value"}
    elif kind == "multilabel":
        present = [entry["class"] for entry in answer["classes"] if entry["present"]]
        assert sorted(present) == sorted(NAMES[kind][place] for place in np.flatnonzero(BRIGHT[0]))
    else:
        assert [entry["class"] for entry in answer["classes"]] == ["dog" if BRIGHT[0, 0] else "cat"]


def data_set(kind, labels, images):
    split = Arrays(images, labels.astype("int64"))
    return make_dataset("colors", "colors.", NAMES[kind], split, split)


@pytest.mark.parametrize("name", ["net.keras", "int8.tflite"])
def test_evaluate(exported, name):
    kind, folder, _ = exported
    path = folder / name
    if kind == "binary":
        labels = BRIGHT[:, 0].astype(int)
        labels[:6] = 1 - labels[:6]  # Six images with a wrong label.
        data = data_set("binary", labels, IMAGES)
        assert evaluate(path, data).correct == len(IMAGES) - 6
        assert predict_test_split(path, data).shape == (len(IMAGES), 2)
        # The names in a TFLite file precede those in `labels.txt` next to it.
        swapped = dataclasses.replace(data, class_names=("dog", "cat"))
        place = name if name.endswith(".tflite") else "labels.txt"
        with pytest.raises(ValueError, match=rf"classes in .*{place} \(cat, dog\) differ from those of colors"):
            evaluate(path, swapped)
    elif kind == "multilabel":
        # A prediction is correct if the label's channel is the only bright one.
        result = evaluate(path, data_set("multilabel", np.arange(len(IMAGES)) % 3, IMAGES))
        alone = BRIGHT.sum(axis=1) == 1
        assert result.correct == (alone & BRIGHT[np.arange(len(IMAGES)), np.arange(len(IMAGES)) % 3]).sum() > 0
    else:
        with pytest.raises(ValueError, match="returns a value, no classes, but colors has 2"):
            evaluate(path, data_set("binary", BRIGHT[:, 0], IMAGES))


def test_evaluate_needs_one_vector(tmp_path):
    inputs = keras.Input((8, 8, 3))
    maps = keras.Model(inputs, layers.Conv2D(2, 1)(inputs))
    export_tflite(maps, tmp_path / "maps.tflite")
    files.save_model(maps, tmp_path / "maps.keras")
    for name in ("maps.keras", "maps.tflite"):
        with pytest.raises(ValueError, match=rf"{name} takes .* it must map one image to one vector of classes"):
            evaluate(tmp_path / name, data_set("binary", BRIGHT[:, 0], IMAGES))


def test_standard_metadata_of_the_output(exported):
    """One sigmoid has value labels instead of axis labels; the threshold is described."""
    kind, folder, _ = exported
    content = read_buffer(parse((folder / "net.tflite").read_bytes()), "TFLITE_METADATA")
    classes = Table(content).entry(3).entry(3)
    if kind == "value":
        assert classes.text(0) == "classes"
        assert not any(map(classes.has, (1, 4, 5, 6)))
        return
    assert classes.entry(6).byte(2) == (3 if kind == "binary" else 2)  # TENSOR_VALUE_LABELS, TENSOR_AXIS_LABELS
    unit = classes.entry(4)
    assert unit.byte(0) == 3  # ScoreThresholdingOptions
    assert np.frombuffer(content, "<f4", 1, unit.table(1).place(0)) == 0.5
    words = "'dog' if above 0.5, else 'cat'" if kind == "binary" else "independent classes: present if above 0.5"
    assert classes.text(1) == words


def test_class_names_for_a_logit_are_rejected(tmp_path):
    for export in (export_tflite, export_saved_model):
        with pytest.raises(ValueError, match="a regression or a logit, which has no classes: add a sigmoid if it"):
            export(network("value"), tmp_path / "m", class_names=["cat", "dog"])
    assert not list(tmp_path.iterdir())
