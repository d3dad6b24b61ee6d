"""ONNX files in ONNX Runtime and OpenCV: outputs, sharing, batches, and several inputs."""

import collections
import json

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets import cli, files
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile import export_onnx
from keras_sharenets.mobile.export import onnx as onnx_export

cv2 = pytest.importorskip("cv2")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

pytestmark = pytest.mark.clients


def run(path, *inputs):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {end.name: array for end, array in zip(session.get_inputs(), inputs, strict=True)})


def build_network(name, **options):
    keras.utils.set_random_seed(0)
    model = ksn.create_model(name, input_shape=(16, 16, 3), num_classes=5, **options)
    randomize_batchnorm(model)
    return model


@pytest.mark.parametrize(
    ("name", "options", "any_number"),
    [
        ("hscnet_m32_g4_r2_b1_a2", {}, True),
        ("sl3_resnet_64", {"width": 24}, True),
        ("igcv2_c64_d8", {}, True),
        ("sharesnet_164", {"depth": 20}, True),
        ("shufflenet_v2_2_0", {"width": (24, 48, 96, 192, 256), "blocks_per_stage": 2}, False),
    ],
)
def test_families(tmp_path, name, options, any_number):
    model = build_network(name, **options)
    names = [f"class {number}" for number in range(5)]
    report = export_onnx(model, tmp_path / "net.onnx", class_names=names)
    assert report.any_number_of_images is any_number
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3)).astype("float32")
    batches = [images] if any_number else np.split(images, 3)
    outputs = np.concatenate([run(tmp_path / "net.onnx", batch)[0] for batch in batches])
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-4)
    network = cv2.dnn.readNetFromONNX(str(tmp_path / "net.onnx"))
    network.setInput(images[:1])
    np.testing.assert_allclose(network.forward(), outputs[:1], atol=1e-4)
    program = onnx.load(tmp_path / "net.onnx")
    arrays = [onnx.numpy_helper.to_array(constant) for constant in program.graph.initializer]
    written = collections.Counter((array.shape, array.tobytes()) for array in arrays)
    assert max(written.values()) == 1
    # Each kernel is stored once, regardless of its uses; the rest is from normalization.
    assert sum(array.size for array in arrays) < 1.2 * report.stored_parameters + 2000
    assert report.file_weight_bytes == sum(array.nbytes for array in arrays)
    (entry,) = [entry for entry in program.metadata_props if entry.key == "class_names"]
    assert json.loads(entry.value) == names
    assert report.file_bytes == (tmp_path / "net.onnx").stat().st_size


def test_two_inputs_and_two_outputs(tmp_path):
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((4,), name="right")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="features")(left))
    first = keras.layers.Dense(3, activation="softmax", name="first")(keras.layers.Concatenate()([x, right]))
    model = keras.Model([left, right], [first, keras.layers.Dense(1, name="second")(x)])
    data = np.random.default_rng(0).normal(size=(6, 8, 8, 3)), np.random.default_rng(1).normal(size=(6, 4))
    data = tuple(array.astype("float32") for array in data)
    report = export_onnx(model, tmp_path / "net.onnx", representative_data=data)
    assert report.verified_on == "6 given examples"
    for outputs, expected in zip(run(tmp_path / "net.onnx", *data), model.predict(data, verbose=0), strict=True):
        np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_one_image_is_compared_together_with_another(tmp_path, monkeypatch):
    """A batch of equal images would hide that an operator mixes them."""
    compared = []
    difference = onnx_export._difference
    monkeypatch.setattr(onnx_export, "_difference", lambda *given: compared.append(given[2]) or difference(*given))
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype("float32")
    with pytest.warns(UserWarning, match="is a single image"):
        export_onnx(model, tmp_path / "net.onnx", representative_data=image)
    ((images,),) = compared
    np.testing.assert_array_equal(images[:1], image)
    assert len(np.unique(images, axis=0)) == 2


def test_commands(tmp_path, capsys):
    model = build_network("sl3_resnet_64", width=8)
    files.save_model(model, tmp_path / "net.keras")
    assert cli.main(["export", str(tmp_path / "net.keras"), "--to", "onnx"]) == 0
    assert "any number of images   True" in capsys.readouterr().out
    images = np.zeros((2, 16, 16, 3), "float32")
    (outputs,) = run(tmp_path / "net.onnx", images)
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-4)


def test_export_of_a_run(tmp_path, capsys):
    fit = ["fit", "--model", "sl3_resnet_64", "--data", "digits", "--epochs", "1", "--output", str(tmp_path / "run")]
    assert cli.main([*fit, "--model-option", "width=8"]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--to", "onnx"]) == 0
    assert (tmp_path / "run" / "export" / "model.onnx").exists()
    (entry,) = json.loads((tmp_path / "run" / "export" / "export.json").read_text())["files"]
    assert entry["form"] == "onnx"


def test_wrong_file_is_not_written(tmp_path, monkeypatch):
    import tf2onnx

    translate = tf2onnx.convert.from_tflite

    def spoil(*arguments, **options):
        program, rest = translate(*arguments, **options)
        for constant in program.graph.initializer:
            if len(constant.dims) == 4:
                array = onnx.numpy_helper.to_array(constant)
                constant.CopyFrom(onnx.numpy_helper.from_array(2 * array, constant.name))
        return program, rest

    monkeypatch.setattr(tf2onnx.convert, "from_tflite", spoil)
    with pytest.raises(ksn.mobile.ExportMismatchError, match="The ONNX file does not compute what Keras computes"):
        export_onnx(build_network("sl3_resnet_64", width=8), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
