"""Another process on another Keras backend: reads jobs from standard input, writes what its backend computes."""

import json
import sys

import harness
import numpy as np

from keras_sharenets import files

FUNCTIONS = {"outputs_and_gradients": harness.outputs_and_gradients, "training_step": harness.training_step}


def main():
    for line in sys.stdin:
        job = json.loads(line)
        with np.load(job["arrays"]) as arrays:
            first, rest = FUNCTIONS[job["function"]](files.load_model(job["model"]), **arrays)
        np.savez(job["results"], first, *rest)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
