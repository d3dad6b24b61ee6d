"""Distributed training with several processes over loopback gives the same result as one process."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import clustered_fit
import keras
import numpy as np
import pytest

import keras_sharenets.training.run.fit
from keras_sharenets import files
from keras_sharenets.training.run.recorder import Recorder, list_checkpoints
from trainers.cli import main

FOLDER = pathlib.Path(__file__).parent
# 1,438 images are 22 steps of 64; 359 test images are 5.6 batches.
BEGIN = ["fit", "--model", "hscnet_m32_g4_r2_b1_a2", "--data", "digits", "--deterministic", "--learning-rate=0.03"]
BEGIN += ["--batch-size=64", "--epochs=1", "--jit-compile=false", "--validation=none"]
TWO_DEVICES = {"LOGICAL_CPUS": "2", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
SECONDS = 300  # Generous, because the machine may be busy.


def start(backend, arguments, log, kill_after=0, script="clustered_fit.py", **environment):
    """Starts `clustered_fit.py`; its output and errors go to files next to its log."""
    command = [sys.executable, str(FOLDER / script), str(log), str(kill_after), *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": backend, **environment}
    with open(log.with_suffix(".err"), "w") as errors, open(log.with_suffix(".out"), "w") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=errors)


def run_here(arguments, log):
    """The same in this process, without `--deterministic`, which would permanently change its operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_sharenets.training.run.fit, "build", clustered_fit.build)
        for name in ("on_train_batch_end", "on_epoch_end"):  # Restored by `patch`.
            patch.setattr(Recorder, name, getattr(Recorder, name))
        clustered_fit.record(log, 0)
        assert main([word for word in arguments if word != "--deterministic"]) == 0


def start_two(backend, arguments, logs, kill_after=(0, 0), own=((), ()), **more):
    """Starts two workers with the same arguments, and with its `own` arguments each."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        workers = [f"127.0.0.1:{server.getsockname()[1]}" for server in (first, second)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        settings = {"kill_after": kill_after[index], "TF_CONFIG": json.dumps(config), **more}
        processes.append(start(backend, [*arguments, *own[index], "--strategy=multi_worker"], logs[index], **settings))
    return processes


def finish(processes):
    try:
        return [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


def outcome(log):
    """The losses of all steps, loss and accuracy on the test split, and all weights."""
    with np.load(log) as values:
        return {name: values[name] for name in values.files}


def check_equal(log, other, tolerance):
    values, others = outcome(log), outcome(other)
    assert len(values["losses"]) == 22
    for name, value in values.items():
        np.testing.assert_allclose(value, others[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """A function from a backend to the log of one process with one device."""
    logs = {}

    def run(backend):
        if backend not in logs:
            folder = tmp_path_factory.mktemp(f"one_{backend}")
            arguments = [*BEGIN, "--output", str(folder / "run")]
            if backend == keras.backend.backend():
                run_here(arguments, folder / "log.npz")
            else:
                assert finish([start(backend, arguments, folder / "log.npz")]) == [0]
            logs[backend] = folder / "log.npz"
        return logs[backend]

    return run


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A function from a backend to the folder of a run of two workers, with the logs `0.npz` and `1.npz`."""
    folders = {}

    def run(backend):
        if backend not in folders:
            folder = tmp_path_factory.mktemp(f"two_{backend}")
            arguments = [*BEGIN, "--output", folder / "run", "--checkpoint-steps=5"]
            assert finish(start_two(backend, arguments, [folder / "0.npz", folder / "1.npz"])) == [0, 0]
            folders[backend] = folder
        return folders[backend]

    return run


# By default, `test_devices` covers the parts that can be tested in one process.
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_workers_equal_one_process(backend, one_process, two_workers):
    folder = two_workers(backend)
    check_equal(folder / "0.npz", one_process(backend), 1e-4)
    check_equal(folder / "0.npz", folder / "1.npz", 0)
    # The file contains a single-device model with the trained weights.
    run = folder / "run"
    one = files.load_model(one_process(backend).parent / "run" / "last.keras")
    two = files.load_model(run / "last.keras")
    for weight, expected in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-4)
    assert '"synchronized": true' not in two.to_json()
    # Only worker 0 writes files.
    assert len((run / "history.csv").read_text().splitlines()) == 2
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_equal_one_device(backend, one_process, tmp_path):
    arguments = [*BEGIN, "--output", tmp_path / "run", "--strategy=mirrored"]
    assert finish([start(backend, arguments, tmp_path / "log.npz", **TWO_DEVICES)]) == [0]
    check_equal(tmp_path / "log.npz", one_process(backend), 1e-4)


def check_abort_of_jax(code, errors):
    """JAX terminates a process whose peer is lost, with an explanation."""
    assert code == -6
    assert any(
        "Terminating process because the JAX distributed service detected fatal errors" in line for line in errors
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize("gone", [1, 0])
def test_killed_worker_stops_the_other_and_both_resume(backend, gone, two_workers, tmp_path):
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    arguments = [*BEGIN, "--output", tmp_path / "run", "--checkpoint-steps=5"]
    processes = start_two(backend, arguments, logs, kill_after=[13 * (number == gone) for number in range(2)])
    try:
        assert processes[gone].wait(SECONDS) == -9
        killed = time.monotonic()
        code = processes[1 - gone].wait(60)
        assert time.monotonic() - killed < 60
    finally:
        finish(processes)
    errors = logs[1 - gone].with_suffix(".err").read_text().splitlines()
    told = [line for line in errors if line.startswith("error: ")]
    if backend == "tensorflow":
        # Warnings may precede the error, but nothing follows it.
        assert (code, told) == (2, errors[-1:])
    else:
        check_abort_of_jax(code, errors)
        # Without worker 0, JAX may terminate the process before the step fails.
        assert len(told) == 1 or gone == 0
    for line in told:
        assert line.startswith(
            f"error: Another worker has exited, so worker {1 - gone} of 2 stops, too. Restart all workers with "
            f"`sharenets fit --resume {tmp_path / 'run'} --strategy multi_worker`. ("
        )
    assert [path.stem for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["000000005", "000000010"]
    assert finish(start_two(backend, ["fit", "--resume", tmp_path / "run"], logs)) == [0, 0]
    undisturbed = outcome(two_workers(backend) / "0.npz")
    for log in logs:
        values = outcome(log)
        assert len(values.pop("losses")) == 12
        for name, value in values.items():
            np.testing.assert_array_equal(value, undisturbed[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_signal_to_one_worker_stops_all_with_a_checkpoint(backend, two_workers, tmp_path):
    """The signal is sent after step 13; the workers agree on a step after which to stop."""
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    arguments = [*BEGIN, "--output", tmp_path / "run"]
    assert finish(start_two(backend, arguments, logs, kill_after=(0, 13), SIGNAL="SIGTERM")) == [143, 143]
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert 13 <= int(checkpoint.stem) <= 22
    for log in logs:
        told = f"`sharenets fit --resume {tmp_path / 'run'} --strategy multi"
        assert f"interrupted: The last good checkpoint is {checkpoint}; {told}" in log.with_suffix(".err").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["state"], metrics["reason"]) == ("stopped", "SIGTERM")
    assert finish(start_two(backend, ["fit", "--resume", tmp_path / "run"], logs)) == [0, 0]
    undisturbed = outcome(two_workers(backend) / "0.npz")
    for log in logs:
        values = outcome(log)
        values.pop("losses")
        for name, value in values.items():
            np.testing.assert_array_equal(value, undisturbed[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_missing_worker_causes_an_error_after_the_timeout(backend, tmp_path):
    arguments = [*BEGIN, "--output", tmp_path / "run", "--cluster-timeout=2"]
    processes = start_two(backend, arguments, [tmp_path / "0.npz", tmp_path / "1.npz"])
    processes[1].kill()
    assert finish(processes) == [2, -9]
    *_, line = (tmp_path / "0.err").read_text().splitlines()
    assert line.startswith("error: Worker 0 waited 2 seconds for all workers of TF_CONFIG. Missing: 1 (")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_unresponsive_worker_stops_the_other(backend, tmp_path):
    """A suspended process keeps its connections open, like a machine without a network."""
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    processes = start_two(backend, [*BEGIN, "--output", tmp_path / "run"], logs, kill_after=(0, 13), SIGNAL="SIGSTOP")
    try:
        os.waitid(os.P_PID, processes[1].pid, os.WSTOPPED)
        stopped = time.monotonic()
        code = processes[0].wait(60)
        assert time.monotonic() - stopped < 60
    finally:
        for process in processes:
            process.kill()
            process.wait()
    errors = logs[0].with_suffix(".err").read_text().splitlines()
    if backend == "tensorflow":
        assert code == 2
        assert errors[-1].startswith("error: Another worker has exited, so worker 0 of 2 stops, too.")
    else:
        check_abort_of_jax(code, errors)


@pytest.mark.slow
def test_example_in_documentation(tmp_path):
    page = (FOLDER.parents[1] / "docs" / "clusters.md").read_text()
    (example,) = re.findall(r"```shell\n(# Two workers.*?)```", page, re.S)
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "PATH": path}
    subprocess.run(["bash", "-ec", example], cwd=tmp_path, env=environment, check=True, timeout=SECONDS)
    assert json.loads((tmp_path / "runs" / "two" / "metrics.json").read_text())["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_common_error_is_reported_by_every_worker(backend, tmp_path):
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    arguments = [*BEGIN, "--output", tmp_path / "run", "--learning-rate=1e30"]
    assert finish(start_two(backend, arguments, logs)) == [2, 2]
    for log in logs:
        errors = [line for line in log.with_suffix(".err").read_text().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith("error: The loss is ")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["state"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_workers_with_different_arguments(backend, tmp_path):
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    own = [["--seed=0"], ["--seed=1"]]
    assert finish(start_two(backend, [*BEGIN, "--output", tmp_path / "run"], logs, own=own)) == [2, 2]
    for log in logs:
        assert "error: The workers differ in model, data" in log.with_suffix(".err").read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workarounds_for_keras_are_still_needed(tmp_path):
    """If this fails, Keras has fixed a bug, and the workaround in `MultiWorkerModel` can be removed."""
    logs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    assert finish(start_two("tensorflow", [], logs, script="keras_faults.py")) == [0, 0]
    lines = dict(line.split(maxsplit=1) for line in logs[0].with_suffix(".out").read_text().splitlines())
    assert lines.pop("MultiWorkerModel") == "works"
    assert "works" not in lines.values()
    assert set(lines) == {"PlainBuild", "PlainLogs"}
