"""Processes that start a run in the same folder at once: one succeeds, and the others report an error."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from tiny_network import MODEL

from keras_sharenets import files
from keras_sharenets.training.run.recorder import list_checkpoints

# Runs `python -m trainers` with a plain network for each line of standard input, and prints the exit status.
LINES = """
import sys
from tiny_network import create_plain
from keras_sharenets.training.run import network
from trainers.cli import main
network.create_model = create_plain
print("ready", flush=True)
for line in sys.stdin:
    print("status", main(line.split()), flush=True)
"""


def start():
    here = pathlib.Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", LINES],
        env={**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_outcome(process):
    """The output lines of a process up to its exit status, and the exit status."""
    lines = []
    while not (line := process.stdout.readline()).startswith("status"):
        assert line
        lines.append(line)
    return lines, int(line.split()[1])


@pytest.mark.slow
def test_one_of_several_processes_gets_the_folder(tmp_path):
    processes = [start() for _ in range(3)]
    try:
        for process in processes:
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None
        for number in range(20):
            folder = tmp_path / str(number)
            fighters = processes[: 2 + number % 2]
            for seed, process in enumerate(fighters):
                words = ["fit", "--model", MODEL, "--data", "digits", "--epochs=1", "--batch-size=256"]
                words += ["--jit-compile=false", "--output", str(folder), f"--seed={seed}"]
                process.stdin.write(" ".join(words) + "\n")
                process.stdin.flush()
            outcomes = [read_outcome(process) for process in fighters]
            (winner,) = [seed for seed, (_, status) in enumerate(outcomes) if status == 0]
            for seed, (lines, status) in enumerate(outcomes):
                if seed != winner:
                    assert status == 2
                    (line,) = [line for line in lines if line.startswith("error: ")]
                    pid = processes[winner].pid
                    # A process that is late finds the finished run.
                    assert re.match(rf"error: The folder {folder} is in use by process {pid} on ", line) or re.match(
                        rf"error: The output directory {folder} (already contains a run|exists and is not)", line
                    )
            metrics = json.loads((folder / "metrics.json").read_text())
            assert (metrics["state"], metrics["seed"], len(metrics["epochs"])) == ("finished", winner, 1)
            assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["000000005.npz"]
            assert files.load_model(folder / "last.keras").output_shape == (None, 10)
            assert not [path for path in folder.rglob(".*")]
    finally:
        for process in processes:
            process.kill()
