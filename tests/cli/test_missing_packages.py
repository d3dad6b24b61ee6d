"""If a package is missing, a command prints how to install it before any work."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / "saved_models" / "hscnet_m32_g4_r2_b1_a2_cifar10"
SMALL = "small.keras"
TRAINED, TO = ("--model", "resnet_8", "--data", "digits", "--output"), ("--output", "out")
FIT = ("fit", *TRAINED, "run")
AT_ONCE = [
    (
        "matplotlib",
        "pip install matplotlib",
        ("benchmark", "a.tflite", "--accuracy", "a.tflite=1", "--figure", "a.png"),
    ),
    ("shtab", "pip install shtab", ("--print-completion", "bash")),
    ("keras_tuner", "[tuning]'", ("search", "--space", "hscnet", "--data", "digits", "--trials", "1", *TO)),
    ("tensorboard", "pip install 'keras_sharenets[plots]'", (*FIT, "--tensorboard")),
    ("tensorflow_model_optimization", "[mobile]'", ("compress", SMALL, "--data", "digits", "--prune", "0.5", *TO)),
    ("tf_keras", "[mobile]'", ("compress", SMALL, "--data", "digits", "--prune", "0.5", *TO)),
    ("tf2onnx", "[onnx]'", ("export", SMALL, "--to", "onnx", "--output", "a.onnx")),
]
WITH_KERAS = [
    ("matplotlib", "pip install matplotlib", FIT),
    (
        "matplotlib",
        "pip install matplotlib",
        ("find-rate", *TRAINED, "a.png"),
    ),
    ("matplotlib", "pip install matplotlib", ("compare", RUN, *TO)),
    ("matplotlib", "pip install matplotlib", ("analyze", RUN, "--weights", *TO)),
    ("sklearn", "pip install scikit-learn", FIT),
    ("ai_edge_quantizer", "[precisions]'", ("export", SMALL, "--quantization", "int16", "--output", "a.tflite")),
    ("ai_edge_litert", "pip install ai-edge-litert flatbuffers", ("size", RUN / "int8.tflite")),
    ("PIL", "pip install pillow", ("predict", SMALL, ROOT / "docs" / "sharing.png")),
]


@pytest.mark.parametrize(
    ("package", "hint", "words"), [*AT_ONCE, *(pytest.param(*case, marks=pytest.mark.slow) for case in WITH_KERAS)]
)
def test_error_names_the_install_command(package, hint, words, tmp_path):
    if SMALL in words:
        image = keras.Input((8, 8, 1))
        features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(image))
        keras.Model(image, keras.layers.Dense(10, activation="softmax")(features)).save(tmp_path / SMALL)
    command = [sys.executable, pathlib.Path(__file__).with_name("without_package.py"), package, *words]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    # Progress messages may precede the error.
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stderr.endswith(f"{hint}\n")
    assert {path.name for path in tmp_path.iterdir()} <= {SMALL}


@pytest.mark.slow
def test_choose_measures_time_without_keras_tuner(tmp_path):
    """`keras_tuner` belongs to an extra."""
    program = pathlib.Path(__file__).with_name("without_package.py")
    words = ("choose", "--classes", "2", "--max-ms", "1000", "--limit", "1")
    command = [sys.executable, program, "keras_tuner", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("network ")


def test_missing_tensorflow_datasets(monkeypatch, sharenets, tmp_path):
    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'tensorflow_datasets'", name="tensorflow_datasets")

    monkeypatch.setattr("keras_sharenets.training.data.tfds.prepared", lambda name, folder: tmp_path)
    monkeypatch.setattr("keras_sharenets.training.data.tfds._load", missing)
    status, _, error = sharenets("fit", "--model", "resnet_8", "--data", "cifar10", "--output", tmp_path / "run")
    assert (status, error) == (2, "error: No module named 'tensorflow_datasets': pip install 'keras_sharenets[data]'\n")
