"""Failures during training print one line and keep the last good checkpoint."""

import dataclasses
import errno
import json
import os
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.loop import _out_of_memory, _stop
from keras_sharenets.training.run.record import Run
from keras_sharenets.training.run.recorder import Recorder, list_checkpoints, load_checkpoint
from trainers.cli import main

MODEL = "hscnet_m32_g4_r2_b1_a2"
pytestmark = pytest.mark.usefixtures("quick_network")


@pytest.fixture
def colors(tmp_path):
    """A folder of 40 red or green images; the 32 training images are 2 steps per epoch."""
    for channel, name in enumerate(("red", "green")):
        (tmp_path / "colors" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.zeros((8, 8, 3), "uint8")
            pixels[..., channel] = 100 + number
            PIL.Image.fromarray(pixels).save(tmp_path / "colors" / name / f"{number}.png")
    return tmp_path / "colors"


def train_with_fault(colors, folder, monkeypatch, fault):
    """Runs the command for 3 epochs, and calls `fault(recorder)` after the files of the first epoch are written."""
    publish = Recorder._publish

    def publish_and_break(recorder):
        publish(recorder)
        fault(recorder)

    monkeypatch.setattr(Recorder, "_publish", publish_and_break)
    options = "--epochs 3 --batch-size 16 --learning-rate 0.01 --jit-compile false --model-option width=(16,)"
    options += " --model-option arrangements=1 --validation none"
    return main(["fit", "--model", MODEL, "--data", str(colors), "--output", str(folder), *options.split()])


def check_failure(folder, capsys, message):
    """Expects one line with the message, and an intact checkpoint of the first epoch as the last one."""
    # The description of the data precedes the error.
    told, _, errors = capsys.readouterr().err.rpartition("error: ")
    assert "error" not in told
    assert errors.count("\n") == 1
    assert errors.startswith(message)
    path = folder / "checkpoints" / "000000002.npz"
    assert f"The last good checkpoint is {path}; `sharenets fit --resume {folder}` continues from there." in errors
    assert list_checkpoints(folder / "checkpoints") == [path]
    arrays, state = load_checkpoint(path)
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert [epoch["epoch"] for epoch in state["run"]["epochs"]] == [1]
    assert not list(folder.rglob(".*.partial"))
    return errors


def test_non_finite_loss(colors, tmp_path, capsys, monkeypatch):
    def fault(recorder):
        variable = recorder.network.trainable_variables[0]
        variable.assign(np.full(variable.shape, np.nan))

    assert train_with_fault(colors, tmp_path / "run", monkeypatch, fault) == 2
    check_failure(
        tmp_path / "run", capsys, "The loss is nan after step 1 of epoch 2. Try a smaller `learning_rate` (=0.01)"
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["state"], len(metrics["epochs"])) == ("stopped", 1)


def test_full_disk(colors, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        assert train_with_fault(colors, tmp_path / "run", patch, lambda recorder: patch.setattr(os, "fsync", full)) == 2
    told = "A file of the run cannot be written: [Errno 28] No space left on device."
    check_failure(tmp_path / "run", capsys, told)
    close = Recorder.close

    def full_at_the_end(recorder, state, reason=None):
        close(recorder, state, reason) if state == "stopped" else full(0)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "close", full_at_the_end)
        assert main(["fit", "--resume", str(tmp_path / "run")]) == 2
    assert (
        f"error: {told} The last good checkpoint is {tmp_path}/run/checkpoints/000000006.npz" in capsys.readouterr().err
    )
    assert main(["fit", "--resume", str(tmp_path / "run")]) == 0
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 4


OUT_OF_MEMORY = {
    "tensorflow": tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[128,64,32,32]"),
    "xla": RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4294967296 bytes."),
    "python": MemoryError(),
}


def test_out_of_memory_errors_are_recognized():
    assert all(map(_out_of_memory, OUT_OF_MEMORY.values()))
    assert not any(map(_out_of_memory, (RuntimeError("INTERNAL: out"), tf.errors.UnavailableError(None, None, "gone"))))


@pytest.mark.parametrize(("on_device", "more"), [("no", ""), ("yes", "; so does `--epochs-on-device no`")])
def test_out_of_memory_message_suggests_remedies(on_device, more):
    run = Run(model="m", options={}, data={}, recipe=Recipe(1, 0.1, 0.0, batch_size=64), backend="", versions={})
    run = dataclasses.replace(run, epochs_on_device=on_device)
    recorder = types.SimpleNamespace(run=run, close=lambda *_: None, resume_hint=lambda: "Go on.")
    with pytest.raises(ValueError, match=r"^The device is out of memory\. .*Go on\.$") as caught:
        _stop(OUT_OF_MEMORY["xla"], OUT_OF_MEMORY["xla"], recorder, Devices())
    assert f"a smaller `batch_size` (=64) needs less{more}" in str(caught.value)
    assert ("epochs-on-device" in str(caught.value)) is (on_device == "yes")


@pytest.mark.slow
@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_device_out_of_memory(error, colors, tmp_path, capsys, monkeypatch):
    def fault(recorder):
        raise error

    assert train_with_fault(colors, tmp_path / "run", monkeypatch, fault) == 2
    told = "The device is out of memory. A new run with a smaller `batch_size` (=16) needs less."
    check_failure(tmp_path / "run", capsys, told)


def test_unreadable_image(colors, tmp_path, capsys, monkeypatch):
    def fault(recorder):
        for path in colors.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:45])

    assert train_with_fault(colors, tmp_path / "run", monkeypatch, fault) == 2
    errors = check_failure(tmp_path / "run", capsys, f"{colors}/")
    assert ".png is not an image that can be read: " in errors


def test_failure_before_the_first_checkpoint(tmp_path, capsys):
    options = ["--model-option", "width=(16,)", "--learning-rate", "1e30", "--jit-compile", "false"]
    folder = tmp_path / "run"
    assert main(["fit", "--model", MODEL, "--data", "digits", "--output", str(folder), *options]) == 2
    told, error = capsys.readouterr().err.splitlines()
    assert told.startswith("1,295 training images")
    assert f"There is no checkpoint in {folder} yet." in error
