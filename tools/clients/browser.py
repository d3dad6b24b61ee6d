"""LiteRT.js in a real browser: Debian's Chromium, driven by Playwright, with the page of `sharenets page`."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

# The last two prevent network requests of Chromium at startup.
_OPTIONS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
# SwiftShader runs WebGPU on the CPU, with the same shaders as a GPU.
_ACCELERATORS = {
    "wasm": ("--disable-gpu",),
    "webgpu": (
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
        "--use-vulkan=swiftshader",
    ),
}
# Runs in the page, after its own script has loaded LiteRT.js.
_RUN = """
async ([file, accelerator, type, shape, batches]) => {
  const { loadAndCompile, Tensor } = await import("./litert/index.js");
  const model = await loadAndCompile(file, { accelerator });
  const scores = [];
  for (const numbers of batches) {
    let input = new Tensor(type === "uint8" ? Uint8Array.from(numbers) : Float32Array.from(numbers), shape);
    if (accelerator === "webgpu") input = await input.moveTo("webgpu");
    let [output] = await model.run([input]);
    if (accelerator === "webgpu") output = await output.moveTo("wasm");
    scores.push(Array.from(await output.data()));
    input.delete();
    output.delete();
  }
  model.delete();
  return scores;
}
"""


def litert_js(path: str, images: np.ndarray, accelerator: str = "wasm") -> np.ndarray:
    """LiteRT.js on WebAssembly or, for float files, on WebGPU."""
    from keras_sharenets.mobile.page.site import describe

    network = describe(path)
    entry = network["input"]
    values = images.astype("float32")
    if entry["dtype"] == "uint8":
        values = np.clip(np.round(values / entry["scale"]) + entry["zero_point"], 0, 255)
    numbers = [image.ravel().tolist() for image in values]
    with opened_page([path], accelerator=accelerator) as page:
        scores = page.evaluate(_RUN, [network["file"], accelerator, entry["dtype"], [1, *network["shape"]], numbers])
    return np.asarray(scores, "float32")


def versions() -> str:
    """Versions of LiteRT.js and of the browser."""
    from keras_sharenets.mobile.page.site import PACKAGES

    told = subprocess.run([str(shutil.which("chromium")), "--version"], capture_output=True, text=True).stdout
    return f"{PACKAGES[0].version}, {' '.join(told.split()[:2])}"


@contextlib.contextmanager
def opened_page(paths: list[str], *, accelerator: str = "wasm", **site: Any) -> Iterator[Any]:
    """The page of `sharenets page` for the given files, served on loopback and opened, as a Playwright page.

    Args:
        paths: TFLite files.
        accelerator: `"wasm"` or `"webgpu"`, enabled in the browser.
        **site: arguments of `write_site`. LiteRT.js is read from the folder in `LITERT_JS`, if set.
    """
    from playwright.sync_api import sync_playwright

    from keras_sharenets.mobile.page.site import write_site

    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("There is no chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "site"
        write_site(paths, folder, **{"runtime": os.environ.get("LITERT_JS"), **site})
        handler = functools.partial(_Quiet, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = playwright.chromium.launch(
                executable_path=chromium, args=[*_OPTIONS, *_ACCELERATORS[accelerator]]
            )
            try:
                page = browser.new_page()
                page.goto(f"http://127.0.0.1:{server.server_port}/")
                page.wait_for_selector("body[data-network]", timeout=60_000)
                yield page
            finally:
                browser.close()
                server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        pass
