"""Runs that are killed and resumed give the same result as undisturbed runs."""

import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from keras_sharenets import files
from keras_sharenets.training.run.recorder import (
    list_checkpoints,
    load_checkpoint,
)

ROOT = pathlib.Path(__file__).parents[2]
MODEL = "hscnet_m32_g4_r2_b1_a2"
# 1,438 images are 22 steps of 64.
STEPS = 22
BEGIN = ["fit", "--model", MODEL, "--data", "digits", "--validation=none"]
BEGIN += ["--deterministic", "--learning-rate=0.03", "--batch-size=64"]
# Every option with a state or random numbers.
PARTS = ["--optimizer=AdamW", "--ema=0.9", "--accumulate=3", "--clip-norm=1", "--mixup=0.2", "--random-erasing=0.3"]

# The command line with a network that compiles quickly and draws random numbers.
NETWORK = """
import os, signal, sys
import keras, keras_sharenets.training.run.fit
from keras import layers
def build(name, dataset, options, recipe):
    convolution = [layers.Rescaling(1 / 255), layers.Conv2D(8, 3, strides=2), layers.BatchNormalization()]
    classifier = [layers.ReLU(), layers.Flatten(), layers.Dropout(0.3), layers.Dense(10, activation="softmax")]
    images = keras.Input(dataset.shape)
    return keras.Model(images, keras.Sequential([*convolution, *classifier])(images))
keras_sharenets.training.run.fit.build = build
"""
# Patches that send SIGKILL to the process at a certain moment.
AT_A_STEP = """
from keras_sharenets.training.run.recorder import Recorder
end = Recorder.on_train_batch_end
def last_step(self, batch, logs=None):
    end(self, batch, logs)
    if self._step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
Recorder.on_train_batch_end = last_step
"""
AT_A_WRITE = """
replace = os.replace
def die(source, target):
    if str(target).endswith("{name}"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = die
"""
# Runs several command lines, separated by `then`, in sequence.
GO = """
from trainers.cli import main
for words in " ".join(sys.argv[1:]).split(" then "):
    status = main(words.split())
    if status:
        sys.exit(status)
"""


def start(arguments, backend, patch=""):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", NETWORK + patch + GO, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Background processes of a shell ignore SIGINT, which their children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def check_loadable(folder):
    """Checks that every file with its final name is intact, and returns the steps of the checkpoints."""
    for path in folder.glob("*.keras"):
        assert files.load_model(path).output_shape == (None, 10)
    if (folder / "metrics.json").exists():
        json.loads((folder / "metrics.json").read_text())
    checkpoints = list_checkpoints(folder / "checkpoints")
    for path in checkpoints:
        load_checkpoint(path)
    return [int(path.stem) for path in checkpoints]


def newest_checkpoint(folder):
    """The step of the newest checkpoint, or 0."""
    return max((int(path.stem) for path in list_checkpoints(folder / "checkpoints")), default=0)


def outcome(folder):
    """Everything that must not depend on kills: variables, weights of the files, and the history without times."""
    arrays, _ = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    weights = {name: files.load_model(folder / name).get_weights() for name in ("last.keras", "best.keras")}
    with open(folder / "history.csv", newline="") as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["state"] == "finished"
    assert not list(folder.rglob(".*.partial"))
    return (
        {name: array.tobytes() for name, array in arrays.items()},
        {name: [array.tobytes() for array in values] for name, values in weights.items()},
        history,
        metrics["test_accuracy"],
        metrics["best"],
    )


def test_file_is_unchanged_if_writing_is_killed(tmp_path):
    """A quick check; the complete runs below are slow, and `test_resume` resumes from intact checkpoints."""
    write = "from keras_sharenets import files; files.write_json({path!r}, {value})"
    path = tmp_path / "metrics.json"
    for patch, value, status in (("", 1, 0), (AT_A_WRITE.format(name="metrics.json"), 2, -9)):
        code = "import os, signal" + patch + "\n" + write.format(path=str(path), value=value)
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == status
        assert json.loads(path.read_text()) == 1
    assert len(list(tmp_path.glob(".*.partial"))) == 1


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit(tmp_path):
    """The run is killed while it writes a checkpoint in the second epoch."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    begin = [*BEGIN, *PARTS, "--epochs=2", "--jit-compile=false"]
    arguments = [*begin, "--output", killed, "--checkpoint-steps=5"]
    assert start(arguments, "tensorflow", AT_A_WRITE.format(name="000000032.npz")).wait() == -9
    assert check_loadable(killed) == [20, 22, 27]
    assert len(list(killed.rglob(".*.partial"))) == 1
    assert len((killed / "history.csv").read_text().splitlines()) == 2
    # The undisturbed and the resumed run share a process, which saves one start.
    calm = [*begin, "--output", undisturbed]
    assert start(["fit", "--resume", killed, "then", *calm], "tensorflow").wait() == 0
    assert outcome(killed) == outcome(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "how"),
    [
        ("tensorflow", []),
        ("tensorflow", ["--precision=float16"]),
        ("tensorflow", ["--precision=float16", *PARTS, "--cutmix=1", "--rand-augment=0.3"]),
        ("jax", []),
        ("jax", ["--epochs-on-device=yes"]),
        ("jax", ["--epochs-on-device=yes", *PARTS, "--cutmix=1"]),
    ],
)
def test_run_killed_twice_resumes_bit_for_bit(backend, how, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    begin = [*BEGIN, "--epochs=2", *how]
    with start([*begin, "--output", undisturbed], backend) as calm:
        # During the first epoch, then while writing a checkpoint in the second.
        arguments = [*begin, "--output", killed, "--checkpoint-steps=5"]
        assert start(arguments, backend, AT_A_STEP.format(step=13)).wait() == -9
        assert check_loadable(killed) == [5, 10]
        assert calm.wait() == 0
    assert start(["fit", "--resume", killed], backend, AT_A_WRITE.format(name="000000032.npz")).wait() == -9
    assert check_loadable(killed) == [20, 22, 27]
    assert len(list(killed.rglob(".*.partial"))) == 1
    assert len((killed / "history.csv").read_text().splitlines()) == 2
    assert start(["fit", "--resume", killed], backend).wait() == 0
    assert outcome(killed) == outcome(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_run_stopped_20_times_resumes_bit_for_bit(backend, tmp_path):
    """Stopped by SIGTERM, SIGINT, and SIGKILL in random order."""
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    begin = [*BEGIN, "--epochs=40"]
    assert start([*begin, "--output", undisturbed], backend).wait() == 0
    begin += ["--output", stopped, "--checkpoint-steps=3"]
    metrics = stopped / "metrics.json"
    chance = random.Random(0)
    steps = []
    for number in chance.sample([signal.SIGTERM, signal.SIGINT, signal.SIGKILL] * 7, 20):
        before = metrics.stat().st_mtime_ns if metrics.exists() else None
        process = start(["fit", "--resume", stopped] if metrics.exists() else begin, backend)
        # Any moment after this process has written its first file: compiling, training, testing, or writing.
        while not metrics.exists() or metrics.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.01)
        # A random time, but limited in steps, so that a fast machine does not finish before the last signal.
        first = newest_checkpoint(stopped)
        end, last_step = time.monotonic() + chance.uniform(0, 4), first + chance.randint(1, 25)
        while time.monotonic() < end and newest_checkpoint(stopped) < last_step:
            time.sleep(0.01)
        assert process.poll() is None, "the run is too short for 20 signals"
        process.send_signal(number)
        if number == signal.SIGKILL:
            assert process.wait() == -number
        else:
            assert process.wait() == 128 + number
            record = json.loads(metrics.read_text())
            assert (record["state"], record["reason"]) == ("stopped", number.name)
            # A run that is stopped during evaluation has taken no further step.
            assert newest_checkpoint(stopped) > first or first % STEPS == 0
        steps.append(max(check_loadable(stopped), default=0))
    assert len(set(steps)) > 10
    assert steps == sorted(steps)
    assert start(["fit", "--resume", stopped], backend).wait() == 0
    assert outcome(stopped) == outcome(undisturbed)
