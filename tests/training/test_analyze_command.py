"""`sharenets analyze`: files, page, and errors."""

import argparse
import io
import json
import re

import keras
import numpy as np
import PIL.Image
import pytest

from keras_sharenets import analysis, files
from keras_sharenets.cli import analyze, main
from keras_sharenets.models import create_model
from keras_sharenets.rendering.figures import NARROW_DPI
from keras_sharenets.rendering.page import page
from keras_sharenets.training.data.dataset import Arrays, make_dataset


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
    assert '<div class="scroll"><img' not in (output / "index.html").read_text()  # A phone shows the figures whole.
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
    text = (output / "index.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', text)) == 9
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


def test_images_of_any_size_need_their_size(tmp_path, capsys):
    images = keras.Input((None, None, 1))
    file, words = tmp_path / "any.keras", ["--weights", "--output", str(tmp_path / "out")]
    files.save_model(keras.Model(images, keras.layers.Conv2D(6, 3, padding="same", use_bias=False)(images)), file)
    assert main(["analyze", str(file), *words]) == 2
    assert "`input_shape` must specify the unknown dimensions" in capsys.readouterr().err
    assert main(["analyze", str(file), *words, "--input-shape", "8", "8", "1"]) == 0
    assert f"{8 * 8 * 9 * 6:,}" in (tmp_path / "out" / "index.html").read_text()


def test_images_of_a_run_on_crops(tmp_path):
    """The network takes crops of 8 pixels, the images have 10."""
    x = images = keras.Input((8, 8, 1))
    for _ in range(2):
        x = keras.layers.Conv2D(2, 3, activation="relu")(x)
    network = analyze._Network("crops", keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)), crops="center")
    part = Arrays(np.random.default_rng(0).integers(0, 256, (4, 10, 10, 1)).astype("uint8"), np.arange(4) % 2)
    dataset = make_dataset("noise", "noise", ["a", "b"], part, part)
    asked = argparse.Namespace(layers=None, part=0.5, input_shape=None)
    assert analyze._profile(asked, network, dataset).multiply_adds == 6 * 6 * 9 * 2 + 4 * 4 * 9 * 2 * 2
    places = {"crops": analyze._activations(asked, network, dataset)}
    images, sections = {}, {}
    assert analyze._filters([network], places, dataset, images, sections)["crops"]["layer"] == places["crops"][0].name
    analyze._show_activations(places, dataset, images, sections)
    assert set(images) == {"kernels.png", "exciting.png", "high.png", "strongest.png"}
    # A phone shows all figures whole, with readable letters.
    assert '<div class="scroll"><img' not in page("Figures", "", sections)
    assert all(PIL.Image.open(io.BytesIO(image)).width <= 5.7 * NARROW_DPI for image in images.values())


def test_bad_arguments_create_no_output(folder, tmp_path, capsys):
    output = str(tmp_path / "out")
    for words, message in (
        (["--part", "0"], "error: `--part` (=0.0) must be above 0"),
        (["--limit-images", "0"], "error: `--limit-images` (=0) must be a positive integer."),
        (["--activations"], "error: `--data` is required"),
        (["--model-option", "width=8"], "error: `--model-option` (=width=8) requires a named network."),
    ):
        assert main(["analyze", str(folder / "plain.keras"), *words, "--output", output]) == 2
        assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "out").exists()
