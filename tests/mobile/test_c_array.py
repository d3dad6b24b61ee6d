"""C source of a TFLite file: its bytes, and the operators to register with the microcontroller interpreter."""

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest

from keras_sharenets import cli
from keras_sharenets.mobile import describe_tflite, export_tflite, write_c_array
from keras_sharenets.mobile.export.c_array import _AVAILABLE, _method

# As declared in micro_mutable_op_resolver.h.
METHODS = [
    "Add",
    "AveragePool2D",
    "Concatenation",
    "Conv2D",
    "DepthwiseConv2D",
    "Dequantize",
    "FullyConnected",
    "Gather",
    "Logistic",
    "Maximum",
    "MaxPool2D",
    "Mean",
    "Minimum",
    "MirrorPad",
    "Mul",
    "Pad",
    "Quantize",
    "ReduceMax",
    "Relu",
    "Relu6",
    "Reshape",
    "Slice",
    "Softmax",
    "Sub",
    "Transpose",
]
RESOLVER = """
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
#define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (0)
namespace tflite {
template <int count>
struct MicroMutableOpResolver {
  int added = 0;
  TfLiteStatus add() { return ++added <= count ? kTfLiteOk : kTfLiteError; }
  METHODS
};
}
""".replace("METHODS", "\n  ".join(f"TfLiteStatus Add{name}() {{ return add(); }}" for name in METHODS))
PROGRAM = """
#include <cstdint>
#include <cstdio>
#include "small-net.h"
#include "small-net_operators.h"
int main() {
  tflite::MicroMutableOpResolver<small_net_operator_count> resolver;
  if (small_net_add_operators(resolver) != kTfLiteOk || resolver.added != small_net_operator_count) return 1;
  if (reinterpret_cast<std::uintptr_t>(small_net) % 16) return 2;
  return std::fwrite(small_net, 1, small_net_size, stdout) == small_net_size ? 0 : 3;
}
"""


@pytest.fixture
def written(tflite_files, tmp_path):
    return tflite_files["int8"][0], write_c_array(tflite_files["int8"][0], tmp_path / "small-net"), tmp_path


def test_source_contains_the_bytes_of_the_file(written):
    path, (source, header, operators), folder = written
    assert [source, header, operators] == [str(folder / f"small-net{end}") for end in (".c", ".h", "_operators.h")]
    text = (folder / "small-net.c").read_text()
    assert bytes(map(int, re.findall(r"\d+", text.partition("= {")[2].partition("}")[0]))) == path.read_bytes()
    called = re.findall(r"resolver\.Add(\w+)\(\)", (folder / "small-net_operators.h").read_text())
    assert len(called) == len(describe_tflite(path)["operators"])
    assert set(called) <= set(METHODS)


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("gcc") is None, reason="no C compiler")
def test_source_compiles(written):
    path, (source, *_), folder = written
    (folder / "tensorflow/lite/micro").mkdir(parents=True)
    (folder / "tensorflow/lite/micro/micro_mutable_op_resolver.h").write_text(RESOLVER)
    (folder / "main.cc").write_text(PROGRAM)
    for command in (
        ["gcc", "-std=c11", "-Wall", "-Werror", "-c", source, "-o", "c.o"],
        ["g++", "-std=c++17", "-Wall", "-Werror", "-x", "c++", "-c", source, "-o", "cpp.o"],
        ["g++", "-std=c++17", "-Wall", "-Werror", "-I", ".", "main.cc", "c.o", "-o", "from_c"],
        ["g++", "-std=c++17", "-Wall", "-Werror", "-I", ".", "main.cc", "cpp.o", "-o", "from_cpp"],
    ):
        subprocess.run(command, cwd=folder, check=True)
    for program in ("from_c", "from_cpp"):
        assert subprocess.run([folder / program], check=True, capture_output=True).stdout == path.read_bytes()


def test_invalid_files(plain, tmp_path):
    export_tflite(plain, tmp_path / "half.tflite", "float16")
    with pytest.raises(ValueError, match="has float16 weights, which LiteRT for Microcontrollers cannot convert"):
        write_c_array(tmp_path / "half.tflite", tmp_path / "net")
    (tmp_path / "none.tflite").write_bytes(b"nothing at all")
    with pytest.raises(ValueError, match=r"none.tflite is not a TFLite file: it has no TFLite identifier"):
        write_c_array(tmp_path / "none.tflite", tmp_path / "net")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.tflite", "none.tflite"]


def test_dynamic_quantization_is_refused(plain, tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    export_tflite(plain, tmp_path / "net.tflite", "dynamic_int8")
    with pytest.raises(ValueError, match="has integer weights for float values"):
        write_c_array(tmp_path / "net.tflite", tmp_path / "net")


def test_outputs_that_cannot_be_written(plain, tmp_path):
    export_tflite(plain, tmp_path / "float.tflite")
    with pytest.raises(ValueError, match=r"must not end in a word of C or C\+\+ \(=float\)"):
        write_c_array(tmp_path / "float.tflite", tmp_path / "float.c")
    with pytest.raises(ValueError, match=r"`output` .*float.tflite is a file"):
        write_c_array(tmp_path / "float.tflite", tmp_path / "float.tflite" / "net")


def test_missing_operators_are_named(tmp_path):
    """LiteRT for Microcontrollers has no GELU and no integer logarithm."""
    inputs = keras.Input((4,))
    export_tflite(keras.Model(inputs, keras.layers.Dense(3, activation="gelu")(inputs)), tmp_path / "net.tflite")
    with pytest.raises(ValueError, match=r"needs operators that LiteRT for Microcontrollers does not have: GELU\."):
        write_c_array(tmp_path / "net.tflite", tmp_path / "net")
    model = keras.Model(inputs, keras.layers.Dense(3, activation="mish")(inputs))
    images, ends = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), {"output_type": "int8"}
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images, input_type="int8", **ends)
    with pytest.raises(ValueError, match=r"does not have: LOG of integers\."):
        write_c_array(tmp_path / "net.tflite", tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]
    export_tflite(model, tmp_path / "net.tflite")
    assert len(write_c_array(tmp_path / "net.tflite", tmp_path / "net")) == 3
    assert set(METHODS) <= {_method(name) for name in _AVAILABLE.split()}


def test_command(plain, tmp_path, capsys):
    from PIL import Image

    plain.save(tmp_path / "net.keras")
    (tmp_path / "images").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    command = ["export", str(tmp_path / "net.keras"), "--to", "c_array"]
    assert cli.main([*command, "--quantization", "float16"]) == 2
    assert "`--to c_array` supports float32 and int8 only" in capsys.readouterr().err
    data = ["--quantization", "int8", "--representative-data", str(tmp_path / "images")]
    assert cli.main([*command, *data, "--output", str(tmp_path / "chip.c")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"input type +int8\n", told)
    assert re.search(r"prefer +memory\n", told)
    assert sorted(path.name for path in tmp_path.glob("chip*")) == ["chip.c", "chip.h", "chip_operators.h"]
