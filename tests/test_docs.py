"""The examples of the pages under `docs`, run unchanged in an empty folder with some images."""

import ast
import functools
import pathlib
import re
import shlex
import shutil
import subprocess

import keras
import numpy as np
import PIL.Image
import pytest
from harness import slow_after

import keras_sharenets as ksn
from keras_sharenets import cli
from keras_sharenets.cli.command import make_parser

DOCS = pathlib.Path(__file__).parent.parent / "docs"
# Run in order: each page uses the files of the previous ones.
DELIVERY = ("export", "check", "tensors", "quantize", "microcontroller", "browser", "mobile")
PAGE = "\n".join((DOCS / f"{name}.md").read_text() for name in DELIVERY)
WITH_COMMANDS = [
    path for path in (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))) if "\nsharenets " in path.read_text()
]
CLASSES = ("cat", "dog", "fox")
# Commands that access the npm registry (`tests/mobile/test_page.py` has the page), servers, and commands that need
# packages that are not installed for the tests (`tests/clients/test_onnx_files.py`).
NOT_RUN = ("sharenets page", "python -m http.server", "pip install", "sharenets export net.keras --to onnx")


def blocks(*languages, page=PAGE):
    """`(language, text)` of the blocks of a page, in order."""
    return re.findall(rf"```({'|'.join(languages)})\n(.*?)```", page, re.S)


def run_python(block, names):
    """Runs a block and returns the documented and actual values of its lines `expression  # value`."""
    exec(block, names)
    claims = re.findall(r"^([^#\n=(]\S.*?)  # ([\[({\"\dTF].*)$", block, re.M)
    return [(text, eval(text, names), ast.literal_eval(promise)) for text, promise in claims]


def run_shell(block):
    """Runs a block line by line: the programs of this repository in this process, others as subprocesses."""
    for line in block.splitlines():
        if line.startswith(NOT_RUN):
            continue
        words = shlex.split(line)
        if words[0] == "sharenets":
            assert cli.main(words[1:]) == 0, line
        elif shutil.which(words[0]):
            # unzip works but exits with 1 if there is data before the archive.
            assert subprocess.run(line, shell=True).returncode in (0, 1), line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)  # The accuracy of a file of an untrained network depends on its weights.
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(4):
            image = PIL.Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
            image.save(tmp_path / "images" / name / f"{index}.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return tmp_path


def few_layers(name, *, input_shape, num_classes):
    """Replaces a network of the library by a shared convolution, called twice, under the name in the page."""
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=2, arrangements=2, name="stage1_module1_spatial")
    x = inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(x)))
    for _ in range(2):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, "softmax")(x), name=name)


@pytest.mark.parametrize("quickly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_examples_run_with_the_documented_output(quickly, folder, monkeypatch):
    if quickly:  # Eager, since a few steps of a few layers take less time than compiling them.
        plain = functools.partialmethod(keras.Model.compile, run_eagerly=True, jit_compile=False)
        monkeypatch.setattr(keras.Model, "compile", plain)
        monkeypatch.setattr(ksn, "create_model", few_layers)
    names, checked = {}, 0
    for language, block in blocks("python", "shell"):
        if language == "shell":
            run_shell(block)
            continue
        for text, value, promise in run_python(block, names):
            assert value == promise, text
            checked += 1
    assert checked == 13
    assert (folder / "benchmark.json").is_file()
    assert (folder / "benchmark.png").is_file()
    assert (folder / "app" / "src" / "main" / "assets" / "net.tflite").is_file()
    if shutil.which("unzip"):
        assert (folder / "app/src/main/assets/labels.txt").read_text().split() == list(CLASSES)
    half, whole = ((folder / name).stat().st_size for name in ("half.tflite", "float.tflite"))
    assert half < whole


@pytest.mark.parametrize(("page", "number"), slow_after(1, [("networks", 2), ("own_network", 7), ("choose", 2)]))
def test_examples_of_a_page_by_itself(page, number, folder):
    names, checked = {}, 0
    for _, block in blocks("python", page=(DOCS / f"{page}.md").read_text()):
        for text, value, promise in run_python(block, names):
            assert value == promise, text
            checked += 1
    assert checked == number


@pytest.mark.slow
def test_choose_commands(folder):
    for _, block in blocks("shell", page=(DOCS / "choose.md").read_text()):
        run_shell(block)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_exist(page):
    """Including commands that take too long for a test, or need a GPU."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    code = "".join(block for language, block in found if language in ("", "shell")).replace("\\\n", "")
    lines = re.findall(r"^(?:\w+=\S+ )*(sharenets .*?)(?: &)?$", code, re.M)
    assert lines
    parser = make_parser(cli.LINE)
    for line in lines:
        parser.parse_args(shlex.split(line, comments=True)[1:])


def test_kotlin_listings_are_complete():
    """Checks without a compiler: brackets are balanced, and all LiteRT classes are imported."""
    listings = [text for _, text in blocks("kotlin")]
    assert len(listings) == 3
    for text in listings:
        for opening, closing in ("{}", "()", "[]"):
            assert text.count(opening) == text.count(closing)
    imported = set(re.findall(r"^import [\w.]+\.(\w+)$", listings[1], re.M))
    assert {"Interpreter", "DataType", "Bitmap", "ByteBuffer"} <= imported
    for name in imported:
        assert len(re.findall(rf"\b{name}\b", listings[1])) > 1, f"{name} is imported and not used"


def test_the_listing_of_the_app_is_the_file_that_was_compiled():
    (listing,) = [text for _, text in blocks("kotlin") if "class Classifier(" in text]
    file = DOCS.parent / "examples/android/app/src/main/kotlin/org/example/classifier/Classifier.kt"
    assert file.read_text() == f"package org.example.classifier\n\n{listing}"
