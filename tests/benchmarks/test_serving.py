"""The load benchmark with a fake server that responds, rejects requests, and closes connections as specified."""

import base64
import collections
import contextlib
import http.server
import io
import itertools
import json
import threading
import time

import numpy as np
import PIL.Image
import pytest

from benchmarks import serving
from benchmarks.cli import main as serving_main

INPUTS = [np.full((2, 3, 1), number, "uint8") for number in range(4)]


def outputs(value):
    """The outputs of the model in these tests for an image."""
    return {"class_name": "Käse".encode(), "scores": np.array([value.sum(), 1], "float32")}


@contextlib.contextmanager
def server(behave):
    """The URL of a model and the received requests; response n is `behave(n, instances)`: status and JSON."""
    counter, seen, lock = itertools.count(), [], threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = next(counter)
                seen.append((self.path, self.client_address, body))
            status, answer = behave(number, body["instances"])
            if status is None:
                self.close_connection = True
                return
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1/models/net", seen
        finally:
            running.shutdown()
            thread.join()


def respond_correctly(_, instances):
    return 200, {"predictions": [{"class_name": "Käse", "scores": [float(np.sum(instances[0])), 1.0]}]}


def test_clients_keep_connections_and_send_every_image():
    bodies = [serving.request_body("serving_default", value) for value in INPUTS]
    with server(respond_correctly) as (url, seen):
        replies = serving.send(url, bodies, clients=3, go_on=lambda sent: sent < 4)
    assert len(replies) == len(seen) == 12
    assert {path for path, _, _ in seen} == {"/v1/models/net:predict"}
    assert collections.Counter(collections.Counter(client for _, client, _ in seen).values()) == {4: 3}
    assert collections.Counter(reply.body for reply in replies) == dict.fromkeys(range(4), 3)
    for reply in replies:
        assert reply.error is None
        assert reply.prediction["scores"] == [6.0 * reply.body, 1.0]


def respond_with_faults(number, instances):
    """The second request is rejected, the fourth is not answered, and the sixth gets the response to another image."""
    wrong = {1: (400, {"error": "too many"}), 3: (None, None), 5: respond_correctly(0, [-1])}
    return wrong.get(number) or respond_correctly(number, instances)


def test_failed_and_wrong_responses_are_counted(monkeypatch):
    """The unmeasured requests, one per image, are not counted, and neither is the time for comparing the responses."""
    clock, passed, agrees = time.perf_counter, [0.0], serving.agrees
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + passed[0])
    monkeypatch.setattr(serving, "agrees", lambda *given: passed.append(passed.pop() + 1000) or agrees(*given))
    with server(lambda number, given: respond_with_faults(number - len(INPUTS), given)) as (url, seen):
        local, served = serving.measure(url, "serving_default", INPUTS, outputs, clients=[1], requests=8)
    assert passed == [8000]
    assert served["requests"] / served["speed"] < 1000
    assert len(seen) - len(INPUTS) == local["requests"] == served["requests"] == 8
    assert (local["wrong"], served["wrong"]) == (0, 3)
    assert (local["what"], served["what"]) == (serving.PEER, "1 client")
    assert local["ratio"] == 1
    assert served["ratio"] == pytest.approx(served["milliseconds"] / local["milliseconds"])
    for low, high in itertools.pairwise(("milliseconds", *(f"milliseconds_{part}" for part in (90, 99, 100)))):
        assert served[low] <= served[high]
    (claim,) = serving.claims([local, served])
    assert (claim.value, claim.holds) == (3, False)
    with server(respond_with_faults) as (url, _):
        bodies = [serving.request_body("serving_default", value) for value in INPUTS]
        replies = serving.send(url, bodies, clients=1, go_on=lambda sent: sent < 8)
    errors = [reply.error for reply in replies]
    assert errors[1] == "too many"
    assert errors[3].startswith("RemoteDisconnected")
    assert [index for index, error in enumerate(errors) if error] == [1, 3]


@pytest.mark.parametrize(
    "prediction",
    [
        None,
        [6.0, 1.0],
        {"class_name": "Käse"},
        {"class_name": "Kase", "scores": [6.0, 1.0]},
        {"class_name": "Käse", "scores": [6.001, 1.0]},
        {"class_name": "Käse", "scores": [[6.0, 1.0]]},
        {"class_name": "Käse", "scores": [6.0, 1.0], "more": 0},
    ],
)
def test_wrong_predictions_do_not_agree(prediction):
    assert not serving.agrees(prediction, outputs(INPUTS[1]))
    assert serving.agrees({"class_name": "Käse", "scores": [6.00001, 1.0]}, outputs(INPUTS[1]))


def test_single_output_has_no_name():
    assert serving.agrees([6.0, 1.0], {"scores": np.array([6, 1], "float32")})
    assert not serving.agrees([6.0, 2.0], {"scores": np.array([6, 1], "float32")})


@pytest.mark.parametrize("shape", [(10, 7, 1), (8, 8, 3)])
def test_both_signatures_receive_the_same_images(shape):
    inputs = serving.example_inputs(shape)
    for image, file in zip(*inputs.values(), strict=True):
        assert image.shape == shape
        body = json.loads(serving.request_body("serve_encoded", file))
        (instance,) = body["instances"]
        decoded = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(instance["b64"])))).reshape(shape)
        # JPEG approximately preserves the means of blocks.
        assert abs(decoded.mean() - image.mean()) < 4


def test_command(monkeypatch, tmp_path):
    runs = dict.fromkeys(serving.SIGNATURES, lambda value: {"scores": np.array([1.0])})
    monkeypatch.setattr(serving, "open_model", lambda folder: ((8, 8, 3), runs))
    with server(lambda *_: (200, {"predictions": [[1.0]]})) as (url, seen):
        command = ["serving", "--quick", "--url", url, "--clients", "1", "2", "--output", str(tmp_path)]
        assert serving_main(command) == 0
    assert len(seen) == 2 * (serving.IMAGES + (1 + 2) * 3)
    contents = json.loads((tmp_path / "serving.json").read_text())
    assert [row["what"] for row in contents["rows"]] == [serving.PEER, "1 client", "2 clients"] * 2
    assert all(claim["holds"] for claim in contents["claims"])
    assert "## JPEG files" in (tmp_path / "serving.md").read_text()


def test_missing_model_or_server(tmp_path, capsys):
    assert serving_main(["serving", "--model", str(tmp_path)]) == 2
    assert "must be the folder of a SavedModel." in capsys.readouterr().err
    assert serving_main(["serving", "--url", "https://127.0.0.1/v1/models/net"]) == 2
    assert "`url` (='https://127.0.0.1/v1/models/net') must start with 'http://'." in capsys.readouterr().err
    message = r"`url` \(='http.*net'\) must be .* `serving_default`: no such model"
    with server(lambda *_: (404, {"error": "no such model"})) as (url, seen), pytest.raises(ValueError, match=message):
        serving.measure(url, "serving_default", INPUTS, outputs, clients=[1], requests=8)
    assert len(seen) == len(INPUTS)
