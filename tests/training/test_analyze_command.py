"""`sharenets analyze`: files, page, and errors."""

import json
import re

import keras
import numpy as np
import pytest

from keras_sharenets import analysis, files
from keras_sharenets.cli import main
from keras_sharenets.models import create_model
from keras_sharenets.training.data.dataset import Arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a plain network for digits."""
    folder = tmp_path_factory.mktemp("analyze")
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, activation="relu", name="first")(images)
    x = keras.layers.Conv2D(5, 1, name="blend1")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    files.save_model(keras.Model(images, keras.layers.Dense(10, activation="softmax")(x)), folder / "plain.keras")
    return folder


def test_weights_without_data(folder, tmp_path):
    output = tmp_path / "out"
    assert main(["analyze", str(folder / "plain.keras"), "--weights", "--output", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {"weights.png", "norms.png", "analysis.json", "index.html"}
    about = json.loads((output / "analysis.json").read_text())["weights"]["plain"]
    model = files.load_model(folder / "plain.keras")
    kernels = [np.asarray(model.get_layer(name).kernel) for name in ("first", "blend1")]
    weights = np.concatenate([kernel.ravel() for kernel in kernels])
    assert (about["weights"], about["filters"]) == (6 * 9 + 6 * 5, 6 + 5)
    assert about["weight_deviation"] == pytest.approx(weights.std(), rel=1e-5)
    assert about["share_below_0.01"] == (abs(weights) < 0.01).mean()


@pytest.mark.slow
def test_complete_analysis(folder, tmp_path):
    shared = tmp_path / "shared.keras"
    files.save_model(create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(8, 8, 1)), shared)
    output = tmp_path / "out"
    words = ["--data", "digits", "--limit-images", "50", "--output", str(output)]
    assert main(["analyze", str(folder / "plain.keras"), str(shared), *words]) == 0
    data = json.loads((output / "analysis.json").read_text())
    assert set(data) == {"networks", "weights", "activations", "filters"}
    (maps,) = data["activations"]["plain"]
    assert (maps["layer"], sum(maps["images_per_class"])) == ("first", 50)
    assert np.sum(maps["strongest_by_class"]) == 50
    page = (output / "index.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', page)) == 9
    assert len(list(output.glob("*.png"))) == 9


@pytest.mark.slow
def test_images_are_read_in_batches(folder, tmp_path, digits, monkeypatch):
    """The counts equal those of all images at once."""
    sizes, pixels = [], Arrays.pixels
    monkeypatch.setattr(Arrays, "pixels", lambda self, chosen: [sizes.append(len(chosen)), pixels(self, chosen)][1])
    words = ["--activations", "--data", "digits", "--output", str(tmp_path / "out")]
    assert main(["analyze", str(folder / "plain.keras"), *words]) == 0
    assert set(sizes) == {256, len(digits.test) - 256}
    (found,) = json.loads((tmp_path / "out" / "analysis.json").read_text())["activations"]["plain"]
    model = files.load_model(folder / "plain.keras")
    (maps,) = analysis.activation_maps(model, digits.test.images.astype("float32"), digits.test.labels)
    np.testing.assert_array_equal(found["strongest_by_class"], maps.strongest)
    np.testing.assert_array_equal(found["active_images"], maps.active)


@pytest.mark.slow
def test_blending_layers_are_pruned(folder, tmp_path):
    output = tmp_path / "out"
    words = ["--blending", "--fractions", "0", "0.5", "--baseline", "resnet_8", "--data", "digits"]
    assert main(["analyze", str(folder / "plain.keras"), *words, "--output", str(output)]) == 0
    report = json.loads((output / "analysis.json").read_text())["blending"]["plain"]
    assert [row["zeroed"] for row in report["curve"]] == [0, 15]
    baseline = analysis.count_parameters(create_model("resnet_8", num_classes=10), "conv_kernels_and_biases")
    assert report["curve"][1]["compression"] == baseline / (6 * 10 + 7 * 5 - 15)


def test_bad_arguments_create_no_output(folder, tmp_path, capsys):
    output = str(tmp_path / "out")
    for words, message in (
        (["--part", "0"], "error: `--part` (=0.0) must be above 0"),
        (["--limit-images", "0"], "error: `--limit-images` (=0) must be a positive integer."),
        (["--activations"], "error: `--data` is required"),
    ):
        assert main(["analyze", str(folder / "plain.keras"), *words, "--output", output]) == 2
        assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "out").exists()
