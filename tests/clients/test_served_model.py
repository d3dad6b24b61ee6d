"""`examples/serving/server.py` with SavedModels of this library, and requests as in docs/serving.md."""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import keras
import pytest

pytest.importorskip("ray")
from benchmarks import serving
from keras_sharenets import cli, layers

pytestmark = pytest.mark.clients
ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("Käse", "dog", "fox")
SHAPE = (32, 32, 3)
SIGNATURES = tuple(serving.SIGNATURES)


PAGE = (ROOT / "docs" / "serving.md").read_text()
# The first export runs before the server starts, the second while it serves.
EXPORTS = re.findall(r"^sharenets (export (\w+\.keras) .* --output (\S+))$", PAGE, re.M)


def build(seed, path):
    """Saves a network with sharing, with weights that depend on the seed."""
    keras.utils.set_random_seed(seed)
    shared = layers.HighlySharedConv2D(16, 3, groups=2, arrangements=2)
    x = inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    x = keras.layers.ReLU()(keras.layers.Conv2D(16, 3, strides=2)(x))
    for _ in range(2):
        x = keras.layers.ReLU()(shared(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(len(NAMES), activation="softmax", kernel_initializer="he_normal")(x)
    keras.Model(inputs, x).save(path)


def export(version):
    """Runs the export command of the page in the current folder, and opens the SavedModel."""
    command, _, target = EXPORTS[version - 1]
    assert target == f"models/net/{version}"
    assert cli.main(command.split()) == 0
    return serving.open_model(target)[1]


def get(url):
    """The response of the server; empty while it starts."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read().decode()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of a served model, and its version 1; the current folder contains the files that the page uses."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, (_, name, _) in enumerate(EXPORTS):
            build(seed, name)
        pathlib.Path("labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
        pathlib.Path("cat.jpg").write_bytes(serving.example_inputs(SHAPE)["serve_encoded"][0])
        first = export(1)
        with server(folder) as url:
            yield url, first


@contextlib.contextmanager
def server(folder):
    """Runs a server on a free port, and returns the URL of its model."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [sys.executable, str(ROOT / "examples/serving/server.py"), "models/net", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/v1/models/net"
        wait(lambda: '"version":"1"' in get(url) or process.poll() is not None)
        assert process.poll() is None, log.read_text(errors="replace")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def send_requests(url, signature, *, clients, go_on):
    """Sends requests with one image each: the replies, and the images."""
    inputs = serving.example_inputs(SHAPE)[signature]
    bodies = [serving.request_body(signature, value) for value in inputs]
    return serving.send(url, bodies, clients=clients, go_on=go_on), inputs


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("clients", [1, 8, 32])
def test_responses_match_the_model(served, signature, clients):
    url, first = served
    replies, inputs = send_requests(url, signature, clients=clients, go_on=lambda sent: sent < serving.IMAGES)
    expected = [first[signature](value) for value in inputs]
    assert len({outputs["probabilities"].tobytes() for outputs in expected}) == serving.IMAGES
    assert len(replies) == clients * serving.IMAGES
    assert [reply.error for reply in replies if reply.error] == []
    assert all(serving.agrees(reply.prediction, expected[reply.body]) for reply in replies)


def test_examples_in_documentation(served, capsys):
    """Requests in Python and from a shell, and responses to bad requests."""
    url, first = served
    outputs = first["serve_encoded"](pathlib.Path("cat.jpg").read_bytes())
    text = PAGE.replace("http://127.0.0.1:8501/v1/models/net", url)
    ((_, block),) = re.findall(r"```(python)\n(.*?)```", text, re.S)
    names = {}
    exec(block, names)
    name, probability = capsys.readouterr().out.split()
    assert name == outputs["class_name"].decode()
    assert float(probability) == pytest.approx(outputs["probabilities"].max(), abs=1e-4)
    images = serving.example_inputs(SHAPE)["serving_default"][:3]
    several = names["ask"]([image.tolist() for image in images], "serving_default")
    for prediction, image in zip(several, images, strict=True):
        assert serving.agrees(prediction, first["serving_default"](image))
    for bad in ([{"b64": "bm8gaW1hZ2U="}], [[1, 2]], "no list"):
        with pytest.raises(urllib.error.HTTPError, match="400") as raised:
            names["ask"](bad, "serve_encoded")
        assert "error" in raised.value.read().decode()
    if shutil.which("curl"):
        (shell,) = (block for block in re.findall(r"```shell\n(.*?)```", text, re.S) if block.startswith("curl"))
        answer = subprocess.run(["bash", "-ec", shell], capture_output=True, check=True, text=True).stdout
        assert f'"class_name":"{name}"' in answer
        assert '"version":"1"' in answer


def test_no_request_is_lost_while_the_model_is_replaced(served):
    """Every response is from version 1 or 2, and later ones are from version 2."""
    url, first = served
    done = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Pauses leave CPU time for the export.
        asking = pool.submit(send_requests, url, "serve_encoded", clients=8, go_on=lambda sent: not done.wait(0.1))
        try:
            time.sleep(2)
            second = export(2)
            wait(lambda: '"version":"2"' in get(url))
            time.sleep(2)
        finally:
            done.set()
    replies, inputs = asking.result()
    expected = {
        version: [run["serve_encoded"](value) for value in inputs] for version, run in ((1, first), (2, second))
    }
    assert [reply.error for reply in replies if reply.error] == []
    answered = {
        tuple(version for version in expected if serving.agrees(reply.prediction, expected[version][reply.body]))
        for reply in replies
    }
    assert answered == {(1,), (2,)}
    after, _ = send_requests(url, "serve_encoded", clients=8, go_on=lambda sent: sent < serving.IMAGES)
    assert all(serving.agrees(reply.prediction, expected[2][reply.body]) for reply in after)
