import gc
import json
import os
import pathlib
import signal
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The tests of JAX mostly wait for its compiler; with little optimization it takes half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np
import pytest
from hypothesis import settings

TESTS = pathlib.Path(__file__).parent


def pytest_configure(config):
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send themselves.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Few examples in `make test`, many in `make test-all`. In continuous integration the same ones in every run, so
    # that a red run can be repeated; elsewhere new ones are tried.
    examples = 20 if "not slow" in config.option.markexpr else 100
    settings.register_profile("house", deadline=None, max_examples=examples, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("house")
    # Imports and collected tests are no garbage; to look for some meanwhile takes a fifth of the time.
    gc.disable()


def pytest_collection_finish(session):
    # The garbage collector goes through all that TensorFlow and Keras have made, at each `clear_session`: what is there
    # before the first test stays, so it need not be looked at.
    gc.enable()
    gc.collect()
    gc.freeze()


class Backend:
    """A worker process that computes what two functions of `harness` compute, on another backend."""

    def __init__(self, name):
        environment = {**os.environ, "KERAS_BACKEND": name, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        # Without this JAX computes in float32 whatever the model says.
        environment["JAX_ENABLE_X64"] = "1"
        command = [sys.executable, str(TESTS / "backend_worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)

    def outputs_and_gradients(self, model_path, images, folder):
        outputs, *gradients = self._compute("outputs_and_gradients", model_path, folder, images=images)
        return outputs, gradients

    def training_step(self, model_path, images, labels, folder):
        return self._compute("training_step", model_path, folder, images=images, labels=labels)

    def _compute(self, function, model_path, folder, **arrays):
        job = {"function": function, "model": str(model_path), "arrays": f"{folder}/arrays.npz"}
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
    """TensorFlow traces nothing in the rest of a module: few steps of training take less time so."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def no_weights():
    """For tests that `harness.counts_only` marks."""
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
    """The JAX backend in a process of its own. When JAX itself runs the tests, `None`: TensorFlow's run compares."""
    # Not above: the process that hands out the tests would load TensorFlow, and show its log behind pytest's last line.
    import keras

    if keras.backend.backend() == "jax":
        yield None
        return
    worker = Backend("jax")
    yield worker
    worker.close()
