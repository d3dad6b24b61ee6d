"""The contents of the browser page's folder; `tests/clients` opens the page in a browser."""

import base64
import dataclasses
import hashlib
import io
import json
import shutil
import socketserver
import subprocess
import tarfile
import threading
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from mobile_networks import convert

from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.page import site

RESIZE = """
import { readFileSync } from "node:fs";
import { resize } from "./resize.mjs";
const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([image, shape]) => Array.from(resize(image, shape)))));
"""


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A folder with stand-ins for the two npm packages, whose checksums replace the real ones."""
    folder, packages = tmp_path / "archives", []
    folder.mkdir()
    for package in site.PACKAGES:
        with tarfile.open(folder / package.archive, "w:gz") as archive:
            for member in package.members:
                entry = tarfile.TarInfo(f"package/{member}")
                entry.size = len(member)
                archive.addfile(entry, io.BytesIO(member.encode()))
        digest = hashlib.sha512((folder / package.archive).read_bytes()).digest()
        packages.append(dataclasses.replace(package, sha512=base64.b64encode(digest).decode()))
    monkeypatch.setattr(site, "PACKAGES", tuple(packages))
    return folder


@pytest.fixture(scope="module")
def net(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "net.tflite"
    path.write_bytes(convert(plain))
    return path


def test_folder_contains_all_resources_of_the_page(net, archives, tmp_path):
    image = np.zeros((400, 200, 3), "uint8")
    PIL.Image.fromarray(image).save(tmp_path / "tall.jpg")
    report = site.write_site([net], tmp_path / "site", examples=[tmp_path / "tall.jpg"], runtime=archives)
    written = tmp_path / "site"
    content = json.loads((written / "networks.json").read_text())
    (network,) = content["networks"]
    assert (written / network["file"]).read_bytes() == net.read_bytes()
    assert network["shape"] == [6, 5, 3]
    assert network["input"]["dtype"] == "float32"
    assert (network["kind"], network["probabilities"]) == ("multiclass", True)
    with PIL.Image.open(written / content["examples"][0]) as example:
        assert example.size == (80, 160)
    assert (written / "litert" / "index.js").read_text() == "dist/index.js"
    assert (written / "litert" / "wasm" / "litert_wasm_internal.wasm").exists()
    # The page loads files of the folder only, nothing from other hosts.
    html, script = (written / "index.html").read_text(), (written / "page.js").read_text()
    for name in ("page.css", "page.js", "resize.js", "litert/wasm-utils.js"):
        assert name in html + script
        assert (written / name).exists()
    assert "//" not in html.replace("<!doctype", "")
    assert "http" not in script.replace("needs https", "")
    assert report.total_bytes == sum(path.stat().st_size for path in written.rglob("*") if path.is_file())


def test_bytes_of_stored_and_used_kernels():
    """A 4-to-4 convolution that is called three times, between a 3-to-4 convolution and a 4-to-2 dense layer."""
    shared = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    for _ in range(3):
        x = shared(keras.layers.ReLU()(x))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    once, others = 9 * 4 * 4, 9 * 3 * 4 + 4 * 2
    # In a float16 file, operators read kernels that are converted to float32.
    for width, options in ((4, {}), (2, {"quantization": "float16"})):
        found = file.kernel_bytes(file.parse(convert(keras.Model(inputs, outputs), **options)))
        assert found == (width * (once + others), width * (3 * once + others))


def test_probabilities_are_found_before_a_reshape(tmp_path):
    inputs = keras.Input((6, 6, 3))
    outputs = keras.layers.Reshape((2,))(keras.layers.Softmax()(keras.layers.Conv2D(2, 6)(inputs)))
    (tmp_path / "net.tflite").write_bytes(convert(keras.Model(inputs, outputs)))
    assert site.describe(tmp_path / "net.tflite")["probabilities"]


def test_examples_are_not_smaller_than_the_input(net, archives, tmp_path, monkeypatch):
    described = site.describe(net) | {"shape": [300, 200, 3]}
    monkeypatch.setattr(site, "describe", lambda path: described)
    PIL.Image.new("RGB", (1000, 600)).save(tmp_path / "wide.png")
    site.write_site([net], tmp_path / "site", examples=[tmp_path / "wide.png"], runtime=archives)
    with PIL.Image.open(tmp_path / "site" / "example0.png") as example:
        assert example.size == (500, 300)


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_page_resizes_like_training(tmp_path):
    random, cases, expected = np.random.default_rng(0), [], []
    sizes = ((40, 30), (7, 5, 3)), ((40, 30), (7, 9, 1)), ((5, 1), (9, 4, 3)), ((6, 8), (6, 8, 3))
    for (height, width), shape in sizes:
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        image = PIL.Image.fromarray(pixels).convert("L" if shape[-1] == 1 else "RGB")
        expected.append(np.asarray(image.resize(shape[1::-1], PIL.Image.Resampling.BILINEAR)).ravel().astype(int))
        data = np.dstack([pixels, np.full((height, width, 1), 255)]).ravel().tolist()
        cases.append(({"data": data, "width": width, "height": height}, shape))
    shutil.copy(site._STATIC / "resize.js", tmp_path / "resize.mjs")
    (tmp_path / "test.mjs").write_text(RESIZE)
    command = ["node", str(tmp_path / "test.mjs")]
    output = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True).stdout
    for found, right in zip(json.loads(output), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1)


def test_invalid_arguments(net, archives, tmp_path):
    target = tmp_path / "site"
    two, maps, free = (tmp_path / f"{name}.tflite" for name in ("two", "maps", "free"))
    inputs = keras.Input((6, 6, 2))
    two.write_bytes(convert(keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs)))))
    inputs = keras.Input((6, 6, 3))
    maps.write_bytes(convert(keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))))
    function = tf.function(lambda x: tf.reduce_mean(x, (1, 2)), input_signature=[tf.TensorSpec((None, 6, 6, 3))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    free.write_bytes(converter.convert())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.tflite").write_bytes(net.read_bytes())
    (tmp_path / "text.jpg").write_text("no image")
    shutil.copy(net, tmp_path / "labeled.tflite")
    with zipfile.ZipFile(tmp_path / "labeled.tflite", "a") as archive:
        archive.writestr("labels.txt", "only\n")
    cases = [
        ([], {}, "`paths` is empty"),
        ([two], {}, r"takes \(1, 6, 6, 2\); the page provides one image of 1 or 3 channels"),
        ([maps], {}, r"gives \(1, 6, 6, 2\); the page shows one vector of classes"),
        ([free], {}, "declares a dimension as -1, which LiteRT.js refuses"),
        ([tmp_path / "none.tflite"], {}, "There is no file"),
        ([tmp_path / "labeled.tflite"], {}, r"has 1 class name\(s\), but \d classes"),
        ([net, tmp_path / "other" / "net.tflite"], {}, "two files called net.tflite"),
        ([net], {"examples": [tmp_path / "text.jpg"]}, "text.jpg"),
        ([net], {"output": tmp_path / "text.jpg" / "site"}, "must be in a folder, but .*text.jpg is a file"),
        ([net], {"runtime": tmp_path}, "has no litertjs-core-2.5.3.tgz: npm pack @litertjs/core@2.5.3"),
    ]
    for paths, options, message in cases:
        with pytest.raises(ValueError, match=message):
            site.write_site(paths, **{"output": target, "runtime": archives, **options})
        assert not target.exists()
    (archives / "litertjs-core-2.5.3.tgz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"is not @litertjs/core 2.5.3 as npm lists it"):
        site.write_site([net], target, runtime=archives)
    target.mkdir()
    (target / "mine.txt").touch()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        site.write_site([net], target, runtime=archives)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_types_unsupported_by_litert_js(net, archives, tmp_path, monkeypatch, end):
    found = file.describe_tflite(net)
    found[end][0]["dtype"] = "int8"
    monkeypatch.setattr(file, "describe_tflite", lambda path: found)
    with pytest.raises(ValueError, match=r"int8, which LiteRT.js refuses. Export it with `--input-type uint8`"):
        site.write_site([net], tmp_path / "site", runtime=archives)


class _Refusing(socketserver.BaseRequestHandler):
    """Closes a connection without an answer."""

    def handle(self):
        self.request.recv(1024)


def test_failed_download(net, tmp_path, monkeypatch):
    with socketserver.TCPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(ValueError, match=r"core-2.5.3.tgz cannot be downloaded \(Remote end closed connection"):
            site.write_site([net], tmp_path / "site")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/@litertjs/core/-/core-2.5.3.tgz cannot be downloaded"):
        site.write_site([net], tmp_path / "site")
    assert not (tmp_path / "site").exists()
