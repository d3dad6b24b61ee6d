"""`python clustered_fit.py LOG STEP ARGUMENTS` runs `python -m trainers ARGUMENTS` with a small network.

Writes the losses of all steps and the final weights to LOG, an `.npz` file. Unless STEP is 0, sends itself the signal
in the environment variable SIGNAL after that step.
"""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_sharenets.training.run.fit
from keras_sharenets.layers import BatchNormalization
from keras_sharenets.training.run.recorder import Recorder
from trainers.cli import main


def build(name, dataset, options, recipe):
    convolution = [layers.Rescaling(1 / 255), layers.Conv2D(8, 3, strides=2), BatchNormalization()]
    classifier = [layers.ReLU(), layers.Flatten(), layers.Dense(10, activation="softmax")]
    images = keras.Input(dataset.shape)
    return keras.Model(images, keras.Sequential([*convolution, *classifier])(images))


def record(log, last_step):
    """Makes every `Recorder` write `log`, and end the process after `last_step`."""
    losses = []
    end_step, end_epoch = Recorder.on_train_batch_end, Recorder.on_epoch_end

    def record_step(self, batch, logs=None):
        end_step(self, batch, logs)
        losses.append(float(logs["loss"]))
        if self._step == last_step:
            os.kill(os.getpid(), signal.Signals[os.environ.get("SIGNAL", "SIGKILL")])

    def record_epoch(self, epoch, logs=None):
        end_epoch(self, epoch, logs)
        weights = {str(number): array for number, array in enumerate(self.model.get_weights())}
        np.savez(log, losses=losses, test=[logs["val_loss"], logs["val_accuracy"]], **weights)

    Recorder.on_train_batch_end, Recorder.on_epoch_end = record_step, record_epoch


def make_logical_devices(count):
    import tensorflow as tf

    configuration = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], configuration)


if __name__ == "__main__":
    keras_sharenets.training.run.fit.build = build
    record(sys.argv[1], int(sys.argv[2]))
    if "LOGICAL_CPUS" in os.environ:
        make_logical_devices(int(os.environ["LOGICAL_CPUS"]))
    sys.exit(main(sys.argv[3:]))
