"""A process on another Keras backend: reads jobs from standard input and writes the results of its backend.

TensorFlow cannot be imported in it, as if it was not installed.
"""

import importlib.machinery
import json
import sys

import harness
import jax
import numpy as np
from data_readers import first_batches, tfds_arrays

from keras_sharenets import files


def outputs_and_gradients(path, images):
    outputs, gradients = harness.outputs_and_gradients(files.load_model(path), images)
    return [outputs, *gradients]


def training_step(path, images, labels):
    return harness.training_step(files.load_model(path), images, labels)


FUNCTIONS = {
    "outputs_and_gradients": outputs_and_gradients,
    "training_step": training_step,
    "first_batches": first_batches,
    "tfds_arrays": tfds_arrays,
}


def hide_tensorflow():
    """TensorFlow is not found from now on, and was not imported before."""
    assert "tensorflow" not in sys.modules
    find = importlib.machinery.PathFinder.find_spec

    def find_others(name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else find(name, path, target)

    importlib.machinery.PathFinder.find_spec = find_others


def zeros(*_, shape, dtype, **__):
    return np.zeros(shape, dtype)


def main():
    # Initial weights are replaced by those of the file; sampling them would compile a program for every shape.
    jax.random.normal = jax.random.uniform = jax.random.truncated_normal = zeros
    hide_tensorflow()
    for line in sys.stdin:
        job = json.loads(line)
        with np.load(job["arrays"]) as arrays:
            results = FUNCTIONS[job["function"]](job["path"], **arrays)
        np.savez(job["results"], *results)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
