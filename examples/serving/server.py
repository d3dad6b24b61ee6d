"""Serve a SavedModel of `sharenets export --to saved_model` with Ray Serve and TensorFlow Serving's REST and gRPC APIs.

python server.py models/net --port 8501 --grpc-port 8500

`models/net/1`, `models/net/2` and so on are SavedModels; the one with the largest number is served. A new version that
is added while the server runs replaces the current one. A request is answered by the version that it started with.

Requires `pip install "ray[serve]" tensorflow`, and for gRPC `tensorflow-serving-api`; this library is not required.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import importlib.util
import logging
import os
import pathlib
import re
import threading
import time

import fastapi
import grpc
import numpy as np
import ray
from fastapi.responses import JSONResponse
from ray import serve

app = fastapi.FastAPI()
# With fewer concurrent requests than clients, Ray Serve polls for a free slot, which costs more than queueing.
CONCURRENT_REQUESTS = 100


# Defined before the class: Ray Serve pickles the class with everything it uses. TensorFlow is imported in the worker.
def load(version, folder):
    """A version and its SavedModel, after a warm-up call of each signature."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    numbers, encoded = (model.signatures[name] for name in ("serving_default", "serve_encoded"))
    image = tf.zeros(numbers.structured_input_signature[1]["images"].shape[1:])
    numbers(images=image[None])
    encoded(encoded=tf.io.encode_png(tf.cast(image, tf.uint8))[None])
    return version, model


def signature_of(model, name):
    """A signature, and the name and the `TensorSpec` of its input."""
    if name not in model.signatures:
        raise ValueError(f"`signature_name` (={name!r}) must be one of {', '.join(sorted(model.signatures))}.")
    signature = model.signatures[name]
    ((argument, spec),) = signature.structured_input_signature[1].items()
    return signature, argument, spec


def run(model, name, inputs):
    """The outputs of a signature for a dict of arrays. Raises a `ValueError` of one line for a wrong request."""
    import tensorflow as tf

    signature, argument, spec = signature_of(model, name)
    if set(inputs) != {argument}:
        raise ValueError(f"The inputs of `{name}` (={', '.join(sorted(inputs))}) must be `{argument}`.")
    given = inputs[argument]
    # TensorFlow itself would accept images of another size.
    if given.dtype != spec.dtype.as_numpy_dtype or not spec.shape.is_compatible_with(given.shape):
        found = f"{tf.as_dtype(given.dtype).name} of shape {list(given.shape)}"
        raise ValueError(f"`{argument}` (={found}) must be {spec.dtype.name} of shape {spec.shape.as_list()}.")
    try:
        return {key: value.numpy() for key, value in signature(**{argument: tf.constant(given)}).items()}
    except tf.errors.InvalidArgumentError as error:
        # Of the lines of a failed graph, the reason why a file cannot be read.
        reason = re.search(r"assertion failed: (.*)", error.message)
        raise ValueError(re.sub(r"[\[\]]", "", reason[1]) if reason else " ".join(error.message.split())) from error


def answer(model, body):
    """For each image of a request in "row format", a dict of the outputs, or the value if there is a single output."""
    name = body.get("signature_name", "serving_default")
    _, argument, spec = signature_of(model, name)
    dtype = spec.dtype.as_numpy_dtype
    if not isinstance(body.get("instances"), list):
        raise ValueError("`instances` must be a list with one element per image.")
    images = [base64.b64decode(image["b64"]) if dtype is object else image for image in body["instances"]]
    outputs = run(model, name, {argument: np.array(images, dtype)})
    columns = [np.char.decode(v.astype("S"), "utf-8") if v.dtype == object else v for v in outputs.values()]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    return [row[0] if len(outputs) == 1 else dict(zip(outputs, row, strict=True)) for row in rows]


def answer_message(model_name, version, model, message):
    """The serialized `PredictResponse` to a serialized `PredictRequest`.

    Raises a `LookupError` if another model or version is asked for, and a `ValueError` if the request is wrong.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest.FromString(message)
    if unknown := {field.name for field, _ in request.ListFields()} - {"model_spec", "inputs", "output_filter"}:
        raise ValueError(f"This server does not know {', '.join(sorted(unknown))}.")
    asked = request.model_spec
    if asked.version_label:
        raise ValueError(f"`version_label` (={asked.version_label!r}) must be empty: this server has no labels.")
    if asked.name != model_name or (asked.HasField("version") and asked.version.value != version):
        which = f"{asked.name!r}" + (f", version {asked.version.value}" if asked.HasField("version") else "")
        raise LookupError(f"`model_spec` (={which}) must be {model_name!r}, version {version}.")
    name = asked.signature_name or "serving_default"
    outputs = run(model, name, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
    if missing := set(request.output_filter) - set(outputs):
        raise ValueError(f"`output_filter` (={', '.join(sorted(missing))}) must be of {', '.join(sorted(outputs))}.")
    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.signature_name = model_name, name
    response.model_spec.version.value = version
    for key in request.output_filter or outputs:
        response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
    return response.SerializeToString()


def newest(models):
    """The largest version in a folder, and its path."""
    return max((int(path.name), str(path)) for path in pathlib.Path(models).iterdir() if path.name.isdigit())


@serve.deployment(max_ongoing_requests=CONCURRENT_REQUESTS)
@serve.ingress(app)
class Model:
    def __init__(self, models):
        self.name = pathlib.Path(models).name
        self.served = load(*newest(models))
        threading.Thread(target=self.watch, args=(models,), daemon=True).start()

    def watch(self, models):
        while True:
            time.sleep(1)
            try:
                if newest(models)[0] != self.served[0]:
                    # Assigned after loading: until then, the previous version answers.
                    self.served = load(*newest(models))
            except Exception as error:
                logging.getLogger("ray.serve").error("%s: still serving the previous version: %s", models, error)

    def other(self, name):
        """The response to a request for another model; `None` if it is this one."""
        error = f"The model (={name!r}) must be {self.name!r}."
        return None if name == self.name else JSONResponse({"error": error}, status_code=404)

    @app.get("/v1/models/{name}")
    def status(self, name: str):
        served = {"model_version_status": [{"version": str(self.served[0]), "state": "AVAILABLE"}]}
        return self.other(name) or served

    @app.post("/v1/models/{name}:predict")
    def predict(self, name: str, body: dict):
        # Not `async`: FastAPI runs it in a thread, and TensorFlow releases the GIL.
        try:
            return self.other(name) or {"predictions": answer(self.served[1], body)}
        except Exception as error:  # An invalid request must not stop the server.
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)

    def predict_message(self, message: bytes):
        """The name of a gRPC status, and the serialized response or the reason of the error."""
        try:
            return "OK", answer_message(self.name, *self.served, message)
        except LookupError as error:
            return "NOT_FOUND", str(error)
        except ValueError as error:
            return "INVALID_ARGUMENT", str(error)
        except Exception as error:
            return "INTERNAL", f"{type(error).__name__}: {error}"


def bind_grpc(address):
    """A gRPC server, not started, without limits on the size of messages, on a port that no other program uses."""
    threads = concurrent.futures.ThreadPoolExecutor(CONCURRENT_REQUESTS)
    sizes = [(f"grpc.max_{way}_message_length", -1) for way in ("receive", "send")]
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0), *sizes])
    server.add_insecure_port(address)
    return server


def start_grpc(server, model):
    """Answers `Predict`. Ray Serve's own gRPC proxy would listen on all network interfaces."""

    # Only the worker reads the messages: their classes import TensorFlow.
    def predict(message, context):
        code, reply = model.predict_message.remote(message).result()
        if code != "OK":
            context.abort(grpc.StatusCode[code], reply)
        return reply

    methods = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods)
    server.add_generic_rpc_handlers([service])
    server.start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=os.path.abspath, help="folder with one subfolder per version")
    parser.add_argument("--port", type=int, default=8501, help="for REST (default: 8501)")
    parser.add_argument("--grpc-port", type=int, help="for gRPC (default: no gRPC)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    arguments = parser.parse_args()
    if arguments.grpc_port is not None and importlib.util.find_spec("tensorflow_serving") is None:
        parser.error("--grpc-port requires `pip install tensorflow-serving-api`")
    # Bound before Ray starts, which takes a while: a port that is taken is an error at once.
    grpc_server = None if arguments.grpc_port is None else bind_grpc(f"{arguments.host}:{arguments.grpc_port}")
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": arguments.host, "port": arguments.port})
    model = serve.run(Model.bind(arguments.models))
    if grpc_server is not None:
        start_grpc(grpc_server, model)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
