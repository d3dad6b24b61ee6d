import io
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tensor_names import tensor_names

from keras_sharenets.mobile import export_tflite, size_report
from keras_sharenets.mobile.export.metadata import write_labels
from keras_sharenets.mobile.inspect.file import read_buffer, read_labels


def packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def text_bytes(text):
    """The size of a string with its length of 4 bytes and its terminating zero."""
    return 4 + len(text) + 1


def tensor(name, shape, dtype, buffer, scales=None):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, dtype, buffer
    if scales is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = scales, [0] * len(scales)
        made.quantization.quantizedDimension = 3
    return made


def buffer(array):
    made = schema.BufferT()
    made.data = np.frombuffer(array.tobytes(), "uint8")
    return made


@pytest.fixture
def known_file():
    """A file with known contents: two equal kernels, a vector, a shape, and an unused buffer."""
    kernel, types = np.arange(18, dtype="int8"), schema.TensorType
    part, model = schema.SubGraphT(), schema.ModelT()
    part.tensors = [
        tensor("one", [1, 3, 3, 2], types.INT8, 1, [0.5, 0.25]),
        tensor("again", [2, 3, 3, 1], types.INT8, 2),
        tensor("bias", [1, 1, 1, 5], types.INT32, 3, [1.0]),
        tensor("shape", [4], types.INT32, 4),
        tensor("same buffer", [1, 3, 3, 2], types.INT8, 1),
    ]
    part.inputs, part.outputs, part.operators, part.name = [0], [0], [], "main"
    model.version, model.description, model.subgraphs, model.operatorCodes = 3, "by hand", [part], []
    arrays = [kernel, kernel, np.arange(5, dtype="int32"), np.arange(4, dtype="int32"), np.arange(7, dtype="uint8")]
    model.buffers = [schema.BufferT(), *map(buffer, arrays)]
    return model


def test_parts_of_known_file(known_file, tmp_path):
    path = tmp_path / "hand.tflite"
    path.write_bytes(packed(known_file))
    report = size_report(path)
    assert report.constants == {"int8 kernels": 18, "int32 vectors": 20, "int32 shapes": 16, "unused": 7}
    assert report.repeated_constants == 18
    names = ["one", "again", "bias", "shape", "same buffer", "main", "by hand"]
    assert report.names == sum(map(text_bytes, names))
    # A length of 4 bytes, 4 bytes per scale, and 8 per zero point; a table of 2 or 3 fields and 4 bytes.
    vectors = (4 + 2 * 4) + (4 + 2 * 8) + (4 + 4) + (4 + 8)
    assert vectors + 2 * 12 <= report.quantization_parameters <= vectors + 2 * 24
    assert report.metadata == 0
    assert sum(report.parts.values()) == report.file_bytes == path.stat().st_size


@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_exported_file(tflite_files, quantization):
    path, exported = tflite_files[quantization]
    report, data = size_report(path), path.read_bytes()
    assert (report.path, report.file_bytes) == (str(path), len(data))
    assert sum(report.parts.values()) == len(data)
    assert sum(report.constants.values()) == exported.file_weight_bytes
    assert report.repeated_constants == 0
    names = [*tensor_names(data), "main", "classify", "images", "probabilities"]
    assert report.names == sum(map(text_bytes, names))
    assert (report.quantization_parameters == 0) == (quantization != "int8")


def test_class_names_are_metadata(plain, tmp_path):
    bare, named = tmp_path / "bare.tflite", tmp_path / "named.tflite"
    export_tflite(plain, bare)
    named.write_bytes(write_labels(bare.read_bytes(), ["a", "b", "c"]))
    before, after, data = size_report(bare), size_report(named), named.read_bytes()
    # The 3x3 kernel, which includes the scale of the pixel values, and the classifier's kernel; the biases.
    kernels, vectors = 9 * 3 * 4 + 4 * 3, 4 + 3
    assert before.constants == {"float32 kernels": 4 * kernels, "float32 vectors": 4 * vectors, "int32 shapes": 4 * 2}
    assert after.constants == before.constants
    assert after.names == before.names
    model = schema.Model.GetRootAs(data)
    buffers = {name: len(read_buffer(model, name)) for name in ("labels", "TFLITE_METADATA")}
    archive = len(data) - data.index(b"PK\3\4")
    # Class names replace the metadata of a file without class names.
    assert read_labels(bare) is None
    described = read_buffer(schema.Model.GetRootAs(bare.read_bytes()), "TFLITE_METADATA")
    assert before.metadata == len(described) + text_bytes("TFLITE_METADATA")
    assert after.metadata == archive + sum(buffers.values()) + sum(map(text_bytes, buffers))
    assert sum(after.parts.values()) == len(data)


def test_archive_written_by_another_program(tflite_files, tmp_path):
    """A separate archive that is appended to the file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("notes.txt", "nothing")
    whole = tflite_files[None][0].read_bytes()
    bare = whole[: whole.index(b"PK\3\4")]
    (tmp_path / "bare.tflite").write_bytes(bare)
    (tmp_path / "net.tflite").write_bytes(bare + archive.getvalue())
    more = size_report(tmp_path / "net.tflite").metadata - size_report(tmp_path / "bare.tflite").metadata
    assert more == len(archive.getvalue())


def test_file_converted_by_tensorflow(tmp_path):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, activation="relu", bias_initializer="glorot_uniform")(inputs)
    x = keras.layers.Dense(4, activation="softmax", bias_initializer="glorot_uniform")(keras.layers.Flatten()(x))
    path = tmp_path / "conversion.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, x)).convert())
    report = size_report(path)
    assert report.constants["float32 kernels"] == 4 * (9 * 3 * 5 + 6 * 6 * 5 * 4)
    assert report.constants["float32 vectors"] == 4 * (5 + 4)
    assert report.constants["int32 shapes"] > 0
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    (part,) = model.subgraphs
    tensors = [entry.name for entry in part.tensors]
    (signature,) = model.signatureDefs
    entries = [entry.name for entry in (*signature.inputs, *signature.outputs)]
    names = [*tensors, *entries, part.name, signature.signatureKey, model.description]
    # The custom codes of builtin operators may be empty strings.
    codes = [code.customCode for code in model.operatorCodes if code.customCode is not None]
    assert report.names == sum(text_bytes(name) for name in [*names, *codes])
    assert report.metadata > 0
    assert sum(report.parts.values()) == report.file_bytes


def test_invalid_files(tflite_files, tmp_path):
    path = tmp_path / "net.tflite"
    with pytest.raises(ValueError, match=r"There is no file .*net\.tflite"):
        size_report(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    with pytest.raises(ValueError, match=r"net\.tflite is not a TFLite file"):
        size_report(path)
    path.write_bytes(b"\0\0\0\0TFL3abc")  # No tables.
    with pytest.raises(ValueError, match=r"net\.tflite is a damaged TFLite file"):
        size_report(path)
    whole = tflite_files["int8"][0].read_bytes()
    for length in np.linspace(300, whole.index(b"PK\3\4") - 200, 10).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"net\.tflite is (not a|a damaged) TFLite file"):
            size_report(path)


def test_flipped_bits(tflite_files, tmp_path):
    """Flipped bits cause a `ValueError`, or every byte is still counted in one part."""
    whole, path = tflite_files["int8"][0].read_bytes(), tmp_path / "flipped.tflite"
    random, refused = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(8, len(whole), 40):
            damaged[position] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            assert sum(size_report(path).parts.values()) == len(whole)
        except ValueError:
            refused += 1
    assert refused > 0
