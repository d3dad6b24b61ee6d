"""A static web page that runs TFLite files in the browser, with LiteRT.js.

The folder contains everything: the files, the page, LiteRT.js and its WebAssembly. The page loads nothing from other
servers, and images never leave the browser.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import http.client
import io
import math
import os
import pathlib
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from keras_sharenets import files, images
from keras_sharenets.mobile.inspect import file

_STATIC = pathlib.Path(__file__).parent / "static"
# Input types that LiteRT.js 2.5.3 supports, except int32, which is not used for images.
_INPUT_TYPES = ("float32", "uint8")
_CHANNELS = (1, 3)
_THUMBNAIL = 160
_REGISTRY = "npm_config_registry"  # npm's own variable.


@dataclasses.dataclass(frozen=True)
class _Package:
    """A package of the npm registry, its digest on npm, and the target paths of its members in the page's folder."""

    name: str
    version: str
    sha512: str
    members: dict[str, str]

    @property
    def archive(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def url(self) -> str:
        registry = os.environ.get(_REGISTRY, "https://registry.npmjs.org").rstrip("/")
        return f"{registry}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


# The build with relaxed SIMD, and one without it for other browsers. Threads would need server headers that a simple
# server does not send.
_WASM = [f"litert_wasm_{build}.{kind}" for build in ("internal", "compat_internal") for kind in ("js", "wasm")]
PACKAGES = (
    _Package(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "index.js", **{f"wasm/{name}": f"wasm/{name}" for name in _WASM}},
    ),
    _Package(
        "@litertjs/wasm-utils",
        "2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "wasm-utils.js"},
    ),
)


@dataclasses.dataclass(frozen=True)
class SiteReport:
    """Result of `write_site`.

    Attributes:
        path: path of the folder.
        total_bytes: total size of its files.
        networks: metadata of each network, as in `networks.json`.
    """

    path: str
    total_bytes: int
    networks: tuple[dict[str, Any], ...]


def write_site(
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    examples: Sequence[str | os.PathLike] = (),
    runtime: str | os.PathLike | None = None,
) -> SiteReport:
    """Writes a folder with a page that runs TFLite files in the browser.

    The page takes an image by drag and drop, file selection or camera, and resizes it to the network's input. It shows
    the top five classes, the inference time, the size of the file and the bytes that sharing saves. Serve the folder
    with any static server, such as `python -m http.server -d site`: browsers do not load WebAssembly from `file://`.

    Args:
        paths: TFLite files of classifiers with one image input, `(1, height, width, channels)` with 1 or 3 channels,
            float32 or uint8, and one output. Several files become a menu.
        output: output folder; must not exist, or must be empty.
        examples: image files that the page offers.
        runtime: folder with the archives of the npm packages (`npm pack @litertjs/core@2.5.3
            @litertjs/wasm-utils@2.5.3`); by default they are downloaded from the npm registry.

    Returns:
        A `SiteReport`.

    Raises:
        ValueError: a file is not such a classifier, an example is not an image, the folder is not empty, or an archive
            is missing, differs from the one on npm, or cannot be downloaded. Nothing is written.
    """
    output = pathlib.Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"`output` (={str(output)!r}) exists and is not an empty folder.")
    files.check_writable(output / "index.html", "output")
    _check_names(paths)
    networks = [describe(path) for path in paths]
    longest = max(max(network["shape"][:2]) for network in networks)
    thumbnails = [_thumbnail(path, longest) for path in examples]
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "site"
        shutil.copytree(_STATIC, folder)
        for package in PACKAGES:
            _unpack(package, folder / "litert", runtime)
        for path, network in zip(paths, networks, strict=True):
            shutil.copy(path, folder / network["file"])
        for number, data in enumerate(thumbnails):
            (folder / f"example{number}.png").write_bytes(data)
        content = {"networks": networks, "examples": [f"example{number}.png" for number in range(len(thumbnails))]}
        files.write_json(folder / "networks.json", content)
        size = files.folder_bytes(folder)
        if output.exists():
            output.rmdir()
        files.replace_folder(folder, output)
    return SiteReport(str(output), size, tuple(networks))


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """Metadata of a TFLite file for the page; raises `ValueError` if the page cannot run it."""
    found = file.describe_tflite(path)
    if len(found["inputs"]) != 1 or len(found["outputs"]) != 1:
        ends = f"{len(found['inputs'])} inputs and {len(found['outputs'])} outputs"
        raise ValueError(f"{path} has {ends}; the page runs classifiers with one of each.")
    taken, given = found["inputs"][0], found["outputs"][0]
    if len(taken["shape"]) != 4 or taken["shape"][0] != 1 or taken["shape"][-1] not in _CHANNELS:
        raise ValueError(f"{path} takes {tuple(taken['shape'])}; the page provides one image of 1 or 3 channels.")
    if len(given["shape"]) != 2:
        raise ValueError(f"{path} gives {tuple(given['shape'])}; the page shows one vector of classes, (1, classes).")
    for end, detail in (("takes", taken), ("gives", given)):
        if detail["dtype"] not in _INPUT_TYPES:
            raise ValueError(
                f"{path} {end} {detail['dtype']}, which LiteRT.js refuses. Export it with `--input-type uint8`"
                " `--output-type float32`."
            )
    model = file.parse(file.read_bytes(path))
    main = model.Subgraphs(0)
    if any(-1 in np.ravel(main.Tensors(end(0)).ShapeSignatureAsNumpy()) for end in (main.Inputs, main.Outputs)):
        raise ValueError(f"{path} declares a dimension as -1, which LiteRT.js refuses: convert it for a batch of 1.")
    head, stored_and_used = file.head(model), file.kernel_bytes(model)
    if found["labels"] is not None and head.kind != "value" and len(found["labels"]) != head.classes:
        raise ValueError(f"{path} has {len(found['labels'])} class name(s), but {head.classes} classes.")
    return {
        "name": pathlib.Path(path).stem,
        "file": pathlib.Path(path).name,
        "bytes": found["file_bytes"],
        "shape": taken["shape"][1:],
        "input": {key: taken[key] for key in ("dtype", "scale", "zero_point")},
        "output": {key: given[key] for key in ("dtype", "scale", "zero_point")},
        "kind": head.kind,
        "probabilities": file.final_activation(model) is not None,
        "labels": found["labels"],
        "stored_kernel_bytes": stored_and_used[0],
        "used_kernel_bytes": stored_and_used[1],
    }


def _check_names(paths):
    """Raises `ValueError` for duplicate file names, since all files go into one folder."""
    if not paths:
        raise ValueError("`paths` is empty: pass at least one TFLite file.")
    names = [pathlib.Path(path).name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"`paths` has two files called {name}: rename one of them.")


def _thumbnail(path, longest):
    """The upright image as a PNG file, scaled down so that its longer side has at most `_THUMBNAIL` pixels.

    Its shorter side keeps at least `longest` pixels, the longest side of an input, so that no network gets a blurred
    image.
    """
    image = PIL.Image.fromarray(images.read_image(path, (None, None, 3)))
    share = max(_THUMBNAIL / max(image.size), longest / min(image.size))
    width, height = image.size
    image.thumbnail((math.ceil(share * width), math.ceil(share * height)))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _unpack(package, folder, runtime):
    """Checks the digest of a package and extracts the required files into a folder."""
    data = _read_archive(package, runtime)
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != package.sha512:
        raise ValueError(f"{package.archive} is not {package.name} {package.version} as npm lists it: digests differ.")
    with tarfile.TarFile(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        for member, target in package.members.items():
            stream = archive.extractfile(f"package/{member}")
            assert stream is not None
            place = folder / target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(stream.read())


def _read_archive(package, runtime):
    if runtime is not None:
        path = pathlib.Path(runtime) / package.archive
        if not path.is_file():
            raise ValueError(
                f"`runtime` (={str(runtime)!r}) has no {package.archive}: npm pack {package.name}@{package.version}"
            )
        return path.read_bytes()
    try:
        with urllib.request.urlopen(package.url, timeout=60) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:  # Also of a connection that ends early.
        raise ValueError(
            f"{package.url} cannot be downloaded ({error}). On a machine with a network connection, run npm pack"
            f" {package.name}@{package.version}, and pass the folder of the archives as `runtime`."
        ) from error
