"""Prints the errors of Keras with `MultiWorkerMirroredStrategy` if either part of `MultiWorkerModel` is missing.

Every worker of `TF_CONFIG` runs this script.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_sharenets.training.devices.devices import MultiWorkerModel


def main():
    import tensorflow as tf

    class PlainBuild(MultiWorkerModel):
        _maybe_symbolic_build = keras.Model._maybe_symbolic_build

    class PlainLogs(MultiWorkerModel):
        train_step = keras.Model.train_step
        test_step = keras.Model.test_step

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    batch = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    for kind in (PlainBuild, PlainLogs, MultiWorkerModel):
        with strategy.scope():
            inputs = keras.Input((3,))
            model = kind(inputs, keras.layers.Dense(1)(inputs))
            model.compile("sgd", "mse")
            model.optimizer.build(model.trainable_variables)
        dataset = strategy.distribute_datasets_from_function(lambda context: tf.data.Dataset.from_tensors(batch))
        try:
            model.fit(dataset, shuffle=False, verbose=0)
            print(kind.__name__, "works")
        except ValueError as error:
            print(kind.__name__, " ".join(str(error).split())[:200])


if __name__ == "__main__":
    main()
