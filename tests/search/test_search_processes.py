"""Searches in separate processes: killed searches, and workers that share the trials of a chief."""

import collections
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import pytest

from keras_sharenets.search import trials

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = [
    "--space",
    "shardnet",
    "--data",
    "digits",
    "--epochs",
    "1",
    "--learning-rate",
    "0.01",
    "--max-parameters",
    "2000",
]


class Process:
    """A process of `python -m tuning search`, and the lines that it prints."""

    def __init__(self, folder, trial_count, tuner_id=None, port=None, tuner="random", quick=False):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if tuner_id is not None:
            environment |= {"KERASTUNER_TUNER_ID": tuner_id, "KERASTUNER_ORACLE_IP": "127.0.0.1"}
            environment["KERASTUNER_ORACLE_PORT"] = str(port)
        command = [sys.executable, "-m", "tuning", "search", *TINY, "--tuner", tuner, "--trials", str(trial_count)]
        command += ["--output", str(folder)]
        if quick:
            environment["KERAS_BACKEND"] = "jax"  # JAX is imported three times as fast.
            command = [
                sys.executable,
                str(ROOT / "tests" / "search" / "quick_search.py"),
                str(folder),
                str(trial_count),
            ]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, env=environment, text=True)
        self.lines, self.begun = [], threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(r" epochs?\b", line):
                self.begun.set()

    def wait(self):
        """Returns the exit status; prints the output if it is not 0."""
        status = self.process.wait(timeout=300)
        self.reader.join()
        if status:
            print("".join(self.lines))
        return status

    def kill_in_a_trial(self):
        """Sends SIGKILL as soon as a trial has started, and returns the trial's id."""
        assert self.begun.wait(timeout=300)
        self.process.kill()
        self.wait()
        return re.search(r"trial (\d+):", self.lines[-1]).group(1)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _count_finished(processes):
    """How often the end of each trial was printed."""
    said = "".join(line for process in processes for line in process.lines)
    return collections.Counter(re.findall(r"trial (\d+): validation accuracy", said))


def _assert_all_ran(folder, trial_count):
    results = trials.read_all(folder)
    assert [result.id for result in results] == [str(number) for number in range(trial_count)]
    assert {result.state for result in results} == {"finished"}
    state = json.loads((folder / "oracle.json").read_text())
    assert sorted(state["start_order"]) == sorted(state["end_order"]) == [result.id for result in results]
    scores = {trial["trial_id"]: trial["score"] for trial in state["trials"]}
    assert scores == pytest.approx({result.id: result.score for result in results})
    return results


def _assert_complete(folder, trial_count):
    results = _assert_all_ran(folder, trial_count)
    assert json.loads((folder / "conclusion.json").read_text())["winner"] == trials.ranked(results)[0].id
    return results


@pytest.mark.slow
def test_chief_and_worker(tmp_path):
    folder, port = tmp_path / "run", _free_port()
    processes = [Process(folder, 3, name, port, quick=True) for name in ("chief", "worker0")]
    # The worker first: without it, the chief waits forever.
    assert [process.wait() for process in reversed(processes)] == [0, 0]
    assert {result.worker for result in _assert_all_ran(folder, 3)} == {"worker0"}
    assert _count_finished(processes) == {str(number): 1 for number in range(3)}


@pytest.mark.slow
def test_chief_and_two_workers(tmp_path):
    folder, port = tmp_path / "run", _free_port()
    processes = [Process(folder, 4, name, port) for name in ("chief", "worker0", "worker1")]
    # The workers first: without them, the chief waits forever.
    assert [process.wait() for process in reversed(processes)] == [0, 0, 0]
    _assert_complete(folder, 4)
    assert _count_finished(processes) == {str(number): 1 for number in range(4)}


@pytest.mark.slow
def test_restarted_worker_repeats_its_trial(tmp_path):
    folder, port = tmp_path / "run", _free_port()
    chief, steady = (Process(folder, 5, name, port) for name in ("chief", "worker0"))
    killed = Process(folder, 5, "worker1", port)
    lost = killed.kill_in_a_trial()
    again = Process(folder, 5, "worker1", port)
    assert [process.wait() for process in (again, steady, chief)] == [0, 0, 0]
    results = _assert_complete(folder, 5)
    assert results[int(lost)].worker == "worker1"
    assert _count_finished([steady, killed, again]) == {str(number): 1 for number in range(5)}


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_killed_search_resumes_with_the_same_command(tmp_path, tuner):
    first = Process(tmp_path / "run", 4, tuner=tuner)
    assert first.kill_in_a_trial() == "0"
    second = Process(tmp_path / "run", 4, tuner=tuner)
    assert second.wait() == 0
    _assert_complete(tmp_path / "run", 4)
    assert _count_finished([first, second]) == {str(number): 1 for number in range(4)}
