import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from benchmarks import litert, networks, twins
from keras_sharenets.mobile import describe_tflite, predict_tflite
from keras_sharenets.mobile.inspect.file import open_tflite

NAME = "hscnet_m32_g4_r2_b1_a2"


@pytest.fixture(scope="module")
def model():
    return networks.build(NAME, input_shape=(16, 16, 3))


@pytest.mark.parametrize(("scales", "fewest", "most"), [("positive", 0, 0), ("mixed", 0.005, 0.05)])
def test_statistics_are_those_of_what_flows(scales, fewest, most):
    """With the statistics of the very same pictures, training and inference compute the same."""
    model = networks.build(NAME, scales, input_shape=(16, 16, 3))
    pictures = networks.pictures(model)
    np.testing.assert_allclose(model(pictures), model(pictures, training=True), atol=1e-5)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {norm.momentum for norm in norms} == {0.9}
    signs = np.sign(np.concatenate([norm.gamma.numpy() for norm in norms]))
    assert fewest <= (signs < 0).mean() <= most
    assert (signs != 0).all()


def test_networks_are_the_same_every_time(model):
    again = networks.build(NAME, input_shape=(16, 16, 3))
    for weights, same in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)


# By the papers' names: what shares, and the same network without.
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("sharesnet_50", "resnet_50"),
        ("sha_wrn_40_4", "wrn_40_4"),
        ("s_vggnet_64", "e_vggnet_64"),
        ("resnet_164", None),
        ("sl3_resnet_64", None),
        ("hscnet_m128_g16_r8_a2", None),
    ],
)
def test_twin(name, twin):
    assert networks.find_twin(name) == twin


@pytest.mark.parametrize(("quantization", "tolerance"), [(None, 1e-5), ("int8", 0.1)])
def test_plain_conversion_computes_what_keras_computes(model, quantization, tolerance, tmp_path):
    # Kernels that are computed in the network the converter gives a zero point, which LiteRT refuses.
    model = twins.drawn(model)
    networks.randomize_batchnorm(model)
    pictures = networks.pictures(model)
    path = tmp_path / "plain.tflite"
    path.write_bytes(litert.convert_plainly(model, quantization, pictures))
    np.testing.assert_allclose(predict_tflite(path, pictures), model(pictures), atol=tolerance)
    (entry,) = describe_tflite(path)["inputs"]
    assert entry["shape"] == [1, 16, 16, 3]
    assert entry["dtype"] == (quantization or "float32")


def test_files_are_measured_side_by_side(model, tmp_path):
    pictures = networks.pictures(model)
    paths = {quantization: tmp_path / f"{quantization}.tflite" for quantization in (None, "int8")}
    for quantization, path in paths.items():
        ksn.mobile.export_tflite(model, path, quantization=quantization, representative_data=pictures)
    measured = litert.measure_files(paths, threads=1, repetitions=3, peer=None)
    assert list(measured) == [None, "int8"]
    for name, path in paths.items():
        description = describe_tflite(path)
        assert measured[name]["file_bytes"] == path.stat().st_size
        assert measured[name]["weight_bytes"] == sum(description["constant_bytes"].values())
        assert measured[name]["delegates"] == 1
        assert measured[name]["milliseconds"] > 0
    assert measured[None]["ratio"] == 1
    assert measured["int8"]["outside"] == {"SOFTMAX": 1}


def test_call_runs_the_whole_file(model, tmp_path, monkeypatch):
    ksn.mobile.export_tflite(model, tmp_path / "net.tflite")
    opened = []
    monkeypatch.setattr(
        litert.mobile, "open_tflite", lambda *arguments: opened.append(open_tflite(*arguments)) or opened[-1]
    )
    litert.open_call(tmp_path / "net.tflite", 1)()
    (output,) = opened[0].get_output_details()
    assert opened[0].get_tensor(output["index"]).sum() == pytest.approx(1)


def test_file_that_the_runtime_refuses(model, tmp_path):
    path = tmp_path / "net.tflite"
    ksn.mobile.export_tflite(model, path)
    assert litert.runs(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert not litert.runs(path)
