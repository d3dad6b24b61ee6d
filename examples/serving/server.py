"""Serve a SavedModel of `sharenets export --to saved_model` with Ray Serve and the REST API of TensorFlow Serving.

python server.py models/net --port 8501

`models/net/1`, `models/net/2` and so on are SavedModels; the one with the largest number is served. A new version that
is added while the server runs replaces the current one. A request is answered by the version that it started with.

Requires `pip install "ray[serve]" tensorflow`; this library is not required.
"""

import argparse
import base64
import logging
import os
import pathlib
import threading
import time

import fastapi
import numpy as np
import ray
from fastapi.responses import JSONResponse
from ray import serve

app = fastapi.FastAPI()


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


def answer(model, body):
    """For each image of a request in "row format", a dict of the outputs, or the value if there is a single output."""
    import tensorflow as tf

    signature = model.signatures[body.get("signature_name", "serving_default")]
    ((name, spec),) = signature.structured_input_signature[1].items()
    images = [base64.b64decode(image["b64"]) if spec.dtype == tf.string else image for image in body["instances"]]
    outputs = {key: value.numpy() for key, value in signature(**{name: tf.constant(images, spec.dtype)}).items()}
    columns = [np.char.decode(v.astype("S"), "utf-8") if v.dtype == object else v for v in outputs.values()]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    return [row[0] if len(outputs) == 1 else dict(zip(outputs, row, strict=True)) for row in rows]


def newest(models):
    """The largest version in a folder, and its path."""
    return max((int(path.name), str(path)) for path in pathlib.Path(models).iterdir() if path.name.isdigit())


# With fewer concurrent requests than clients, Ray Serve polls for a free slot, which costs more than queueing.
@serve.deployment(max_ongoing_requests=100)
@serve.ingress(app)
class Model:
    def __init__(self, models):
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

    @app.get("/v1/models/{name}")
    def status(self, name: str):
        return {"model_version_status": [{"version": str(self.served[0]), "state": "AVAILABLE"}]}

    @app.post("/v1/models/{name}:predict")
    def predict(self, name: str, body: dict):
        # Not `async`: FastAPI runs it in a thread, and TensorFlow releases the GIL.
        try:
            return {"predictions": answer(self.served[1], body)}
        except Exception as error:  # An invalid request must not stop the server.
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=os.path.abspath, help="folder with one subfolder per version")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": arguments.host, "port": arguments.port})
    serve.run(Model.bind(arguments.models), blocking=True)
