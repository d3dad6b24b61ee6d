import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from mobile_networks import NAMES
from tensor_names import tensor_names

from keras_sharenets.mobile import describe_tflite, predict_tflite
from keras_sharenets.mobile.inspect.file import open_tflite


def test_predict_matches_interpreter(tflite_files, digits):
    """Quantization follows value = scale * (integer - zero point)."""
    path, images = tflite_files["int8"][0], digits[0][-4:]
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for image in images:
        scale, zero_point = entry["quantization"]
        integers = np.clip(np.round(image / scale) + zero_point, 0, 255).astype(np.uint8)
        interpreter.set_tensor(entry["index"], integers[None])
        interpreter.invoke()
        scale, zero_point = end["quantization"]
        expected.append(scale * (interpreter.get_tensor(end["index"])[0].astype(float) - zero_point))
    outputs = predict_tflite(path, images)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_predict_clips_out_of_range_values(tflite_files):
    path = tflite_files["int8"][0]
    white, too_white = np.full((1, 8, 8, 1), 255), np.full((1, 8, 8, 1), 700)
    np.testing.assert_array_equal(predict_tflite(path, white), predict_tflite(path, too_white))


def test_predict_empty_batch(tflite_files):
    assert predict_tflite(tflite_files[None][0], np.zeros((0, 8, 8, 1))).shape == (0, 10)


def test_images_that_are_not_finite(tflite_files):
    """As an integer, NaN would be a number."""
    with pytest.raises(ValueError, match="`images` contains values that are not finite"):
        predict_tflite(tflite_files["int8"][0], np.full((1, 8, 8, 1), np.nan))


@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 8, 8, 3), (2, 8, 9, 1)])
def test_wrong_image_shape(tflite_files, shape):
    with pytest.raises(ValueError, match=r"`images` must have the shape \(n, 8, 8, 1\), has"):
        predict_tflite(tflite_files[None][0], np.zeros(shape))


def test_describe(tflite_files):
    path, report = tflite_files[None]
    description = describe_tflite(path)
    assert description["file_bytes"] == path.stat().st_size
    assert sum(description["constant_bytes"].values()) == report.file_weight_bytes
    assert set(description["constant_bytes"]) <= {"float32", "int32"}
    (entry,), (end,) = description["inputs"], description["outputs"]
    assert (entry["shape"], entry["dtype"], entry["scale"]) == ([1, 8, 8, 1], "float32", None)
    assert (end["shape"], end["dtype"], end["zero_point"]) == ([1, 10], "float32", None)
    assert description["signatures"] == {"classify": {"inputs": ["images"], "outputs": ["probabilities"]}}
    assert description["labels"] == list(NAMES)
    assert description["operators"]["CONV_2D"] == 4
    assert description["operators"]["SOFTMAX"] == 1


def test_describe_int8(tflite_files):
    description = describe_tflite(tflite_files["int8"][0])
    (entry,), (end,) = description["inputs"], description["outputs"]
    # Raw pixel values; LiteRT prescribes the scale of a softmax.
    assert (entry["dtype"], entry["scale"], entry["zero_point"]) == ("uint8", 1.0, 0)
    assert (end["dtype"], end["scale"], end["zero_point"]) == ("uint8", 1 / 256, 0)


def test_tensors_are_named_after_their_layers(tflite_files):
    names = tensor_names(tflite_files[None][0].read_bytes())
    assert names[0] == "images"
    assert names[-4:] == ["predict/k", "predict/b", "predict", "probabilities"]
    assert [name for name in names if name.startswith("stem")] == ["stem/k", "stem/b", "stem"]
    # Three uses share one kernel and one zero bias.
    assert [name for name in names if name.startswith("shared/")] == ["shared/k", "shared/b"]


def test_bad_num_threads(tflite_files):
    with pytest.raises(ValueError, match=r"`num_threads` \(=0\) must be a positive integer"):
        open_tflite(tflite_files[None][0], num_threads=0)


@pytest.mark.parametrize(
    "use", [open_tflite, describe_tflite, lambda path: predict_tflite(path, np.zeros((1, 8, 8, 1)))]
)
def test_missing_file(tmp_path, use):
    with pytest.raises(ValueError, match=r"There is no file .*none\.tflite"):
        use(tmp_path / "none.tflite")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x89PNG\r\n\x1a\n and so on", b"PK\3\4" + bytes(200)])
def test_foreign_file(tmp_path, data):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"foreign\.tflite is not a TFLite file: it has no TFLite identifier"):
        open_tflite(path)


def test_truncated_file(tflite_files, tmp_path):
    whole, path = tflite_files["int8"][0].read_bytes(), tmp_path / "cut.tflite"
    # The archive of labels after the flatbuffer is not needed to run the file.
    flatbuffer = whole.index(b"PK\3\4")
    lengths = [8, 9, 12, 16, 20, 40, 100, 500, 1000, *np.linspace(1500, flatbuffer - 16, 20).astype(int)]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.tflite (is damaged|is not a TFLite file: it ends)"):
            open_tflite(path)


def test_random_bytes(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "random.tflite"
    for length in (16, 100, 1000, 20000):
        path.write_bytes(random.bytes(4) + b"TFL3" + random.bytes(length))
        with pytest.raises(ValueError, match=r"random\.tflite (is damaged|is not a TFLite file: it ends)"):
            open_tflite(path)
        path.write_bytes(b"\x08\0\0\0TFL3" + random.bytes(length))
        with pytest.raises(ValueError, match=r"random\.tflite is damaged"):
            open_tflite(path)


def test_flipped_bits(tflite_files, tmp_path):
    """Flipped bits either change the outputs or cause a `ValueError`, and nothing else."""
    whole, path = tflite_files[None][0].read_bytes(), tmp_path / "flipped.tflite"
    random, refused = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(8, len(whole), 40):
            damaged[position] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            predict_tflite(path, np.zeros((1, 8, 8, 1)))
        except ValueError:
            refused += 1
    assert refused > 0


def test_file_of_a_network_without_images(tmp_path):
    import tensorflow as tf

    function = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec((3,), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    path = tmp_path / "vector.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(ValueError, match=r"vector\.tflite is not a classifier for one image at a time"):
        predict_tflite(path, np.zeros((1, 8, 8, 1)))
    assert describe_tflite(path)["labels"] is None
