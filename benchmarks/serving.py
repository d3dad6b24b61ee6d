"""Compare a model behind a server, with several concurrent clients, with the same model in this process.

python -m benchmarks serving --model models/net/1 --url http://127.0.0.1:8501/v1/models/net
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import dataclasses
import http.client
import io
import itertools
import json
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import timing
from benchmarks.arguments import add_run_arguments, progress, run_options
from benchmarks.table import Claim, Row, Table, write
from keras_sharenets import _checks
from keras_sharenets.cli.command import Answer

URL, MODEL = "http://127.0.0.1:8501/v1/models/net", "models/net/1"
CLIENTS = (1, 8, 32)
# The signatures of a SavedModel and the form of their inputs.
SIGNATURES = {"serving_default": "images as numbers", "serve_encoded": "JPEG files"}
IMAGES = 8
PEER = "no server"
# The order of summation differs only if the server runs another version of TensorFlow.
TOLERANCE = 1e-4
COLUMNS = {
    "requests/s": "{speed:.4g}",
    "median ms": "{milliseconds:.4g}",
    "90 %": "{milliseconds_90:.4g}",
    "99 %": "{milliseconds_99:.4g}",
    "longest": "{milliseconds_100:.4g}",
    f"median to {PEER}": "{ratio:.3g}",
    "requests": "{requests}",
    "lost or wrong": "{wrong}",
}

Run = Callable[[Any], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Reply:
    """The result of a request: index of its body, duration, and prediction or error."""

    body: int
    seconds: float
    prediction: Any = None
    error: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, repetitions=(200, 3), quick="few requests")
    parser.add_argument(
        "--url", default=URL, help=f"model URL of a server with TensorFlow Serving's REST API (default: {URL})"
    )
    parser.add_argument("--model", default=MODEL, metavar="DIR", help=f"the SavedModel it serves (default: {MODEL})")
    clients_help = "each sends `--repetitions` requests, one after another (default: 1 8 32)"
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help=clients_help)


def run(arguments: argparse.Namespace) -> Answer:
    for count in arguments.clients:
        _checks.positive("clients", count)
    if not arguments.url.startswith("http://"):
        raise ValueError(f"`url` (={arguments.url!r}) must start with 'http://'.")
    options, rows = run_options(arguments), []
    shape, runs = open_model(arguments.model)
    for signature, name in SIGNATURES.items():
        inputs = example_inputs(shape)[signature]
        rows += measure(
            arguments.url, signature, inputs, runs[signature], clients=arguments.clients, requests=options.repetitions
        )
        progress(f"{name}: measured")
    note = (
        f"One image per request. Each client sends {options.repetitions} sequential requests over its own connection, "
        "after an unmeasured request for each image; clients and server share the machine. "
        f"{PEER}: the signature called in the process of the clients, after as many unmeasured calls. lost or "
        "wrong: requests without an answer, or with an answer that differs from the SavedModel in this process (by "
        f"more than {TOLERANCE:g})."
    )
    table = Table(
        name="serving",
        title="A model behind a server",
        note=note,
        ratio=f"Request time relative to the median with {PEER}",
        panel="{panel}",
        label="{what}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows),
    )
    return write(table, options)


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """No request is lost, and each gets the answer of the model."""
    served = [row for row in rows if not row["peer"]]
    return tuple(Claim("requests lost or wrong", f"{row['panel']}, {row['what']}", row["wrong"], 0) for row in served)


def open_model(folder: str) -> tuple[tuple[int, int, int], dict[str, Run]]:
    """`(height, width, channels)` of a SavedModel's images, and by signature a function from one input to outputs."""
    if not (pathlib.Path(folder) / "saved_model.pb").is_file():
        raise ValueError(f"`model` (={folder!r}) must be the folder of a SavedModel.")
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    types = {"serving_default": ("images", tf.float32), "serve_encoded": ("encoded", tf.string)}

    def runner(signature, name, dtype):
        # Keeps the loaded object alive, which owns the variables.
        return lambda value: {
            key: output.numpy()[0]
            for key, output in loaded.signatures[signature](**{name: tf.constant([value], dtype)}).items()
        }

    shape = loaded.signatures["serving_default"].structured_input_signature[1]["images"].shape[1:]
    return tuple(shape), {signature: runner(signature, *how) for signature, how in types.items()}


def example_inputs(shape: tuple[int, int, int]) -> dict[str, list]:
    """The same random images for both signatures: as arrays, and as bytes of JPEG files."""
    height, width, channels = shape
    # Blocks instead of noise, which is unlike photographs.
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, -(-height // 4), -(-width // 4), channels), "uint8")
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        PIL.Image.fromarray(image.squeeze()).save(file, "JPEG")
    return {"serving_default": list(images), "serve_encoded": [file.getvalue() for file in files]}


def request_body(signature: str, value: Any) -> bytes:
    """The JSON of a request with one image: its pixel values, or the bytes of a file."""
    instance = {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value.tolist()
    return json.dumps({"signature_name": signature, "instances": [instance]}).encode()


def measure(
    url: str, signature: str, inputs: Sequence[Any], model: Run, *, clients: Sequence[int], requests: int
) -> list[Row]:
    """Rows for the model in this process and behind the server, asked by so many clients at a time.

    Raises:
        ValueError: the server does not answer the first request.
    """
    expected, seconds = [model(value) for value in inputs], []
    for value in itertools.islice(itertools.cycle(inputs), requests):
        start = time.perf_counter()
        model(value)
        seconds.append(time.perf_counter() - start)
    bodies = [request_body(signature, value) for value in inputs]
    # The first call of a signature prepares its graph, in a server as in this process.
    first, *_ = send(url, bodies, clients=1, go_on=lambda sent: sent < len(bodies))
    if first.error is not None:
        raise ValueError(f"`url` (={url!r}) must be that of a served model with `{signature}`: {first.error}")
    measured = {PEER: (seconds, sum(seconds), 0)}
    for count in clients:
        start = time.perf_counter()
        replies = send(url, bodies, clients=count, go_on=lambda sent: sent < requests)
        whole = time.perf_counter() - start
        wrong = sum(not agrees(reply.prediction, expected[reply.body]) for reply in replies)
        name = f"{count} client{'s' if count > 1 else ''}"
        measured[name] = ([reply.seconds for reply in replies], whole, wrong)
    rows, base = [], 1000 * float(np.median(seconds))
    for what, (times, whole, wrong) in measured.items():
        row = {"panel": SIGNATURES[signature], "what": what, "peer": what == PEER, "requests": len(times)}
        milliseconds = timing.spread(np.multiply(times, 1000))
        for place, value in {"": milliseconds.median, "_low": milliseconds.low, "_high": milliseconds.high}.items():
            row |= {f"milliseconds{place}": value, f"ratio{place}": value / base}
        row |= {f"milliseconds_{part}": float(np.percentile(times, part)) * 1000 for part in (90, 99, 100)}
        rows.append(row | {"speed": len(times) / whole, "wrong": wrong})
    return rows


def send(url: str, bodies: Sequence[bytes], *, clients: int, go_on: Callable[[int], bool]) -> list[Reply]:
    """Asks a model by several clients at a time, each with a connection that it keeps.

    Args:
        url: of the model, such as `http://127.0.0.1:8501/v1/models/net`.
        bodies: of requests with one image; the clients go through them, each from another one on.
        clients: how many.
        go_on: function from the number of requests that a client has sent to whether it sends another one.

    Returns:
        One `Reply` for every request that was sent.
    """
    parts = urllib.parse.urlsplit(url)

    def client(first):
        replies = []
        connection = http.client.HTTPConnection(parts.netloc, timeout=120)
        while go_on(len(replies)):
            body = (first + len(replies)) % len(bodies)
            start = time.perf_counter()
            try:
                connection.request("POST", f"{parts.path}:predict", bodies[body], {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                ok = response.status == 200
                outcome = {"prediction": answer["predictions"][0]} if ok else {"error": str(answer.get("error"))}
            except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
                # No retry: a client would see this error. The next request gets a new connection.
                connection.close()
                outcome = {"error": f"{type(error).__name__}: {error}"}
            replies.append(Reply(body, time.perf_counter() - start, **outcome))
        connection.close()
        return replies

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return [reply for replies in pool.map(client, range(clients)) for reply in replies]


def agrees(prediction: Any, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether a prediction in JSON equals the outputs of a signature for one image; numbers to `TOLERANCE`.

    >>> agrees({"class_name": "cat", "scores": [1.0, 2.0]}, {"class_name": b"cat", "scores": np.array([1.0, 2.0])})
    True
    """
    given = {next(iter(outputs)): prediction} if len(outputs) == 1 else prediction
    if not isinstance(given, dict) or set(given) != set(outputs):
        return False
    for name, output in outputs.items():
        value = np.asarray(output)
        if value.dtype.kind in "OS":
            if np.asarray(given[name]).tolist() != np.char.decode(value.astype("S"), "utf-8").tolist():
                return False
        elif np.shape(given[name]) != value.shape or not np.allclose(given[name], value, rtol=0, atol=TOLERANCE):
            return False
    return True
