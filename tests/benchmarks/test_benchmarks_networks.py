import functools

import keras
import numpy as np
import pytest
from few_layers import tiny_network
from harness import slow_after

import keras_sharenets as ksn
from benchmarks import peers, workloads
from benchmarks.delivery import SCALES
from keras_sharenets.analysis.randomization import random_images, randomize_batchnorm
from keras_sharenets.mobile import describe_tflite, predict_tflite
from keras_sharenets.mobile.inspect.benchmark import inference_call
from keras_sharenets.mobile.inspect.file import open_tflite

NAME = "hscnet_m32_g4_r2_b1_a2"


@pytest.fixture(scope="module", params=["tiny", pytest.param("named", marks=pytest.mark.slow)])
def build(request):
    """A function that builds the same network in every call; by default, a small one."""
    make = tiny_network if request.param == "tiny" else functools.partial(peers.build, NAME)
    return functools.partial(make, input_shape=(16, 16, 3))


@pytest.fixture(scope="module")
def model(build):
    return build()


@pytest.mark.parametrize(("scales", "fewest", "most"), slow_after(1, [("mixed", 0.005, 0.05), ("positive", 0, 0)]))
def test_statistics_match_the_activations(scales, fewest, most):
    """With the statistics of the given images, training and inference give the same outputs."""
    model = peers.build(NAME, negative_share=SCALES[scales], input_shape=(16, 16, 3))
    images = random_images(model)
    np.testing.assert_allclose(model(images), model(images, training=True), atol=1e-5)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {norm.momentum for norm in norms} == {0.9}
    signs = np.sign(np.concatenate([norm.gamma.numpy() for norm in norms]))
    assert fewest <= (signs < 0).mean() <= most
    assert (signs != 0).all()


def test_networks_are_deterministic(model, build):
    again = build()
    for weights, same in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)


@pytest.mark.parametrize(("quantization", "tolerance"), [(None, 1e-5), ("int8", 0.1)])
def test_plain_conversion_matches_keras(model, quantization, tolerance, tmp_path):
    # The converter assigns a zero point to kernels that the network computes, which LiteRT rejects.
    model = peers.reference(model)
    randomize_batchnorm(model)
    images = random_images(model)
    path = tmp_path / "plain.tflite"
    path.write_bytes(workloads.convert_plainly(model, quantization, images))
    np.testing.assert_allclose(predict_tflite(path, images), model(images), atol=tolerance)
    (entry,) = describe_tflite(path)["inputs"]
    assert entry["shape"] == [1, 16, 16, 3]
    assert entry["dtype"] == (quantization or "float32")


def test_measure_several_files(model, tmp_path):
    images = random_images(model)
    paths = {quantization: tmp_path / f"{quantization}.tflite" for quantization in (None, "int8")}
    for quantization, path in paths.items():
        ksn.mobile.export_tflite(model, path, quantization=quantization, representative_data=images)
    measured = workloads.measure_files(paths, threads=1, repetitions=3, peer=None)
    assert list(measured) == [None, "int8"]
    for name, path in paths.items():
        description = describe_tflite(path)
        assert measured[name]["file_bytes"] == path.stat().st_size
        assert measured[name]["weight_bytes"] == sum(description["constant_bytes"].values())
        assert measured[name]["delegate_partitions"] == 1
        assert measured[name]["milliseconds"] > 0
    assert measured[None]["ratio"] == 1
    assert measured["int8"]["undelegated_operators"] == {"QUANTIZE": 2, "SOFTMAX": 1}


def test_inference_call(model, tmp_path):
    ksn.mobile.export_tflite(model, tmp_path / "net.tflite")
    interpreter = open_tflite(tmp_path / "net.tflite")
    inference_call(interpreter)()
    (output,) = interpreter.get_output_details()
    assert interpreter.get_tensor(output["index"]).sum() == pytest.approx(1)


def test_file_rejected_by_the_runtime(model, tmp_path):
    path = tmp_path / "net.tflite"
    ksn.mobile.export_tflite(model, path)
    assert workloads.file_runs(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert not workloads.file_runs(path)
