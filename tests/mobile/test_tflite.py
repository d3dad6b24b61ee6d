import dataclasses

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from harness import slow_after
from mobile_networks import NAMES, small_network, train, with_noise

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.graph.inference_graph import Constant
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.inspect.file import read_labels

QUANTIZATIONS = (None, "float16", "int8")


def flatbuffer(path):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_file_matches_keras(tflite_files, trained, digits, quantization):
    path, report = tflite_files[quantization]
    images, classes = digits[0][-500:], digits[1][-500:]
    expected = np.asarray(trained(images.astype("float32")))
    outputs = predict_tflite(path, images)
    atol = {None: 1e-5, "float16": 1e-2, "int8": 0.3}[quantization]
    np.testing.assert_allclose(outputs, expected, atol=atol)
    accuracy = [(run.argmax(-1) == classes).mean() for run in (expected, outputs)]
    assert accuracy[0] > 0.8
    assert abs(accuracy[0] - accuracy[1]) <= 0.02
    assert (outputs.argmax(-1) == expected.argmax(-1)).mean() >= 0.97
    assert report.verified_on == "64 given images"
    assert report.top1_agreement >= 0.95


@pytest.mark.slow
def test_stored_weights_can_be_reproduced(trained, digits):
    images, classes = digits[0][-500:].astype("float32"), digits[1][-500:]
    found, again = (np.asarray(model(images)).argmax(-1) for model in (trained, train(digits)))
    assert min((found == classes).mean(), (again == classes).mean()) > 0.88
    assert (found == again).mean() > 0.9


def test_report(tflite_files, digits):
    kernels = 3 * 3 * 1 * 32 + 3 * 3 * (32 // 4) * 32 // (2 * 2) + 32 * 10
    vectors = 32 + 3 * (32 + 32) + 10
    sizes = {None: (4, 4), "float16": (2, 2), "int8": (1, 4)}
    for quantization, (path, report) in tflite_files.items():
        assert report.path == str(path)
        assert report.quantization == quantization
        assert report.file_bytes == path.stat().st_size
        assert report.stored_parameters == kernels + vectors
        kernel_bytes, vector_bytes = sizes[quantization]
        assert report.stored_weight_bytes == kernels * kernel_bytes + vectors * vector_bytes
        buffers = {tensor.buffer for tensor in flatbuffer(path).subgraphs[0].tensors}
        constants = [flatbuffer(path).buffers[index].data for index in buffers]
        assert report.file_weight_bytes == sum(len(data) for data in constants if data is not None)
        assert report.repetition == report.file_weight_bytes / report.stored_weight_bytes
        assert report.classes == len(NAMES)
    # Scale and shift of each use, the arranged copy of the shared kernel, and a few shapes are repeated or added.
    assert tflite_files[None][1].repetition < 1.5


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_operators_types_and_shared_buffers(tflite_files, quantization):
    path, _ = tflite_files[quantization]
    model = flatbuffer(path)
    graph, names = model.subgraphs[0], {code: name for name, code in vars(schema.BuiltinOperator).items()}
    kinds = [names[code.builtinCode] for code in model.operatorCodes]
    assert {"CUSTOM", "TILE", "GATHER"}.isdisjoint(kinds)
    filters, buffers = [], []
    for operator in graph.operators:
        if kinds[operator.opcodeIndex] == "CONV_2D":
            inputs, kernel = (tuple(graph.tensors[index].shape) for index in operator.inputs[:2])
            filters.append((inputs, kernel))
            wide = operator.inputs[1]
            narrow = [
                o.inputs[0] for o in graph.operators if wide in o.outputs
            ]  # The float16 source of a dequantized kernel.
            buffers.append(graph.tensors[narrow[0] if narrow else wide].buffer)
    # The channel repeats form a batch of two, and one period of the kernel has two groups.
    assert filters == [((1, 8, 8, 1), (32, 3, 3, 1))] + 3 * [((2, 8, 8, 16), (16, 3, 3, 8))]
    assert buffers[1] == buffers[2] == buffers[3]
    types = {graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)}
    everything = {tensor.type for tensor in graph.tensors}
    kind = schema.TensorType
    if quantization == "int8":
        assert types == {kind.UINT8}
        ends = {*graph.inputs, *graph.outputs}
        inside = {tensor.type for index, tensor in enumerate(graph.tensors) if index not in ends}
        assert inside == {kind.INT8, kind.INT32}
    else:
        assert types == {kind.FLOAT32}
        assert (kind.FLOAT16 in everything) == (quantization == "float16")
    signatures = Interpreter(model_content=path.read_bytes()).get_signature_list()
    assert signatures == {"classify": {"inputs": ["images"], "outputs": ["probabilities"]}}
    assert read_labels(path) == NAMES


def test_stored_bytes_of_plain_network(plain, tmp_path):
    report = export_tflite(plain, tmp_path / "plain.tflite")
    parameters = 3 * 3 * 3 * 4 + 4 + 4 * 3 + 3
    # The rescaling is part of the first kernel; the mean stores its two axes.
    assert report.file_weight_bytes == 4 * (parameters + 2)
    assert report.stored_weight_bytes == 4 * parameters
    assert report.verified_on == "16 synthetic images"
    assert report.largest_difference < 1e-5
    assert read_labels(tmp_path / "plain.tflite") is None


def test_logits_are_called_scores(tmp_path, digits):
    model, path = small_network(None), tmp_path / "scores.tflite"
    export_tflite(model, path)
    assert Interpreter(str(path)).get_signature_list()["classify"]["outputs"] == ["scores"]
    images = digits[0][:8]
    np.testing.assert_allclose(predict_tflite(path, images), model(images.astype("float32")), rtol=1e-4, atol=1e-4)


def test_representative_data_in_batches(plain, tmp_path):
    random = np.random.default_rng(0)
    batches = (random.integers(0, 256, (count, 6, 5, 3), dtype="uint8") for count in (3, 4))
    assert (
        export_tflite(plain, tmp_path / "m.tflite", quantization="int8", representative_data=batches).verified_on
        == "7 given images"
    )
    assert (
        export_tflite(plain, tmp_path / "m.tflite", representative_data=[np.zeros((6, 5, 3))]).verified_on
        == "1 given image"
    )


@pytest.mark.parametrize(
    ("network", "quantization"),
    slow_after(
        2,
        [
            ("trained", "int8"),
            ("saturated", None),
            ("trained", None),
            ("trained", "float16"),
            ("saturated", "float16"),
            ("saturated", "int8"),
        ],
    ),
)
def test_wrong_file_is_detected(request, digits, tmp_path, monkeypatch, network, quantization):
    model, right = request.getfixturevalue(network), conversion.convert
    monkeypatch.setattr(conversion, "convert", lambda given, **how: right(lower_model(with_noise(given.model)), **how))
    with pytest.raises(ExportMismatchError, match=r"64 images, and was not written: relative error of the scores"):
        export_tflite(model, tmp_path / "wrong.tflite", quantization=quantization, representative_data=digits[0][:64])
    assert not list(tmp_path.iterdir())


def test_saturated_network_is_compared_by_logits(saturated, digits, tmp_path, monkeypatch):
    images = digits[0][:64]
    probabilities = np.asarray(saturated(images.astype("float32")))
    assert (np.minimum(probabilities, 1 - probabilities) < 1e-6).mean() > 0.99
    assert (
        export_tflite(saturated, tmp_path / "m.tflite", quantization="int8", representative_data=images).score_error
        < 0.2
    )
    right = conversion.convert

    def with_weak_end(lowered, **how):
        """Logits divided by five: the same class has probability 1 for every image."""
        copy = keras.models.clone_model(lowered.model)
        *weights, kernel, bias = lowered.model.get_weights()
        copy.set_weights([*weights, kernel / 5, bias / 5])
        return right(lower_model(copy), **how)

    monkeypatch.setattr(conversion, "convert", with_weak_end)
    with pytest.raises(ExportMismatchError, match=r"relative error of the scores 0\.8"):
        export_tflite(saturated, tmp_path / "wrong.tflite", quantization="int8", representative_data=images)


def test_rounding_error_is_distinguished_from_a_wrong_file(tmp_path):
    """The difference of two nearly equal values is smaller than a quantization step."""
    inputs = keras.Input((6, 6, 3))
    one, other = (keras.layers.Conv2D(4, 1, activation="relu", name=name) for name in ("one", "other"))
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Subtract()([one(inputs), other(inputs)])))
    random = np.random.default_rng(0)
    other.set_weights([weight + 1e-3 * random.normal(size=weight.shape) for weight in one.get_weights()])
    images = random.uniform(0, 255, (8, 6, 6, 3))
    with pytest.raises(ExportMismatchError, match=r"limit [\d.e-]+\)\. Rounding alone causes .* No int8 file can"):
        export_tflite(model, tmp_path / "net.tflite", quantization="int8", representative_data=images)


def test_small_error_in_int8_file_is_detected(trained, digits, tmp_path, monkeypatch):
    """The error is larger than this network's rounding error, although other networks may have such rounding errors."""
    right = conversion.write_int8

    def off(quantized, *names, **ends):
        """Reduces the last kernel by a tenth in the file only."""
        *before, last, end = quantized.graph.operations
        kernel = Constant("weaker", last.kernel.array * 0.9)
        graph = quantized.graph.with_operations([*before, dataclasses.replace(last, kernel=kernel), end])
        kernels = {**quantized.kernels, kernel: quantized.kernels[last.kernel]}
        return right(dataclasses.replace(quantized, graph=graph, kernels=kernels), *names, **ends)

    images = digits[0][:64]
    report = export_tflite(trained, tmp_path / "right.tflite", "int8", representative_data=images)
    assert report.score_error <= report.score_error_bound < 0.1
    assert report.worst_layer in [layer.name for layer in trained.layers]
    assert 0 < report.worst_layer_error < 0.1
    monkeypatch.setattr(conversion, "write_int8", off)
    with pytest.raises(ExportMismatchError, match=f"layer '{report.worst_layer}' has the largest error"):
        export_tflite(trained, tmp_path / "wrong.tflite", "int8", representative_data=images)


def test_existing_file_survives_a_failure(plain, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(conversion, "convert", lambda *_, **how: (b"\0\0\0\0TFL3", None))
    with pytest.raises(ValueError, match="The converted file is damaged"):
        export_tflite(plain, path)
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int4"}, r"`quantization` \(='int4'\) must be one of 'float32', 'float16', 'int8'"),
        ({"quantization": "int8"}, "needs `representative_data`"),
        ({"representative_data": np.zeros((2, 5, 6, 3))}, r"of shape \(6, 5, 3\), but contains an array of shape"),
        ({"representative_data": np.zeros((0, 6, 5, 3))}, "contains no images"),
        ({"representative_data": iter(())}, "contains no images"),
        ({"representative_data": 7}, "must be an array of images or an iterable"),
        ({"representative_data": [(np.zeros((2, 6, 5, 3)), np.zeros(2)) * 2]}, "but provided a tuple of 4"),
        ({"representative_data": np.full((2, 6, 5, 3), "0")}, "must contain numbers, but contains <U1"),
        ({"representative_data": np.full((2, 6, 5, 3), np.nan)}, "not finite"),
        ({"class_names": ["a", "b"]}, "`class_names` has 2 entries, but the network has 3 classes"),
        ({"class_names": "abc"}, "not one string"),
    ],
)
def test_bad_argument(plain, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(conversion, "convert", lambda *_, **how: pytest.fail("work was done before the check"))
    with pytest.raises(ValueError, match=message):
        export_tflite(plain, tmp_path / "m.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_path_is_a_folder(plain, tmp_path):
    with pytest.raises(ValueError, match="must be a file, but is a folder"):
        export_tflite(plain, tmp_path)


def _network(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_network_gives_the_same_file(tmp_path, policy):
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    models = []
    for dtype in ("float32", policy):
        convolve = keras.layers.Conv2D(4, 3, strides=2, dtype=dtype, name="convolve")
        layers = [
            keras.layers.Rescaling(1 / 255, name="scale"),
            convolve,
            keras.layers.Flatten(dtype=dtype, name="flat"),
        ]
        classify = keras.layers.Dense(3, "softmax", dtype=dtype, name="classify")
        models.append(_network((8, 8, 3), *layers, classify))
    models[1].set_weights(models[0].get_weights())
    for model, name in zip(models, ("full", "half"), strict=True):
        export_tflite(model, tmp_path / name, quantization="int8", representative_data=images)
    assert (tmp_path / "full").read_bytes() == (tmp_path / "half").read_bytes()


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _network((None, None, 3), keras.layers.GlobalMaxPooling2D()), "Export needs a fixed image size"),
        (Subclassed, "must be a functional or sequential Keras model"),
        (lambda: "model.keras", "must be a Keras model, not its name or file: .* load it with"),
    ],
)
def test_network_that_cannot_be_exported(tmp_path, build, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(build(), tmp_path / "m.tflite")


def test_non_finite_weights(plain, tmp_path):
    model = keras.models.clone_model(plain)
    model.set_weights([np.full_like(weight, np.nan) for weight in plain.get_weights()])
    with pytest.raises(ValueError, match="not finite"):
        export_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_other_backend(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="set the environment variable KERAS_BACKEND=tensorflow"):
        export_tflite(plain, tmp_path / "m.tflite")


def test_scores_whose_squares_overflow(tmp_path):
    """The measures of agreement have no unit: a layer that multiplies by 1e24 does not change them."""
    reports = []
    for scale in (1, 1e24):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        model = keras.Model(inputs, keras.layers.Rescaling(scale)(keras.layers.Dense(3)(inputs)))
        data = np.random.default_rng(0).normal(0, 1, (8, 6)).astype("float32")
        reports.append(export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=data))
    one, other = reports
    assert other.score_error == pytest.approx(one.score_error, rel=0.1)
    assert other.score_variation == pytest.approx(one.score_variation, rel=0.1)
    assert other.tells


def test_constant_network_causes_a_warning(tmp_path, digits):
    """Agreement is meaningless if all outputs are equal: the report has a warning instead."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, kernel_initializer="zeros")(inputs))
    constant = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    with pytest.warns(UserWarning, match="On 20 given images, the comparison is not meaningful.* train it"):
        report = export_tflite(constant, tmp_path / "net.tflite", representative_data=digits[0][:20])
    assert report.score_variation == 0
    assert "the comparison is not meaningful" in str(report)
    assert "%" not in str(report)


@pytest.mark.parametrize(("share", "words"), [(1.0, "100.0%, which is good"), (0.95, "is fair"), (0.5, "is poor")])
def test_report_as_text(tflite_files, share, words):
    report = dataclasses.replace(tflite_files["int8"][1], top1_agreement=share)
    assert words in str(report)
    assert f"largest rounding error: layer '{report.worst_layer}'" in str(report)
    # A single image has no variation.
    assert words in str(dataclasses.replace(report, score_variation=None))
