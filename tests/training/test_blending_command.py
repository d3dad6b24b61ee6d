import csv
import json
import re

import keras
import numpy as np
import PIL.Image
import pytest

from keras_sharenets import files
from keras_sharenets.analysis.blending import blending_patterns
from keras_sharenets.analysis.blending_pruning import prune_blending
from keras_sharenets.cli import blending as blending_command
from keras_sharenets.rendering.figures import NARROW_DPI
from keras_sharenets.training.run.network import build
from trainers.cli import main

MODEL = "sl3_resnet_64"
pytestmark = pytest.mark.usefixtures("eager")


def small_network(digits):
    keras.utils.set_random_seed(0)
    return build(MODEL, digits, {"width": 12, "blocks_per_stage": 1})


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, digits):
    """The file of a ShardNet with 12 channels."""
    path = tmp_path_factory.mktemp("blending") / "untrained.keras"
    files.save_model(small_network(digits), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """The file of the same network after a few epochs on digits."""
    model = small_network(digits)
    optimizer = keras.optimizers.SGD(0.05, 0.9, nesterov=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(digits.train.images.astype("float32"), digits.train.labels, batch_size=32, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("blending") / "last.keras"
    files.save_model(model, path)
    return path


def accuracy(model, digits):
    scores = keras.ops.convert_to_numpy(model(digits.test.images.astype("float32"), training=False))
    return float((scores.argmax(1) == digits.test.labels).mean())


@pytest.mark.slow  # By default, the test below covers the curve and the patterns of one layer.
def test_command_writes_curve_figures_and_page(trained, digits, tmp_path, capsys):
    output = tmp_path / "blending"
    options = "--fractions 0 0.5 0.9 --baseline 30000 --strongest 2"
    assert main(["blending", str(trained), "--data", "digits", "--output", str(output), *options.split()]) == 0
    printed = capsys.readouterr().err
    assert sorted(path.name for path in output.iterdir()) == [
        "curve.csv",
        "curve.json",
        "curve.png",
        "index.html",
        "patterns.png",
    ]
    model = files.load_model(trained)
    report = json.loads((output / "curve.json").read_text())
    assert report["accuracy"] == accuracy(model, digits) > 0.5
    with open(output / "curve.csv") as file:
        table = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in table] == report["curve"]
    assert [row["fraction"] for row in report["curve"]] == [0, 0.5, 0.9]
    for row in report["curve"]:
        pruned, pruning = prune_blending(model, row["fraction"], baseline=30000)
        assert row["accuracy"] == accuracy(pruned, digits)
        expected = (pruning.zeroed, pruning.remaining, pruning.compression)
        assert (row["zeroed"], row["remaining"], row["compression"]) == expected
        assert f"accuracy {row['accuracy']:.4f}, {row['remaining']:,} parameters left" in printed
    for pattern, plain in zip(blending_patterns(model, 2), report["patterns"], strict=True):
        assert (plain["layer"], plain["outputs"], plain["inputs"], plain["each"]) == (pattern.name, 12, 12, 2)
        assert np.array_equal(plain["blue_share"], pattern.blue_share)
        assert plain["chance"] == 2 / 12

    page = (output / "index.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', page)) == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<tr><td>accuracy as trained</td>" in page
    assert page.count("hardly uses</td>") == 2


def test_layers_and_ranking_options(untrained, tmp_path):
    options = ["--layers", "blend2", "--ranking", "per_layer", "--fractions", "0.5"]
    assert main(["blending", str(untrained), "--data", "digits", "--output", str(tmp_path / "out"), *options]) == 0
    report = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert report["ranking"] == "per_layer"
    assert report["curve"][0]["zeroed"] == 12 * 12 // 2
    assert report["curve"][0]["compression"] is None
    assert [pattern["layer"] for pattern in report["patterns"]] == ["blend2"]
    # A phone shows both figures whole, with readable letters.
    assert '<div class="scroll"><img' not in (tmp_path / "out" / "index.html").read_text()
    for name in ("curve.png", "patterns.png"):
        assert PIL.Image.open(tmp_path / "out" / name).width <= 5.7 * NARROW_DPI


def test_interrupted_run_keeps_finished_rows(untrained, tmp_path, capsys, monkeypatch):
    def interrupt(row):
        if row.fraction == 0.5:
            raise KeyboardInterrupt
        return "measured"

    monkeypatch.setattr(blending_command, "_summary", interrupt)
    options = ["--fractions", "0", "0.5", "0.9"]
    assert main(["blending", str(untrained), "--data", "digits", "--output", str(tmp_path / "out"), *options]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["curve.csv"]
    with open(tmp_path / "out" / "curve.csv") as file:
        assert [row["fraction"] for row in csv.DictReader(file)] == ["0.0", "0.5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fractions", "0.5", "1"], "error: `--fractions` (=1.0) must be at least 0 and below 1."),
        (["--baseline", "0"], "error: `--baseline` (=0) must be a positive integer."),
        (["--strongest", "0"], "error: `strongest` (=0) must be a positive integer."),
        (["--layers", "stem"], "error: `layers` (=['stem']) must be names of 1x1 convolutions"),
        (["--data", "nowhere"], "error: `data` (='nowhere') must be one of"),
        (["--output", "."], "error: The output directory . exists and is not an empty folder."),
    ],
)
def test_bad_arguments(untrained, options, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("42")
    monkeypatch.chdir(tmp_path)
    assert main(["blending", str(untrained), "--data", "digits", "--output", "out", *options]) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_network_without_blending_layers(tmp_path, capsys):
    images = keras.Input((8, 8, 1))
    files.save_model(keras.Model(images, keras.layers.Conv2D(2, 1, name="mix")(images)), tmp_path / "plain.keras")
    arguments = ["blending", str(tmp_path / "plain.keras"), "--data", "digits", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "must have 1x1 convolutions whose names begin with 'blend'" in capsys.readouterr().err
