"""Files of networks with several inputs and outputs of any shape match Keras and keep the names."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_sharenets.mobile import describe_tflite, export_tflite

RANDOM = np.random.default_rng(0)
DATA = {
    "left": RANDOM.uniform(0, 255, (12, 8, 8, 3)).astype("float32"),
    "right": RANDOM.uniform(0, 255, (12, 8, 8, 3)).astype("float32"),
    "age": RANDOM.uniform(0, 99, (12, 5)).astype("float32"),
}


def multitask_network():
    """Two images with a shared convolution, and a vector; a dict of classes, a number, and a map."""
    left, right, age = (keras.Input(DATA[name].shape[1:], name=name) for name in DATA)
    shared = layers.Conv2D(8, 3, padding="same", activation="relu", bias_initializer="random_normal")
    x = shared(left / 255.0) + shared(layers.Rescaling(1 / 255)(right))
    y = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Dense(4)(age * 0.01)])
    kind = layers.Dense(5, activation="softmax", kernel_initializer="random_normal")(y)
    outputs = {"kind": kind, "years": layers.Dense(1)(y), "map": layers.Conv2D(3, 1, activation="softmax")(x)}
    return keras.Model([left, right, age], outputs)


def run_signature(path, examples):
    """Outputs of the signature: `{name: array}`."""
    run = Interpreter(str(path)).get_signature_runner("classify")
    count = len(next(iter(examples.values())))
    results = [run(**{name: array[i : i + 1] for name, array in examples.items()}) for i in range(count)]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_several_inputs_and_outputs(tmp_path, quantization):
    model, path = multitask_network(), tmp_path / "net.tflite"
    ends = {"input_type": "float32", "output_type": "float32"}
    report = export_tflite(model, path, quantization, representative_data=DATA, **ends)
    assert report.score_error <= report.score_error_bound
    assert describe_tflite(path)["signatures"]["classify"] == {
        "inputs": ["age", "left", "right"],
        "outputs": ["kind", "map", "years"],
    }
    expected, results = model(list(DATA.values())), run_signature(path, DATA)
    tolerance = {None: 1e-5, "float16": 5e-3, "int8": 0.05}[quantization]
    for name, array in expected.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(results[name], array, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(
    "data",
    [
        list(DATA.values()),
        lambda: ({name: array[i] for name, array in DATA.items()} for i in range(12)),
        lambda: ([array[i : i + 1] for array in DATA.values()] for i in range(12)),
        lambda: (({name: array[:6] for name, array in DATA.items()}, np.zeros(6)) for _ in range(2)),
    ],
    ids=["arrays", "dicts of one", "lists of batches", "with labels"],
)
def test_representative_data_for_several_inputs(tmp_path, data):
    assert (
        export_tflite(multitask_network(), tmp_path / "net.tflite", representative_data=data).verified_on
        == "12 given examples"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"left": DATA["left"], "right": DATA["right"]},
            "the inputs 'left', 'right', 'age', but has 'left', 'right'",
        ),
        ({**DATA, "age": DATA["age"][:3]}, "same number of examples for each input, but has 12, 12, 3"),
        ({**DATA, "age": DATA["right"]}, r"representative_data\['age'\]` must contain examples of shape \(5\)"),
        ([DATA["left"], DATA["right"]], "an array for each of the inputs 'left', 'right', 'age'"),
        (7, "must contain an array for each of the inputs"),
    ],
    ids=["missing", "too few", "shape", "short", "number"],
)
def test_bad_representative_data(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(multitask_network(), tmp_path / "net.tflite", "int8", representative_data=data)


def test_class_names_require_one_output(tmp_path):
    with pytest.raises(ValueError, match="`class_names` require a network with one output; `model` has 3"):
        export_tflite(multitask_network(), tmp_path / "net.tflite", class_names=["a"])


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_repeated_intermediate_and_input_outputs(tmp_path, quantization):
    keras.utils.set_random_seed(0)
    left = keras.Input((8, 8, 3), name="left")
    x = layers.Conv2D(4, 3, name="first")(left)
    y = layers.BatchNormalization(name="norm")(x)
    scores = layers.GlobalAveragePooling2D(name="mean")(layers.ReLU()(y))
    kind = layers.Softmax(name="kind")(scores)
    last, path = layers.Dense(2, name="last")(kind), tmp_path / "net.tflite"
    model = keras.Model(left, [x, y, scores, kind, kind, left, last])
    ends = {"input_type": "float32", "output_type": "float32"}
    export_tflite(model, path, quantization, representative_data=DATA["left"], **ends)
    results = run_signature(path, {"images": DATA["left"]})
    names = ("first", "norm", "mean", "kind", "kind_2", "output", "last")
    for name, expected in zip(names, model(DATA["left"]), strict=True):
        tolerance = (1e-5 if quantization is None else 0.05) * np.abs(expected).max()
        np.testing.assert_allclose(results[name], expected, atol=tolerance, err_msg=name)


def test_vector_input_and_map_output(tmp_path):
    vector = keras.Input((6,), name="numbers")
    image = layers.Reshape((4, 4, 2))(layers.Dense(32, activation="relu")(vector))
    model, path = keras.Model(vector, layers.Conv2D(3, 3, activation="softmax")(image)), tmp_path / "net.tflite"
    data = RANDOM.normal(size=(8, 6)).astype("float32")
    report = export_tflite(model, path, representative_data=data)
    assert report.top1_agreement == 1
    np.testing.assert_allclose(run_signature(path, {"numbers": data})["probabilities"], model(data), atol=1e-5)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize(
    "begin", [layers.Rescaling(1 / 255), lambda x: keras.ops.cast(x, "float32") / 255], ids=["layer", "function"]
)
def test_integer_input(tmp_path, dtype, begin, quantization):
    inputs, path = keras.Input((8, 8, 3), dtype=dtype), tmp_path / "net.tflite"
    model = keras.Model(inputs, layers.Conv2D(4, 3, bias_initializer="ones")(begin(inputs)))
    # Less than 0 to 255: verification images are in the same range.
    images = RANDOM.integers(3, 201, (16, 8, 8, 3)).astype(dtype)
    report = export_tflite(model, path, quantization, representative_data=images)
    assert report.fallback_layers == ()
    (name,) = describe_tflite(path)["signatures"]["classify"]["outputs"]
    assert report.input_type == ("float32" if quantization is None else "uint8")
    results = run_signature(path, {"images": images.astype(report.input_type)})[name]
    end = describe_tflite(path)["outputs"][0]
    if quantization:
        results = (results.astype("float32") - end["zero_point"]) * end["scale"]
    np.testing.assert_allclose(results, model(images), atol=1e-5 if quantization is None else 0.05)


def test_unsuitable_indices(tmp_path):
    """Of an embedding: synthetic ones are too large, and fractions are not indices."""
    inputs, path = keras.Input((5,), dtype="int32", name="words"), tmp_path / "net.tflite"
    model = keras.Model(inputs, layers.Flatten()(layers.Embedding(10, 4)(inputs)))
    with pytest.raises(ValueError, match=r"cannot compute synthetic examples .*: pass `representative_data`"):
        export_tflite(model, path)
    data = RANDOM.uniform(0, 9, (8, 5)).astype("float32")
    with pytest.raises(ValueError, match="must contain integers: the input 'words' is int32"):
        export_tflite(model, path, representative_data=data)
    report = export_tflite(model, path, representative_data=np.round(data))
    assert report.score_error < 1e-6


def test_constant_output(tmp_path):
    inputs = keras.Input((4, 4, 1), name="image")
    x = layers.Dense(3, name="scores")(layers.Flatten()(inputs))
    model = keras.Model(inputs, [x, layers.Lambda(lambda x: 2 * keras.ops.ones_like(x), name="two")(x)])
    export_tflite(model, tmp_path / "net.tflite")
    image = RANDOM.uniform(0, 255, (1, 4, 4, 1)).astype("float32")
    results = run_signature(tmp_path / "net.tflite", {"images": image})
    np.testing.assert_array_equal(results["two"], [[2, 2, 2]])
    np.testing.assert_allclose(results["scores"], model(image)[0], rtol=1e-5)
