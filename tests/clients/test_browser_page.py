"""The page of `sharenets page` in a real browser: selected images, examples, the menu, and small screens."""

import keras
import numpy as np
import PIL.Image
import pytest

from keras_sharenets import mobile
from keras_sharenets.images import read_image
from keras_sharenets.mobile import predict_tflite

pytest.importorskip("playwright")
from tools.clients.browser import opened_page

pytestmark = pytest.mark.clients
NAMES = ("cat", "dog", "fox", "hen", "owl", "pig")
FLOAT, WHOLE = "100% float #1", "whole"  # Characters that have a meaning in a URL.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a float32 file, an int8 file with uint8 input, and six images, one of them larger."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 16, 16, 3), np.uint8)
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"{number}.png")
    PIL.Image.fromarray(random.integers(0, 256, (90, 70, 3), np.uint8)).save(folder / "5.png")
    for name, options in (
        (FLOAT, {}),
        (WHOLE, {"quantization": "int8", "input_type": "uint8", "output_type": "float32"}),
    ):
        keras.utils.set_random_seed(len(name))
        layers = [
            keras.Input((16, 16, 3)),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="softmax", kernel_initializer="he_normal"),
        ]
        path = folder / f"{name}.tflite"
        mobile.export_tflite(keras.Sequential(layers), path, representative_data=images, class_names=NAMES, **options)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    paths = [folder / f"{FLOAT}.tflite", folder / f"{WHOLE}.tflite"]
    with opened_page(paths, examples=[folder / "0.png", folder / "1.png"]) as page:
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page


def predictions_after(page, ask):
    """Calls `ask`, and returns the five lines `(class, share)` that the page shows then."""
    before = page.evaluate("document.getElementById('output').dataset.answered ?? '0'")
    ask()
    page.wait_for_function(f"(document.getElementById('output').dataset.answered ?? '0') !== '{before}'")
    return [tuple(line.inner_text().split("\n")[:2]) for line in page.query_selector_all("#bars li .line")]


@pytest.mark.parametrize("name", [FLOAT, WHOLE])
def test_predictions_match_litert(page, folder, name):
    page.select_option("#network", label=name)
    page.wait_for_selector(f"body[data-network='{name}']")
    for number in range(6):
        path = folder / f"{number}.png"
        shown = predictions_after(page, lambda path=path: page.set_input_files("#file", path))
        (expected,) = predict_tflite(folder / f"{name}.tflite", read_image(path, (16, 16, 3))[None])
        order = np.argsort(-expected)[:5]
        assert shown[0][0] == NAMES[order[0]]
        for label, share in shown:
            assert abs(float(share.rstrip(" %")) - 100 * expected[NAMES.index(label)]) < 0.5
    assert not page.errors


def test_examples_and_invalid_image(page, folder):
    by_click = predictions_after(page, lambda: page.click("#examples button:nth-child(2)"))
    by_file = predictions_after(page, lambda: page.set_input_files("#file", folder / "1.png"))
    assert by_click == by_file
    page.set_input_files("#file", folder / f"{FLOAT}.tflite")
    page.wait_for_selector("#status.error")
    assert "is not an image" in page.inner_text("#status")


def test_same_image_again_and_dropped_text(page, folder):
    predictions_after(page, lambda: page.set_input_files("#file", folder / "1.png"))
    # Otherwise a browser reports no change if the same file is chosen again.
    assert page.input_value("#file") == ""
    page.evaluate("document.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()}))")
    assert "Drop an image file" in page.inner_text("#status.error")


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_page_fits_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
