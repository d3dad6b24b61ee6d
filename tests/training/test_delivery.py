"""A trained network in all exported forms on the CIFAR-10 test split, with the documented error bounds."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_sharenets import files, mobile
from keras_sharenets.training.data.dataset import Arrays

TRAINED = pathlib.Path(__file__).parents[2] / "saved_models" / "hscnet_m32_g4_r2_b1_a2_cifar10"


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.slow)])
def data(request, cifar10_subset):
    """CIFAR-10; by default, the first 500 images of the test split."""
    if request.param == "all":
        return request.getfixturevalue("cifar10")
    test = Arrays(cifar10_subset.test.images[:500], cifar10_subset.test.labels[:500])
    return dataclasses.replace(cifar10_subset, test=test)


@pytest.fixture(scope="module")
def model():
    return files.load_model(TRAINED / "last.keras")


@pytest.fixture(scope="module")
def top1(model, data):
    return model.predict(data.test.images.astype("float32"), batch_size=500, verbose=0).argmax(-1)


@pytest.fixture(scope="module")
def names():
    return files.read_labels(TRAINED / "last.keras")


def test_accuracy_matches_record(top1, data):
    recorded = json.loads((TRAINED / "metrics.json").read_text())["test_accuracy"]
    # The record covers all images; a subset may differ by three standard deviations.
    spread = 0 if len(top1) == 10000 else 3 * (recorded * (1 - recorded) / len(top1)) ** 0.5
    assert (top1 == data.test.labels).mean() == pytest.approx(recorded, abs=5e-4 + spread)


@pytest.mark.slow  # By default, `test_training_page.py` checks the SavedModel of a small network.
def test_saved_model_predicts_the_same_classes(model, data, top1, names, tmp_path):
    mobile.export_saved_model(model, tmp_path / "net", class_names=names, representative_data=data.train.images[:64])
    serve = tf.saved_model.load(str(tmp_path / "net")).signatures["serving_default"]
    batches = [serve(images=tf.constant(batch, tf.float32)) for batch in np.split(data.test.images, 20)]
    served = np.concatenate([batch["class_name"].numpy() for batch in batches])
    expected = np.array([names[index].encode() for index in top1])
    assert (served != expected).mean() <= 0.001


def predict_with_file(model, data, path, quantization):
    mobile.export_tflite(model, path, quantization=quantization, representative_data=data.train.images[:500])
    return mobile.predict_tflite(path, data.test.images).argmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "float16"])
def test_float_tflite_predicts_the_same_classes(model, top1, data, tmp_path, quantization):
    found = predict_with_file(model, data, tmp_path / "net.tflite", quantization)
    # The bound holds for the whole split; a subset may exceed it by three standard deviations.
    spread = 0 if len(top1) == 10000 else 3 * (0.001 / len(top1)) ** 0.5
    assert (found != top1).mean() <= 0.001 + spread


def check_int8(int8, top1, labels):
    # Measured: 2.0 %, although 1 % is desirable. This network is uncertain about many images, and rounding its logits
    # to int8 alone changes 0.8 % of the classes.
    assert (int8 != top1).mean() <= 0.022
    assert abs((int8 == labels).mean() - (top1 == labels).mean()) <= 0.01


def test_published_int8_file_is_accurate(top1, data):
    check_int8(mobile.predict_tflite(TRAINED / "int8.tflite", data.test.images).argmax(-1), top1, data.test.labels)


@pytest.mark.slow
def test_int8_tflite_is_accurate(model, top1, data, tmp_path):
    check_int8(predict_with_file(model, data, tmp_path / "net.tflite", "int8"), top1, data.test.labels)


def test_results_page_matches_record():
    page = (TRAINED.parents[1] / "docs" / "results.md").read_text()
    recorded = json.loads((TRAINED / "metrics.json").read_text())
    size = (TRAINED / "int8.tflite").stat().st_size
    row = f"{recorded['recipe']['epochs']} | {recorded['seed']} | {recorded['test_accuracy']:.2%} | "
    assert row.replace("%", " %") in page
    assert f"| {size:,} bytes |" in page


@pytest.mark.slow
def test_results_page_matches_measured_accuracy(cifar10):
    page = (TRAINED.parents[1] / "docs" / "results.md").read_text()
    recorded = json.loads((TRAINED / "metrics.json").read_text())
    int8 = mobile.predict_tflite(TRAINED / "int8.tflite", cifar10.test.images).argmax(-1)
    right = (int8 == cifar10.test.labels).mean()
    assert f"{recorded['test_accuracy']:.2%} | {right:.2%}".replace("%", " %") in page
