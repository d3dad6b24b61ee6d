"""A SavedModel of `sharenets export --to saved_model` behind Ray Serve, asked as TensorFlow Serving is over REST.

python server.py models/net --port 8501

`models/net/1`, `models/net/2` and so on are SavedModels; the one with the largest number is served. A folder that
appears while the server runs takes over: a request gets the answer of the version that it began with.

Needs `pip install "ray[serve]" tensorflow`, and nothing of this library.
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


# Before the class: Ray Serve copies what its methods use when it meets it. TensorFlow is imported where it runs.
def load(version, folder):
    """A version and its SavedModel, after a first image to each signature, which takes longer than later ones."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    numbers, encoded = (model.signatures[name] for name in ("serving_default", "serve_encoded"))
    image = tf.zeros(numbers.structured_input_signature[1]["images"].shape[1:])
    numbers(images=image[None])
    encoded(encoded=tf.io.encode_png(tf.cast(image, tf.uint8))[None])
    return version, model


def answer(model, body):
    """For each image of a request in "row format" a dict of the outputs, or the value of an only one."""
    import tensorflow as tf

    signature = model.signatures[body.get("signature_name", "serving_default")]
    ((name, spec),) = signature.structured_input_signature[1].items()
    images = [base64.b64decode(image["b64"]) if spec.dtype == tf.string else image for image in body["instances"]]
    outputs = {key: value.numpy() for key, value in signature(**{name: tf.constant(images, spec.dtype)}).items()}
    columns = [np.char.decode(v.astype("S"), "utf-8") if v.dtype == object else v for v in outputs.values()]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    return [row[0] if len(outputs) == 1 else dict(zip(outputs, row, strict=True)) for row in rows]


def newest(models):
    """The largest version in a folder, and where it is."""
    return max((int(path.name), str(path)) for path in pathlib.Path(models).iterdir() if path.name.isdigit())


# With fewer requests at a time than there are clients, Ray Serve polls for a free place, which costs more than waiting.
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
                    # Assigned when it is loaded: until then, the version before answers.
                    self.served = load(*newest(models))
            except Exception as error:
                logging.getLogger("ray.serve").error("%s: the version before goes on: %s", models, error)

    @app.get("/v1/models/{name}")
    def status(self, name: str):
        return {"model_version_status": [{"version": str(self.served[0]), "state": "AVAILABLE"}]}

    @app.post("/v1/models/{name}:predict")
    def predict(self, name: str, body: dict):
        # Not `async`: FastAPI runs it in a thread, and TensorFlow computes without the interpreter's lock.
        try:
            return {"predictions": answer(self.served[1], body)}
        except Exception as error:  # Whatever was sent, the server goes on.
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=os.path.abspath, help="folder with one folder a version")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": arguments.host, "port": arguments.port})
    serve.run(Model.bind(arguments.models), blocking=True)
