"""Another process on another Keras backend: reads jobs from standard input, writes what its backend computes."""

import json
import sys

import numpy as np
from harness import outputs_and_gradients

from keras_sharenets import files


def main():
    for line in sys.stdin:
        job = json.loads(line)
        outputs, gradients = outputs_and_gradients(files.load_model(job["model"]), np.load(job["images"]))
        np.savez(job["results"], outputs, *gradients)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
