"""Input and output types of int8 files: types other than int8 add one operator each and do not change results."""

import itertools

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from harness import slow_after
from mobile_networks import NAMES
from tensor_names import check_names

from keras_sharenets import cli
from keras_sharenets.mobile import compare_tflite, describe_tflite, export_tflite, predict_tflite, size_report
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.inspect.benchmark import operator_times

# Input and output are independent: `make test` covers every type of each in some pair.
ENDS = [("uint8", "float32"), ("float32", "int8"), ("int8", "uint8")]
ENDS += [pair for pair in itertools.product(conversion.END_TYPES, repeat=2) if pair not in ENDS]


def run_interpreter(path, image):
    """The raw output of the interpreter for an image, and the details of the input and the output."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(entry["index"], image.astype(entry["dtype"])[None])
    interpreter.invoke()
    return interpreter.get_tensor(end["index"])[0], entry, end


@pytest.fixture(scope="module")
def int8_file(trained, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("ends") / "int8.tflite"
    types = {"input_type": "int8", "output_type": "int8"}
    return path, export_tflite(trained, path, "int8", representative_data=digits[0][:64], class_names=NAMES, **types)


def test_default_types(tflite_files):
    """Most programs accept uint8: see MediaPipe, LiteRT.js, and OpenVINO in docs/clients.md."""
    report = tflite_files["int8"][1]
    assert (report.input_type, report.output_type) == ("uint8", "uint8")
    assert (tflite_files[None][1].input_type, tflite_files[None][1].output_type) == ("float32", "float32")


@pytest.mark.parametrize(("taken", "given"), slow_after(2, ENDS))
def test_input_and_output_types_do_not_change_results(int8_file, trained, digits, tmp_path, taken, given):
    path, images = tmp_path / "net.tflite", digits[0][-8:]
    types = {"input_type": taken, "output_type": given}
    report = export_tflite(trained, path, "int8", representative_data=digits[0][:64], class_names=NAMES, **types)
    assert (report.input_type, report.output_type) == (taken, given)
    described = describe_tflite(path)
    assert (described["inputs"][0]["dtype"], described["outputs"][0]["dtype"]) == (taken, given)
    assert described["signatures"] == {"classify": {"inputs": ["images"], "outputs": ["probabilities"]}}
    operators, plain = described["operators"], describe_tflite(int8_file[0])["operators"]
    assert sum(operators.values()) - sum(plain.values()) == (taken != "int8") + (given != "int8")
    np.testing.assert_array_equal(predict_tflite(path, images), predict_tflite(int8_file[0], images))
    # The added operators and their tensor names.
    assert 0 <= report.file_bytes - int8_file[1].file_bytes <= 500
    check_names(path.read_bytes(), trained)
    assert sum(size_report(path).parts.values()) == report.file_bytes


def test_uint8_input_takes_raw_pixels(int8_file, trained, digits, tmp_path):
    path, image = tmp_path / "net.tflite", digits[0][-1]
    # No pixel is above 200: an input with the range of these images would clip brighter ones.
    dark = (digits[0][:64] * (200 / 255)).round()
    export_tflite(trained, path, "int8", representative_data=dark, input_type="uint8", output_type="float32")
    answer, entry, end = run_interpreter(path, image)
    assert (entry["dtype"], entry["quantization"]) == (np.uint8, (1.0, 0))
    assert (end["dtype"], end["quantization"]) == (np.float32, (0.0, 0))
    np.testing.assert_array_equal(answer, predict_tflite(path, image[None])[0])
    np.testing.assert_allclose(answer, np.asarray(trained(image[None].astype("float32")))[0], atol=0.3)


def test_inputs_other_than_pixels_keep_their_scale(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    images = np.random.default_rng(0).uniform(-1, 1, (32, 4, 4, 3)).astype("float32")
    outputs = []
    for taken in ("int8", "uint8"):
        path = tmp_path / f"{taken}.tflite"
        export_tflite(model, path, "int8", representative_data=images, input_type=taken, output_type="uint8")
        outputs.append(predict_tflite(path, images))
        _, entry, _ = run_interpreter(path, np.zeros((4, 4, 3)))
        scale, zero_point = entry["quantization"]
        assert scale == pytest.approx(2 / 255, rel=0.01)
        assert zero_point == {"int8": 0, "uint8": 128}[taken]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("shape", [(4, 4, 1), (16,)])
def test_numbers_below_zero_are_no_pixels(tmp_path, shape):
    """Temperatures from -30 to 150: pixels outside 0 to 255 are rare and only in images."""
    layer = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), layer])
    temperatures = np.linspace(-30, 150, 16 * 16).reshape(16, *shape).astype("float32")
    path = tmp_path / "net.tflite"
    export_tflite(model, path, "int8", representative_data=temperatures)
    (entry,) = describe_tflite(path)["inputs"]
    assert (entry["dtype"], entry["scale"]) == ("uint8", pytest.approx(180 / 255, rel=0.01))
    assert entry["zero_point"] == pytest.approx(255 / 6, abs=1)


@pytest.mark.parametrize(("given", "partitions"), slow_after(1, [("uint8", 1), ("float32", 2)]))
def test_operators_added_for_other_types(trained, digits, tmp_path, given, partitions):
    path = tmp_path / "net.tflite"
    types = {"input_type": "uint8", "output_type": given}
    export_tflite(trained, path, "int8", representative_data=digits[0][:64], **types)
    (report,) = compare_tflite([path], repetitions=2)
    # Only the softmax and the conversions are undelegated; a delegate dequantizes the softmax.
    assert report.delegate_partitions <= partitions
    assert set(report.undelegated_operators) <= {"SOFTMAX", "QUANTIZE", "DEQUANTIZE"}
    counts = {time.name: time.count for time in operator_times(path, repetitions=2, warmup=0)}
    assert counts["QUANTIZE"] + counts.get("DEQUANTIZE", 0) == 2


@pytest.mark.parametrize("quantization", [None, "float16"])
@pytest.mark.parametrize("name", ["input_type", "output_type"])
def test_float_files_require_float_types(plain, tmp_path, quantization, name):
    path = tmp_path / "net.tflite"
    with pytest.raises(ValueError, match=rf'`{name}` \(=.uint8.\) is for `quantization="int8"`'):
        export_tflite(plain, path, quantization, **{name: "uint8"})
    with pytest.raises(ValueError, match=rf"`{name}` \(='int16'\) must be one of"):
        export_tflite(plain, path, quantization, **{name: "int16"})
    assert not list(tmp_path.iterdir())
    assert getattr(export_tflite(plain, path, quantization, **{name: "float32"}), name) == "float32"


def test_command(plain, tmp_path, capsys):
    plain.save(tmp_path / "net.keras")
    assert cli.main(["export", str(tmp_path / "net.keras"), "--input-type", "uint8"]) == 2
    assert "`input_type` (='uint8') is for `quantization=\"int8\"`" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "net.keras"), "--to", "saved_model", "--output-type", "uint8"]) == 2
    assert "`--output-type` does not apply to `--to saved_model`" in capsys.readouterr().err
