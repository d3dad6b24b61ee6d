import functools
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The JAX tests mostly wait for the compiler; with little optimization, it takes half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np
import pytest
from hypothesis import settings

TESTS = pathlib.Path(__file__).parent

if sys.version_info < (3, 12):
    # These versions collect the members of a protocol again for each `isinstance`, which TensorFlow calls for every
    # array that it converts: 3 % of the time.
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)


def pytest_configure(config):
    # A shell that runs the tests in the background makes them ignore Ctrl-C, which some tests send to themselves.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Few examples in `make test`, many in `make test-all`. Continuous integration uses the same ones in every run, so
    # that failures are reproducible; elsewhere, new examples are drawn.
    examples = 20 if "not slow" in config.option.markexpr else 100
    settings.register_profile("house", deadline=None, max_examples=examples, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("house")
    # Imports and collected tests produce no garbage; collecting it meanwhile takes a fifth of the time.
    gc.disable()


def pytest_collection_modifyitems(items):
    # First, so that a single one of the test processes starts the other backend.
    items.sort(key=lambda item: "other_backend" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session):
    # Each `clear_session` runs the garbage collector over all objects of TensorFlow and Keras. Freezing excludes the
    # objects that exist before the first test.
    gc.enable()
    gc.collect()
    gc.freeze()
    # At the default thresholds, collections take 5 % of the time: a network creates many objects, and few are garbage.
    gc.set_threshold(10_000, 10, 10)


class Backend:
    """A worker process that runs the functions of `backend_worker` on another backend, where TensorFlow is missing."""

    def __init__(self, name):
        environment = {**os.environ, "KERAS_BACKEND": name, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        # Without this, JAX computes in float32 regardless of the model.
        environment["JAX_ENABLE_X64"] = "1"
        command = [sys.executable, str(TESTS / "backend_worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)

    def outputs_and_gradients(self, model_path, images, folder):
        outputs, *gradients = self._compute("outputs_and_gradients", model_path, folder, images=images)
        return outputs, gradients

    def training_step(self, model_path, images, labels, folder):
        return self._compute("training_step", model_path, folder, images=images, labels=labels)

    def first_batches(self, images_folder, folder):
        return self._compute("first_batches", images_folder, folder)

    def tfds_arrays(self, data_folder, folder):
        return self._compute("tfds_arrays", data_folder, folder)

    def _compute(self, function, path, folder, **arrays):
        job = {"function": function, "path": str(path), "arrays": f"{folder}/arrays.npz"}
        job["results"] = f"{folder}/results.npz"
        np.savez(job["arrays"], **arrays)
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer == "done\n", f"the other backend's process ended with {self.process.wait()}"
        with np.load(job["results"]) as results:
            return [results[name] for name in results.files]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def eager():
    """Runs the rest of a module eagerly, which is faster for a few training steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def quick_decoding():
    """Replaces the decoder of SavedModels, which takes seconds to trace, by one for images of the right size."""
    import tensorflow as tf

    from keras_sharenets.mobile.export import saved_model

    def decode(data, shape, index):
        image = tf.io.decode_image(data, shape[-1], expand_animations=False)
        return tf.ensure_shape(tf.cast(image, tf.float32), shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "decode", decode)
        yield


@pytest.fixture(scope="session", autouse=True)
def parsed_digits():
    """Parses the digits of scikit-learn, a text file, once and not in each command."""
    import sklearn.datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.datasets, "load_digits", functools.cache(sklearn.datasets.load_digits))
        yield


@pytest.fixture
def no_weights():
    """For tests marked by `harness.counts_only`."""
    import harness

    with harness.without_weights():
        yield


@pytest.fixture
def sharenets(capsys):
    """Runs a command of `sharenets` in this process: `(exit status, standard output, standard error)`."""
    from keras_sharenets import cli

    def sharenets(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return sharenets


@pytest.fixture(scope="session")
def other_backend():
    """The JAX backend in a separate process; `None` if the tests run on JAX, since the TensorFlow run compares both."""
    # Not at the top: the controlling process would import TensorFlow and print its log after pytest's last line.
    import keras

    if keras.backend.backend() == "jax":
        yield None
        return
    worker = Backend("jax")
    yield worker
    worker.close()
