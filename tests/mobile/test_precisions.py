"""Files in the precisions that AI Edge Quantizer provides."""

import functools
import importlib.util

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from mobile_networks import NAMES, convert, convert_with_graph
from random_networks import images

from keras_sharenets import _checks, precisions
from keras_sharenets.mobile import describe_tflite, export_tflite, predict_tflite
from keras_sharenets.mobile.export import edge_quantizer
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.graph.rounding_error import kernel_rounding_error
from keras_sharenets.mobile.inspect.file import read_labels

MADE = ("dynamic_int8", "dynamic_int4", "int16")
INSTALLED = importlib.util.find_spec("ai_edge_quantizer") is not None
needs_quantizer = pytest.mark.skipif(not INSTALLED, reason="needs the extra `precisions`")


def constants_of(path):
    """`{name: (type code, dequantized values)}` of the constant tensors of a file."""
    data = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    found = {}
    for tensor in model.subgraphs[0].tensors:
        content = model.buffers[tensor.buffer].data
        if content is None:
            continue
        if tensor.type == schema.TensorType.INT4:  # The lower four bits of a byte come first.
            halves = np.stack([content & 15, content >> 4], -1).astype("int8").reshape(-1)
            numbers = np.where(halves > 7, halves - 16, halves)[: np.prod(tensor.shape)]
        else:
            types = {schema.TensorType.INT8: "int8", schema.TensorType.FLOAT32: "float32"}
            numbers = np.frombuffer(content.tobytes(), types.get(tensor.type, "uint8"))
        if tensor.type in (schema.TensorType.INT4, schema.TensorType.INT8):
            sides = [1] * len(tensor.shape)
            sides[tensor.quantization.quantizedDimension] = -1
            numbers = numbers.reshape(tensor.shape) * tensor.quantization.scale.reshape(sides)
        found[tensor.name.decode()] = tensor.type, numbers
    return found


@pytest.fixture(scope="module")
def exported(trained, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("precisions")
    return {
        name: (
            folder / f"{name}.tflite",
            export_tflite(
                trained, folder / f"{name}.tflite", name, representative_data=digits[0][:60], class_names=NAMES
            ),
        )
        for name in MADE
    }


@needs_quantizer
@pytest.mark.parametrize("name", MADE)
def test_file_matches_keras(exported, trained, digits, name):
    path, report = exported[name]
    images, classes = digits[0][-200:], digits[1][-200:]
    right = np.asarray(trained(images.astype("float32"))).argmax(-1)
    found = predict_tflite(path, images).argmax(-1)
    most = {"dynamic_int8": 0.01, "int16": 0.01, "dynamic_int4": 0.08}[name]
    assert abs((right == classes).mean() - (found == classes).mean()) <= most
    assert report.score_error <= report.score_error_bound <= 0.5
    # The error distinguishes four bits from eight.
    assert (report.score_error > 0.05) == (name == "dynamic_int4")
    assert (report.quantization, report.input_type, report.output_type) == (name, "float32", "float32")
    described = describe_tflite(path)
    assert (described["inputs"][0]["dtype"], described["outputs"][0]["dtype"]) == ("float32", "float32")
    assert report.verified_on == f"{16 if name == 'int16' else 60} given images"
    assert report.path == str(path)
    assert report.file_bytes == path.stat().st_size
    assert str(report).startswith(f"{path}: {name}, ")


@needs_quantizer
@pytest.mark.parametrize("name", MADE)
def test_kernels_are_rounded_per_filter_and_stored_once(exported, trained, name):
    """The stem's kernel is rounded in numpy, where the largest value of each filter is the largest integer.

    It includes the factor of the normalization in front of it.
    """
    found = constants_of(exported[name][0])
    kernel = np.moveaxis(np.asarray(trained.get_layer("stem").kernel), -1, 0) / np.sqrt(9200)
    last = 7 if name == "dynamic_int4" else 127
    step = np.abs(kernel).max((1, 2, 3), keepdims=True) / last
    code, numbers = found["stem/k"]
    assert code == (schema.TensorType.INT4 if last == 7 else schema.TensorType.INT8)
    np.testing.assert_allclose(numbers, np.round(kernel / step) * step, atol=1e-6)
    kernels = {key for key, (_, numbers) in found.items() if numbers.size >= 3 * 3 * (32 // 4) * 8}
    assert len(kernels) == 1  # The shared layer is called three times.
    report = exported[name][1]
    weights = sum(np.prod(weight.shape) for weight in trained.trainable_weights if len(weight.shape) > 1)
    vectors = (report.stored_parameters - weights) * (8 if name == "int16" else 4)
    assert report.stored_weight_bytes == weights * (0.5 if last == 7 else 1) + vectors


@needs_quantizer
def test_class_names_are_kept(exported):
    assert {read_labels(path) for path, _ in exported.values()} == {NAMES}


@needs_quantizer
def test_precision_per_layer(trained, digits, tmp_path):
    """The first matching pattern applies; layers that match none remain in float."""
    chosen = {"stem": None, "s*": "dynamic_int4"}
    report = export_tflite(trained, tmp_path / "m.tflite", chosen, representative_data=digits[0][:20])
    types = {name: code for name, (code, _) in constants_of(tmp_path / "m.tflite").items()}
    assert types["stem/k"] == types["predict/k"] == schema.TensorType.FLOAT32
    assert types["shared/k"] == schema.TensorType.INT4
    assert report.quantization == chosen
    assert "stem: float32, s*: dynamic_int4" in str(report)


@needs_quantizer
def test_wrong_file_is_detected(trained, digits, tmp_path, monkeypatch):
    write = edge_quantizer.write_float_with_origins

    def of_other_kernels(graph, names):
        for kernel in graph.uses():
            kernel.array[:] = np.random.default_rng(0).permutation(kernel.array.reshape(-1)).reshape(kernel.array.shape)
        return write(graph, names)

    monkeypatch.setattr(edge_quantizer, "write_float_with_origins", of_other_kernels)
    with pytest.raises(ExportMismatchError, match="does not compute what Keras computes"):
        export_tflite(trained, tmp_path / "m.tflite", "dynamic_int8", representative_data=digits[0][:20])
    assert not list(tmp_path.iterdir())


@needs_quantizer
def test_lost_sharing_is_detected(trained, digits, tmp_path, monkeypatch):
    with_copies = convert(trained, prefer="speed")
    monkeypatch.setattr(edge_quantizer, "compacted", lambda data: with_copies)
    with pytest.raises(ExportMismatchError, match="removed the sharing"):
        export_tflite(trained, tmp_path / "m.tflite", "dynamic_int8", representative_data=digits[0][:20])
    assert not list(tmp_path.iterdir())


@needs_quantizer
def test_max_bytes(trained, tmp_path):
    least = export_tflite(trained, tmp_path / "a.tflite", "dynamic_int4").file_bytes
    assert export_tflite(trained, tmp_path / "b.tflite", "dynamic_int4", max_bytes=least).file_bytes <= least
    with pytest.raises(ValueError, match="`max_bytes`"):
        export_tflite(trained, tmp_path / "c.tflite", "dynamic_int4", max_bytes=least - 3000)


def test_kernel_rounding_error():
    """The error of a dense layer is computed in numpy; without rounding, it is zero."""
    random = np.random.default_rng(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(4, kernel_initializer="random_normal", use_bias=False)(inputs))
    _, graph = convert_with_graph(model)
    kernel, values = np.asarray(model.layers[-1].kernel), random.normal(size=(50, 6)).astype("float32")
    step = np.abs(kernel).max(0) / 7
    # 8 bits over the range of an image, which includes 0.
    lowest, highest = values.min(1, keepdims=True), values.max(1, keepdims=True)
    coarse = (np.maximum(highest, 0) - np.minimum(lowest, 0)) / 255
    rounded = (np.round(values / coarse) * coarse) @ (np.round(kernel / step) * step)
    expected = np.linalg.norm(rounded - values @ kernel) / np.linalg.norm(values @ kernel)
    (error,) = kernel_rounding_error(graph, (values,), lambda operation: (4, 8))
    np.testing.assert_allclose(error, expected, rtol=1e-3)
    assert kernel_rounding_error(graph, (values,), lambda operation: None) == (0.0,)


@needs_quantizer
def test_rounding_of_pixels_is_explained(tmp_path):
    """Pixels minus 127.5 lie between two steps of 8 bits, so that rounding changes all of them by half a step."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 127.5, -1)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))
    pixels = images(0, 6, (8, 8, 3)).round()
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = 0, 255
    data, graph = convert_with_graph(model, quantization="dynamic_int8")
    (tmp_path / "m.tflite").write_bytes(data)
    right, found = np.asarray(model(pixels)), predict_tflite(tmp_path / "m.tflite", pixels)
    error = np.linalg.norm(found - right) / np.linalg.norm(right)
    bits = functools.partial(edge_quantizer.rounded_bits, "dynamic_int8")
    np.testing.assert_allclose(kernel_rounding_error(graph, (pixels,), bits)[0], error, rtol=0.1)


def clipped_network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    y = keras.layers.Conv2D(8, 3, activation="relu", bias_initializer="random_normal", name="wide")(inputs)
    return keras.Model(inputs, keras.layers.Dense(5, name="end")(keras.layers.Flatten()(y)))


@needs_quantizer
@pytest.mark.parametrize("quantization", ["int16", {"wide": "int16"}])
def test_clipping_is_explained(tmp_path, quantization):
    """The predicted error includes clipping of images brighter than those used for calibration."""
    model, dark = clipped_network(), images(0, 6, (4, 4, 3)) / 255
    data, graph = convert_with_graph(model, dark, quantization=quantization)
    (tmp_path / "m.tflite").write_bytes(data)
    bright = 1.5 * dark
    right, found = np.asarray(model(bright)), predict_tflite(tmp_path / "m.tflite", bright)
    error = np.linalg.norm(found - right) / np.linalg.norm(right)
    ranges = edge_quantizer.clipping_ranges(graph, quantization, (dark,))
    bits = functools.partial(edge_quantizer.rounded_bits, quantization)
    assert error > 0.1
    np.testing.assert_allclose(kernel_rounding_error(graph, (bright,), bits, ranges=ranges)[0], error, rtol=0.02)
    assert kernel_rounding_error(graph, (bright,), bits)[0] < 0.02
    assert edge_quantizer.clipping_ranges(graph, "dynamic_int8", (dark,)) == {}


@needs_quantizer
def test_clipping_of_verification_images_is_tolerated(tmp_path, monkeypatch):
    """Verification images that exceed the range of a few representative images are clipped, which is not an error."""
    model, checkered = clipped_network(), np.indices((1, 4, 4, 3))[1:3].sum(0) % 2
    report = export_tflite(model, tmp_path / "m.tflite", "int16", representative_data=checkered)
    assert report.score_error <= _checks.known("score_error_bound", report.score_error_bound) < 0.05
    monkeypatch.setattr(edge_quantizer, "clipping_ranges", lambda *arguments: {})
    with pytest.raises(ExportMismatchError, match="on 16 images"):
        export_tflite(model, tmp_path / "m.tflite", "int16", representative_data=checkered)


@pytest.mark.parametrize("name", [*MADE, {"shared": "dynamic_int8"}])
def test_missing_extra(trained, tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras_sharenets\[precisions\]'"):
        export_tflite(trained, tmp_path / "m.tflite", name)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("int4", "`quantization` (='int4') must be one of 'float32', 'float16', 'int8', 'dynamic_int8'"),
        ({}, "`quantization` (={}) must map patterns of layer names to precisions"),
        (
            {"stem": "int8"},
            "`quantization` assigns 'int8' to a layer, but must assign one of 'float32', 'dynamic_int8'",
        ),
        (["int8"], "`quantization` (=['int8']) must be one of"),
        ({"*": None, "dense*": None}, "`quantization` has a pattern 'dense*', but the layers are "),
    ],
)
def test_bad_argument(trained, tmp_path, quantization, message):
    with pytest.raises(ValueError, match=r"`quantization`") as caught:
        export_tflite(trained, tmp_path / "m.tflite", quantization)
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


@needs_quantizer
@pytest.mark.parametrize("quantization", ["int16", {"stem": "int16"}])
def test_int16_requires_representative_data(trained, tmp_path, quantization):
    with pytest.raises(ValueError, match=r"16'\) needs `representative_data`"):
        export_tflite(trained, tmp_path / "m.tflite", quantization)


@needs_quantizer
def test_input_type_must_be_float(trained, tmp_path):
    with pytest.raises(ValueError, match="`input_type`"):
        export_tflite(trained, tmp_path / "m.tflite", "dynamic_int8", input_type="uint8")


def test_parse_and_format():
    assert precisions.parse("stage*=dynamic_int8, *=float32") == {"stage*": "dynamic_int8", "*": None}
    assert precisions.tell(precisions.parse("a=int16,b=float32")) == "a: int16, b: float32"
