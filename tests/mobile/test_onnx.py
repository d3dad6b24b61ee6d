"""Errors of `export_onnx`; tests/clients/test_onnx_files.py tests the files."""

import sys

import numpy as np
import pytest

from keras_sharenets import cli
from keras_sharenets.mobile import export_onnx


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tf2onnx"])
def test_missing_package(plain, tmp_path, monkeypatch, capsys, package):
    for name in ("onnx", "onnxruntime", "tf2onnx"):
        monkeypatch.setitem(sys.modules, name, type(np)(name))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=package) as caught:
        export_onnx(plain, tmp_path / "net.onnx")
    assert caught.value.name == package
    plain.save(tmp_path / "net.keras")
    assert cli.main(["export", str(tmp_path / "net.keras"), "--to", "onnx"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == f"error: No module named {package!r}: pip install 'keras_sharenets[onnx]'"
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]


def test_tflite_options_do_not_apply_to_onnx(plain, tmp_path, capsys):
    plain.save(tmp_path / "net.keras")
    for option, value in (("--quantization", "float16"), ("--prefer", "speed"), ("--max-bytes", "9")):
        assert cli.main(["export", str(tmp_path / "net.keras"), "--to", "onnx", option, value]) == 2
        assert f"`{option}` does not apply to `--to onnx`" in capsys.readouterr().err
