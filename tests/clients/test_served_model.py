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
import typing
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("tensorflow_serving")
import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks import serving
from keras_sharenets import cli, layers

pytestmark = pytest.mark.clients
ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("Käse", "dog", "fox")
SHAPE = (32, 32, 3)
SIGNATURES = tuple(serving.SIGNATURES)


PAGE = (ROOT / "docs" / "serving.md").read_text()
# One per API.
REST, GRPC = re.findall(r"```python\n(.*?)```", PAGE, re.S)
# The first export runs before the server starts, the second while it serves.
EXPORTS = re.findall(r"^sharenets (export (\w+\.keras) .* --output (\S+))$", PAGE, re.M)


class Served(typing.NamedTuple):
    """A running server: the URL of its model for REST, its address for gRPC, and version 1 in this process."""

    url: str
    address: str
    first: dict


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
    """A `Served` model; the current folder contains the files that the page uses."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, (_, name, _) in enumerate(EXPORTS):
            build(seed, name)
        pathlib.Path("labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
        pathlib.Path("cat.jpg").write_bytes(serving.example_inputs(SHAPE)["serve_encoded"][0])
        first = export(1)
        with server(folder) as (url, address):
            yield Served(url, address, first)


@contextlib.contextmanager
def server(folder):
    """Runs a server on two free ports: the URL of its model for REST, and its address for gRPC."""
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    port, grpc_port = (each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    log = folder / "server.log"
    command = [sys.executable, str(ROOT / "examples/serving/server.py"), "models/net"]
    command += ["--port", str(port), "--grpc-port", str(grpc_port)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/v1/models/net"
        wait(lambda: '"version":"1"' in get(url) or process.poll() is not None)
        assert process.poll() is None, log.read_text(errors="replace")
        yield url, f"127.0.0.1:{grpc_port}"
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


def once_each(sent):
    """Lets a client send one request per image."""
    return sent < serving.IMAGES


def send_requests(url, signature, *, clients, go_on):
    """Sends requests with one image each: the replies, and the images."""
    inputs = serving.example_inputs(SHAPE)[signature]
    bodies = [serving.request_body(signature, value) for value in inputs]
    return serving.send(url, bodies, clients=clients, go_on=go_on), inputs


def predict_request(signature, value, *, name="net", input_name=None, **model_spec):
    """A `PredictRequest` of TensorFlow Serving."""
    request = predict_pb2.PredictRequest(model_spec={"name": name, "signature_name": signature, **model_spec})
    input_name = input_name or {"serving_default": "images", "serve_encoded": "encoded"}[signature]
    request.inputs[input_name].CopyFrom(tf.make_tensor_proto(value))
    return request


def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def send_messages(address, signature, *, clients, go_on):
    """As `send_requests`, through gRPC; the predictions of the replies are in the form of JSON, too."""
    inputs = serving.example_inputs(SHAPE)[signature]
    dtype = object if signature == "serve_encoded" else np.float32
    requests = [predict_request(signature, np.array([value], dtype)) for value in inputs]

    def client(first):
        replies = []
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while go_on(len(replies)):
                body = (first + len(replies)) % len(requests)
                try:
                    outputs = stub(channel).Predict(requests[body], timeout=120).outputs
                    values = {key: tf.make_ndarray(value)[0] for key, value in outputs.items()}
                    for key in ("class_name", "class_names"):
                        values[key] = np.char.decode(np.asarray(values[key]).astype("S"), "utf-8")
                    outcome = {"prediction": values}
                except grpc.RpcError as error:
                    outcome = {"error": f"{error.code()}: {error.details()}"}
                replies.append(serving.Reply(body, 0, **outcome))
        return replies

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return [reply for replies in pool.map(client, range(clients)) for reply in replies], inputs


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("clients", [1, 8, 32])
@pytest.mark.parametrize(("send", "where"), [(send_requests, "url"), (send_messages, "address")], ids=["REST", "gRPC"])
def test_responses_match_the_model(served, signature, clients, send, where):
    replies, inputs = send(getattr(served, where), signature, clients=clients, go_on=once_each)
    expected = [served.first[signature](value) for value in inputs]
    assert len({outputs["probabilities"].tobytes() for outputs in expected}) == serving.IMAGES
    assert len(replies) == clients * serving.IMAGES
    assert [reply.error for reply in replies if reply.error] == []
    assert all(serving.agrees(reply.prediction, expected[reply.body]) for reply in replies)


def test_messages_equal_keras(served):
    """A batch of images as numbers and as files without loss, compared with the file that was exported."""
    images = serving.example_inputs(SHAPE)["serving_default"][:3]
    expected = np.asarray(keras.saving.load_model("net.keras")(np.array(images, np.float32)))
    files = np.array([tf.io.encode_png(image).numpy() for image in images], object)
    with grpc.insecure_channel(served.address) as channel:
        for signature, value in (("serving_default", np.array(images, np.float32)), ("serve_encoded", files)):
            request = predict_request(signature, value)
            reply = stub(channel).Predict(request, timeout=60)
            np.testing.assert_allclose(tf.make_ndarray(reply.outputs["probabilities"]), expected, rtol=0, atol=1e-5)
            names = [name.decode() for name in tf.make_ndarray(reply.outputs["class_name"])]
            assert names == [NAMES[index] for index in expected.argmax(-1)]
            assert (reply.model_spec.name, reply.model_spec.version.value) == ("net", 1)
            request.output_filter.append("class_name")
            assert list(stub(channel).Predict(request, timeout=60).outputs) == ["class_name"]


IMAGES = np.zeros((1, *SHAPE), np.float32)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request("serving_default", IMAGES, name="other"), "NOT_FOUND", "'net', version 1"),
        (predict_request("serving_default", IMAGES, version={"value": 7}), "NOT_FOUND", "(='net', version 7)"),
        (predict_request("serving_default", IMAGES, version_label="a"), "INVALID_ARGUMENT", "`version_label` (='a')"),
        (predict_request("x", IMAGES, input_name="images"), "INVALID_ARGUMENT", "`signature_name` (='x')"),
        (predict_request("serving_default", IMAGES, input_name="x"), "INVALID_ARGUMENT", "must be `images`"),
        (predict_request("serving_default", IMAGES.astype("uint8")), "INVALID_ARGUMENT", "(=uint8 of shape"),
        (
            predict_request("serving_default", IMAGES[:, :8]),
            "INVALID_ARGUMENT",
            "must be float32 of shape [None, 32, 32",
        ),
        (predict_request("serve_encoded", [b"no image"]), "INVALID_ARGUMENT", "index 0 is a file of an unknown kind"),
    ],
)
def test_wrong_messages_are_answered_with_one_line(served, request_, code, message):
    with grpc.insecure_channel(served.address) as channel, pytest.raises(grpc.RpcError) as raised:
        stub(channel).Predict(request_, timeout=60)
    assert raised.value.code().name == code
    assert message in raised.value.details()
    assert "\n" not in raised.value.details()


def test_examples_in_documentation(served, capsys):
    """Requests in Python and from a shell, and responses to bad requests."""
    url, address, first = served
    outputs = first["serve_encoded"](pathlib.Path("cat.jpg").read_bytes())
    text = PAGE.replace("http://127.0.0.1:8501/v1/models/net", url)
    exec(GRPC.replace("127.0.0.1:8500", address), {})
    names = {}
    exec(REST.replace("http://127.0.0.1:8501/v1/models/net", url), names)
    for line in capsys.readouterr().out.splitlines():
        name, probability = line.split()
        assert name == outputs["class_name"].decode()
        assert float(probability) == pytest.approx(outputs["probabilities"].max(), abs=1e-4)
    images = serving.example_inputs(SHAPE)["serving_default"][:3]
    several = names["ask"]([image.tolist() for image in images], "serving_default")
    for prediction, image in zip(several, images, strict=True):
        assert serving.agrees(prediction, first["serving_default"](image))
    for bad, signature, message in (
        ([{"b64": "bm8gaW1hZ2U="}], "serve_encoded", "index 0 is a file of an unknown kind"),
        ([[1, 2]], "serve_encoded", "error"),
        ("no list", "serve_encoded", "must be a list"),
        ([images[0][:8].tolist()], "serving_default", "must be float32 of shape [None, 32, 32, 3]"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400") as raised:
            names["ask"](bad, signature)
        assert message in raised.value.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}x", timeout=60)
    if shutil.which("curl"):
        (shell,) = (block for block in re.findall(r"```shell\n(.*?)```", text, re.S) if block.startswith("curl"))
        answer = subprocess.run(["bash", "-ec", shell], capture_output=True, check=True, text=True).stdout
        assert f'"class_name":"{name}"' in answer
        assert '"version":"1"' in answer


def test_no_request_is_lost_while_the_model_is_replaced(served):
    """Every response, by REST or gRPC, is from version 1 or 2, and later ones are from version 2."""
    url, address, first = served
    done = threading.Event()
    # Pauses leave CPU time for the export.
    options = {"signature": "serve_encoded", "clients": 8, "go_on": lambda sent: not done.wait(0.2)}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(send_requests, url, **options), pool.submit(send_messages, address, **options)]
        try:
            time.sleep(2)
            second = export(2)
            wait(lambda: '"version":"2"' in get(url))
            time.sleep(2)
        finally:
            done.set()
    for (replies, inputs), send, where in zip(
        (each.result() for each in asking), (send_requests, send_messages), (url, address), strict=True
    ):
        expected = {
            version: [run["serve_encoded"](value) for value in inputs] for version, run in ((1, first), (2, second))
        }
        assert [reply.error for reply in replies if reply.error] == []
        answered = {
            tuple(version for version in expected if serving.agrees(reply.prediction, expected[version][reply.body]))
            for reply in replies
        }
        assert answered == {(1,), (2,)}
        after, _ = send(where, "serve_encoded", clients=8, go_on=once_each)
        assert all(serving.agrees(reply.prediction, expected[2][reply.body]) for reply in after)
