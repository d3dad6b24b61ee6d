"""A process on another Keras backend: reads jobs from standard input and writes the results of its backend."""

import json
import sys

import harness
import jax
import numpy as np

from keras_sharenets import files


def outputs_and_gradients(model, images):
    outputs, gradients = harness.outputs_and_gradients(model, images)
    return [outputs, *gradients]


FUNCTIONS = {"outputs_and_gradients": outputs_and_gradients, "training_step": harness.training_step}


def zeros(*_, shape, dtype, **__):
    return np.zeros(shape, dtype)


def main():
    # Initial weights are replaced by those of the file; sampling them would compile a program for every shape.
    jax.random.normal = jax.random.uniform = jax.random.truncated_normal = zeros
    for line in sys.stdin:
        job = json.loads(line)
        with np.load(job["arrays"]) as arrays:
            results = FUNCTIONS[job["function"]](files.load_model(job["model"]), **arrays)
        np.savez(job["results"], *results)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
