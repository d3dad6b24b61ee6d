import dataclasses
import json

import keras
import keras_tuner
import numpy as np
import pytest
from harness import slow_after

from keras_sharenets.mobile import export_tflite
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.search import measuring
from keras_sharenets.search.budgets import FileBudget
from keras_sharenets.search.measuring import FileCosts, FileLimits, estimate_costs, measure
from keras_sharenets.search.spaces import find_space
from keras_sharenets.search.spaces.space import count, draw, kernel_parameters, named
from keras_sharenets.search.training import hold_out, train
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.run.network import build

DIGITS = hold_out(load("digits"), 0.2, 0)
RECIPE = override(recipe_for("hscnet_m32_g4_r2_b1_a2", "digits"), epochs=2, learning_rate=0.3, batch_size=32)
POINT = {"width": 16, "alpha": 2, "groups": 4, "channel_repeats": 2, "arrangements": 2, "blocks_per_stage": 1}
POINT |= {"star": False}
FEW = {"network": "shard_resnet", "width": 24, "blocks_per_stage": 1, "share": "spatial"}


def test_hold_out_needs_two_images_per_class():
    firsts = [int(np.argmax(DIGITS.train.labels == label)) for label in range(10)]
    with pytest.raises(ValueError, match=r"`validation` \(=0\.2\) selects no images"):
        hold_out(dataclasses.replace(DIGITS, train=DIGITS.train.part(np.array(firsts))), 0.2, 0)


def _network(space="hscnet", point=POINT):
    keras.utils.set_random_seed(0)
    name, arguments = named(find_space(space), point)
    return build(name, DIGITS, arguments, RECIPE)


# By default, `test_search_command` compares the recorded file sizes.
@pytest.fixture(scope="module", params=[pytest.param(share, marks=pytest.mark.slow) for share in (20, 1)])
def trained(request, tmp_path_factory, eager):
    """Folder, `FileCosts`, and accuracies after one and two epochs of a network trained on every n-th image."""
    folder = tmp_path_factory.mktemp("trained")
    network = _network()
    few = dataclasses.replace(DIGITS, train=DIGITS.train.part(np.arange(0, len(DIGITS.train), request.param)))
    first = train(network, few, recipe=RECIPE, seed=0, last_epoch=1)
    second = train(network, few, recipe=RECIPE, seed=0, first_epoch=1, last_epoch=2)
    return folder, measure(network, folder, DIGITS), (first, second)


def test_trained_file_is_at_most_as_large_as_estimated(trained):
    folder, costs, _ = trained
    assert (folder / "int8.tflite").stat().st_size == costs.int8_bytes
    assert (folder / "float32.tflite").stat().st_size == costs.float32_bytes
    assert costs.latency_ms > 0
    estimate = estimate_costs(_network(), DIGITS)
    assert costs.int8_bytes <= estimate.int8_bytes < 1.15 * costs.int8_bytes


@pytest.mark.slow
@pytest.mark.parametrize("trained", [1], indirect=True)
def test_continued_training_uses_the_learning_rate_of_its_epoch(trained):
    assert trained[2][1] > 0.15


def test_unreadable_images_stop_training():
    with pytest.raises(ValueError, match="cannot be read"):
        train(_network(), _Broken.digits(), recipe=RECIPE, seed=0, last_epoch=1)


class _Broken:
    """A split with unreadable images."""

    def __init__(self, source):
        self.labels, self.shape = source.labels, source.shape

    def __len__(self):
        return len(self.labels)

    def pixels(self, indices):
        raise ValueError("a.png cannot be read")

    @classmethod
    def digits(cls):
        import dataclasses

        return dataclasses.replace(DIGITS, train=cls(DIGITS.train))


@pytest.mark.parametrize("name", slow_after(1, ["shardnet", "hgcnet", "igcv2", "sharesnet"]))
def test_files_are_larger_than_their_kernels(name):
    space = find_space(name)
    points = (draw(space, seed, input_shape=DIGITS.shape) for seed in range(1000))
    point = next(point for point in points if count(space, point, input_shape=DIGITS.shape).stored_parameters < 30_000)
    kernels = kernel_parameters(space, point, input_shape=DIGITS.shape)
    assert 0.5 * count(space, point, input_shape=DIGITS.shape).stored_parameters < kernels
    images = DIGITS.train.images[:8].astype("float32")
    lowered = lower_model(_network(name, point))
    data, _ = conversion.convert(lowered, quantization="int8", representative_data=(images,))
    assert kernels < len(data)


def _limits(folder, **budget):
    budget = FileBudget(**budget)
    return FileLimits(find_space("hscnet"), budget=budget, dataset=DIGITS, recipe=RECIPE, folder=folder)


def test_costs_are_measured_once(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("keras_sharenets.search.measuring.build", lambda *arguments: measured.append(arguments))
    monkeypatch.setattr(
        "keras_sharenets.search.measuring.estimate_costs", lambda model, dataset: FileCosts(50_000, 2.0)
    )

    def ask(**budget):
        return _limits(tmp_path, **budget)(POINT)

    kernels = kernel_parameters(find_space("hscnet"), POINT, input_shape=DIGITS.shape)
    assert ask(max_tflite_bytes=kernels - 1) == ("stored_parameters",)
    assert measured == []
    assert kernels < 50_000
    assert ask(max_tflite_bytes=50_000, max_latency_ms=2) == ()
    assert ask(max_tflite_bytes=49_999, max_latency_ms=1) == ("stored_parameters",)
    assert ask(max_latency_ms=1.9) == ("multiply_adds",)
    assert len(measured) == 1
    limits = _limits(tmp_path, max_tflite_bytes=10, max_latency_ms=0.5)
    assert str(limits) == (
        "`max_tflite_bytes` (=10; least measured: 50000) and `max_latency_ms` (=0.5; least measured: 2)"
    )
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["arguments"] == POINT


def test_size_of_a_shared_network_is_known_before_it_is_trained(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(DIGITS.shape)
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(x))
    outputs = keras.layers.Dense(10, "softmax")(keras.layers.GlobalAveragePooling2D()(x))
    model, options = keras.Model(inputs, outputs), {"dataset": DIGITS, "folder": tmp_path}
    size = measuring.shared_file_bytes({"conv": "none"}, lambda: model, **options)
    images = DIGITS.test.pixels(np.arange(32))
    report = export_tflite(model, tmp_path / "net", "int8", representative_data=images, class_names=DIGITS.class_names)
    # Other images give other ranges; the file stores equal numbers of two tensors once.
    assert abs(size - report.file_bytes) <= 32
    assert measuring.shared_file_bytes({"conv": "none"}, None, **options) == size  # Not built again.
    cosine = keras.Model(inputs, keras.ops.arccosh(outputs))
    assert measuring.shared_file_bytes({"conv": "HSC"}, lambda: cosine, **options) == 0  # Cannot be exported.


@pytest.mark.parametrize(("name", "value"), [("max_tflite_bytes", 0), ("max_latency_ms", -1.0)])
def test_bad_file_budget(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` \(={value}\) must be a number above 0"):
        FileBudget(**{name: value})


def test_crash_of_litert_fails_one_trial(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "_RUN", "import os; os.abort()")
    with pytest.raises(keras_tuner.errors.FailedTrialError, match=r"LiteRT does not run the int8 file \(status -6\)"):
        measure(_network("shardnet", FEW), tmp_path, DIGITS)
