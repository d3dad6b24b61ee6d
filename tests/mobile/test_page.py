"""The contents of the browser page's folder; `tests/clients` opens the page in a browser."""

import base64
import dataclasses
import hashlib
import io
import json
import tarfile

import keras
import numpy as np
import PIL.Image
import pytest
from mobile_networks import convert

from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.page import site


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
    for name in ("page.css", "page.js", "litert/wasm-utils.js"):
        assert name in html
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
    stored, used = file.kernel_bytes(file.parse(convert(keras.Model(inputs, outputs))))
    once, others = 4 * 9 * 4 * 4, 4 * (9 * 3 * 4 + 4 * 2)
    assert (stored, used) == (once + others, 3 * once + others)


def test_invalid_arguments(net, archives, tmp_path):
    target = tmp_path / "site"
    two = tmp_path / "two.tflite"
    inputs = keras.Input((6, 6, 2))
    two.write_bytes(convert(keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs)))))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.tflite").write_bytes(net.read_bytes())
    (tmp_path / "text.jpg").write_text("no image")
    cases = [
        ([], {}, "`paths` is empty"),
        ([two], {}, r"takes \(1, 6, 6, 2\); the page provides images of 1 or 3 channels"),
        ([tmp_path / "none.tflite"], {}, "There is no file"),
        ([net, tmp_path / "other" / "net.tflite"], {}, "two files called net.tflite"),
        ([net], {"examples": [tmp_path / "text.jpg"]}, "text.jpg"),
        ([net], {"runtime": tmp_path}, "has no litertjs-core-2.5.3.tgz: npm pack @litertjs/core@2.5.3"),
    ]
    for paths, options, message in cases:
        with pytest.raises(ValueError, match=message):
            site.write_site(paths, target, **{"runtime": archives, **options})
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


def test_failed_download(net, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/@litertjs/core/-/core-2.5.3.tgz cannot be downloaded"):
        site.write_site([net], tmp_path / "site")
    assert not (tmp_path / "site").exists()
