import keras
import numpy as np
import PIL.Image
import pytest

import keras_sharenets as ksn
from keras_sharenets import cli, files

NAMES = ("circle", "square", "star")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small network with its labels, and images: what a user has after training."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, activation="relu")
    x = keras.layers.Conv2D(8, 3, padding="same")(scaled)
    x = keras.layers.GlobalAveragePooling2D()(shared(shared(x)))
    files.save_model(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x)), folder / "net.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES))
    (folder / "images").mkdir()
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 256, (9, 11, 3), np.uint8)
        PIL.Image.fromarray(noise).save(folder / "images" / f"{index}.png")
    return folder


@pytest.fixture
def run(capsys):
    """Runs a command in this process: `(exit status, standard output, standard error)`."""

    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
