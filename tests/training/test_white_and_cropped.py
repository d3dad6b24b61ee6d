"""Runs with whitening, and with crops of images of different sizes, from the data to the exported files."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from keras_sharenets import files, mobile
from trainers.cli import main

CLASSES = ("ant", "bee")


def metrics(folder):
    return json.loads((pathlib.Path(folder) / "metrics.json").read_text())


def test_run_with_whitening(quick_network, tmp_path, capsys, monkeypatch):
    """The network is trained, evaluated, and exported; TensorFlow converts its whitening layer."""
    monkeypatch.chdir(tmp_path)
    network = "--model hscnet_m32_g4_r2_b1_a2 --model-option width=(16,) --model-option arrangements=1"
    recipe = "--normalization zca --epochs 1 --batch-size 359 --jit-compile false"
    assert main(f"fit {network} --data digits {recipe} --output white".split()) == 0
    assert main(["evaluate", "white/last.keras", "--data", "digits"]) == 0
    assert f"accuracy {metrics('white')['test_accuracy']:.4f}" in capsys.readouterr().out
    assert main(["export", "white", "--forms", "float", "--test"]) == 0
    (entry,) = json.loads((tmp_path / "white" / "export" / "export.json").read_text())["files"]
    assert entry["report"]["fallback_layers"] == ["normalize"]
    assert entry["test_correct"] == round(metrics("white")["test_accuracy"] * 359)


def test_run_on_crops(quick_network, tmp_path, capsys, monkeypatch):
    """Images of different sizes with area crops and the plateau schedule: training, evaluation, export, prediction."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        (tmp_path / "sizes" / name).mkdir(parents=True)
        for number in range(10):
            image = random.integers(0, 100, (20 + number, 24, 3), np.uint8) + np.uint8(150 * label)
            PIL.Image.fromarray(image).save(tmp_path / "sizes" / name / f"{number}.png")
    network = "--model hscnet_m32_g4_r2_b1_a2 --model-option width=(16,) --model-option arrangements=1"
    recipe = "--recipe shardnet-tiny-imagenet --crop-size 8 --epochs 2 --batch-size 8 --jitter 0.2 --lighting 0.1"
    arguments = f"fit {network} --data sizes --input-shape 0 0 3 {recipe} --jit-compile false --output crops"
    assert main(arguments.split()) == 0
    model = files.load_model("crops/last.keras")
    assert model.input_shape == (None, 8, 8, 3)
    assert (
        main(["evaluate", "crops/last.keras", "--data", "sizes", "--input-shape", "0", "0", "3", "--crops", "center"])
        == 0
    )
    accuracy = metrics("crops")["test_accuracy"]
    assert f"accuracy {accuracy:.4f}" in capsys.readouterr().out
    assert main(["report", "crops"]) == 0
    assert f"{accuracy:.4f} ({round(4 * accuracy)} of 4)" in (tmp_path / "crops" / "report.html").read_text()
    assert main(["export", "crops", "--forms", "float", "--test"]) == 0
    assert files.read_labels("crops/export/float.tflite") == CLASSES
    # The float file is correct for the same crops as Keras.
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].split()[-1] == f"{round(4 * accuracy) / 4:.2%}"
    assert "The files contain no such crop: crop images in your program" in output.err
    # 23 x 24 pixels are resized to 9 x 10; the center crop starts at row round(0.5) and column 1.
    small = PIL.Image.open("sizes/ant/3.png").resize((10, 9), PIL.Image.Resampling.BILINEAR)
    pixels = np.asarray(small, "float32")[0:8, 1:9]
    expected = mobile.predict_tflite("crops/export/float.tflite", pixels[None])[0]
    for file in ("crops", "crops/last.keras", "crops/export/float.tflite"):
        assert main(["predict", file, "sizes/ant/3.png", "--json"]) == 0
        output = capsys.readouterr()
        assert "predictions on the center crop of images resized so that the short side is 8/7" in output.err
        answer = {entry["class"]: entry["probability"] for entry in json.loads(output.out)[0]["classes"]}
        assert answer == pytest.approx(dict(zip(CLASSES, expected.tolist(), strict=True)), abs=1e-4)
    # Of the ten views, half are mirrored, so their mean is the same for a mirrored image.
    PIL.Image.open("sizes/ant/3.png").transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save("mirrored.png")
    images = ["sizes/ant/3.png", "mirrored.png"]
    for crops, equal in (("ten", True), ("none", False)):
        assert main(["predict", "crops/last.keras", *images, "--crops", crops, "--json"]) == 0
        first, second = (each["classes"] for each in json.loads(capsys.readouterr().out))
        assert (first[0]["probability"] == pytest.approx(second[0]["probability"], abs=1e-6)) == equal
