"""Signals sent to a training process, in `make test-all`.

By default, `test_killed_runs.py` kills a process while it writes, `test_resume.py` sends signals within a process, and
`cli/test_command.py` checks exit codes.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from tiny_network import MODEL, TINY

from keras_sharenets import files
from keras_sharenets.training.run.recorder import list_checkpoints

ROOT = pathlib.Path(__file__).parents[2]


# `python -m trainers` with a plain network.
PLAIN = """
import sys
from tiny_network import create_plain
from keras_sharenets.training.run import network
from trainers.cli import main
network.create_model = create_plain
sys.exit(main(sys.argv[1:]))
"""


def start_long_training(folder, *program):
    """Starts `python -m trainers fit` in a separate process.

    It starts faster without XLA. With 359 steps per epoch, a signal arrives within an epoch.
    """
    arguments = ["fit", "--model", MODEL, "--data", "digits", "--output", str(folder)]
    for key, value in TINY.items():
        arguments += ["--model-option", f"{key}={value}"]
    arguments += ["--epochs=50", "--batch-size=4", "--learning-rate=0.01", "--jit-compile=false"]
    arguments += ["--validation=none", "--checkpoint-steps=20"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": f"{ROOT}:{pathlib.Path(__file__).parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Background processes of a shell ignore SIGINT, which their children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_epoch(process, folder, epoch):
    """Waits until a checkpoint shows that the epoch is in progress."""
    step = (epoch - 1) * 359 + 20
    while not any(int(path.stem) >= step for path in list_checkpoints(folder / "checkpoints")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)


def check_files(folder, epochs):
    """Checks that every file is intact and records the number of finished epochs."""
    names = {path.name for path in folder.iterdir()}
    assert {"metrics.json", "history.csv", "labels.txt"} <= names
    assert {name for name in names if name.endswith(".keras")} == ({"best.keras", "last.keras"} if epochs else set())
    assert not [name for name in names if name.endswith(".partial")]
    for path in folder.glob("*.keras"):
        assert files.load_model(path).output_shape == (None, 10)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics["epochs"]) == epochs
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + epochs
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_kill_during_an_epoch_leaves_intact_files(tmp_path, epoch):
    process = start_long_training(tmp_path / "run", "-m", "trainers")
    with process:
        wait_for_epoch(process, tmp_path / "run", epoch)
        process.kill()
    assert process.returncode == -9
    metrics = check_files(tmp_path / "run", epochs=epoch - 1)
    assert (metrics["state"], metrics["test_accuracy"]) == ("running", None)


@pytest.mark.slow
@pytest.mark.parametrize("program", [("-c", PLAIN), ("-m", "trainers")], ids=["plain", "hscnet"])
def test_sigterm_saves_a_checkpoint(program, tmp_path):
    process = start_long_training(tmp_path / "run", *program)
    with process:
        wait_for_epoch(process, tmp_path / "run", 2)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 143
    (checkpoint, *_) = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)
    assert 359 + 20 <= int(checkpoint.stem) < 2 * 359
    told = (
        f"The last good checkpoint is {checkpoint}; `sharenets fit --resume {tmp_path / 'run'}` continues from there."
    )
    assert errors.splitlines()[-1] == f"interrupted: {told}"
    assert "Traceback" not in errors
    metrics = check_files(tmp_path / "run", epochs=1)
    assert (metrics["state"], metrics["reason"]) == ("stopped", "SIGTERM")
    assert (tmp_path / "run" / "curves.png").is_file()
