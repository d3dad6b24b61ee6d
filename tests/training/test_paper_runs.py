"""Training the experiments of papers: missing, interrupted, and concurrent runs; and figures."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from made_up_runs import fake_run, publish

from keras_sharenets import cli
from keras_sharenets.cli import paper
from keras_sharenets.folder_lock import hold_folder
from keras_sharenets.training.papers.entries import Row
from keras_sharenets.training.papers.runs import find_runs, group_runs
from keras_sharenets.training.run import fit as fit_module
from keras_sharenets.training.run.record import read_metrics
from keras_sharenets.training.run.recorder import Recorder

ROOT = pathlib.Path(__file__).parents[2]
# A network of table 6, which `quick_network` replaces.
DIGITS = ["paper", "igcv2", "table6", "--rows", "igcv1_c48_d8", "--run", "--data", "digits", "--limit-images", "64"]
QUICK = ["--jit-compile", "false", "--batch-size", "32"]


def run(*words):
    return cli.main(list(map(str, words)))


def run_json(capsys, *words):
    assert run(*words, "--json", "-") == 0
    output, errors = capsys.readouterr()
    return json.loads(output), errors


def test_missing_runs_are_trained_and_finished_runs_are_skipped(quick_network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*DIGITS, *QUICK, "--epochs", "1", "--output", "out"]
    _, errors = run_json(capsys, *words, "--seeds", "1")
    assert "1 run, 0 already finished" in errors
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == "igcv1_c48_d8_digits_1epochs_64images_seed1"
    record = read_metrics(folder / "metrics.json")
    assert (record.state, record.data["train"], record.data["test"], record.recipe.name) == (
        "finished",
        64,
        64,
        "digits",
    )
    assert record.data["note"].endswith("; 64 images of either split at most")
    before = (folder / "metrics.json").stat().st_mtime_ns

    ((found,), errors) = run_json(capsys, *words, "--seeds", "1", "0", "--plot", "figure.png")
    assert "2 runs, 1 already finished" in errors
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    (group,) = found["runs"]
    assert (group["model"], group["data"], group["train_images"]) == ("igcv1_c48_d8", "digits", 64)
    accuracies = [read_metrics(path).test_accuracy for path in sorted((tmp_path / "out").glob("*/metrics.json"))]
    assert group["test_accuracy"] == {"0": accuracies[0], "1": accuracies[1]}
    assert np.asarray(PIL.Image.open("figure.png")).std() > 0

    # A changed field is not part of the name of a folder: its run is not taken for that of another recipe.
    assert run(*words, "--seeds", "1", "--learning-rate", "0.01") == 2
    rule = rf"error: `learning_rate` \(=0\.01\) must be that of the run in out/{folder.name} \(=0\.1\): choose another"
    assert re.match(rule, capsys.readouterr().err.splitlines()[-1])

    # Nor is the path of the images: other images in a folder of the same name need another output.
    path = folder / "metrics.json"
    old, other = tmp_path / "old" / "digits", tmp_path / "other" / "digits"
    old.mkdir(parents=True)
    other.mkdir(parents=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": {"data": str(old)}}))
    assert run(*words, "--seeds", "1", "--data", other) == 2
    assert f"`data` (={str(other)!r}) must be that of the run in out/{folder.name} (={str(old)!r})" in (
        capsys.readouterr().err
    )
    old.rmdir()
    run_json(capsys, *words, "--seeds", "1", "--data", other)  # They may have been moved.

    assert run(*words[:5], "--output", "out") == 0
    text = capsys.readouterr().out
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert f"{100 * mean:.2f} ± {100 * deviation:.2f}  {100 - 100 * mean:.2f} ± {100 * deviation:.2f}" in text


def test_stopped_run_is_resumed(quick_network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*DIGITS, *QUICK, "--epochs", "2", "--output", "out"]
    end = Recorder.on_epoch_end

    def stop(self, epoch, logs=None):
        end(self, epoch, logs)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_epoch_end", stop)
        assert run(*words) == 128 + signal.SIGTERM
    # Not `fit --resume`, which would train on more than the 64 images.
    errors = capsys.readouterr().err
    assert errors.endswith("interrupted: The same command continues with this run.\n")
    assert "1 of 1: igcv1_c48_d8_digits_2epochs_64images_seed0 (2 epochs, " in errors
    (folder,) = (tmp_path / "out").iterdir()
    stopped = read_metrics(folder / "metrics.json")
    assert (stopped.state, len(stopped.epochs)) == ("stopped", 1)
    capsys.readouterr()
    assert run(*words[:5], "--output", "out") == 0
    assert "1 of 2" in capsys.readouterr().out
    run_json(capsys, *words)
    finished = read_metrics(folder / "metrics.json")
    assert (finished.state, finished.epochs[:1]) == ("finished", stopped.epochs)
    assert len(finished.epochs) == 2


def test_locked_and_failed_runs_do_not_prevent_others(quick_network, tmp_path, capsys, monkeypatch):
    """Seed 0 is locked by another process, and seed 1 fails."""
    monkeypatch.chdir(tmp_path)
    name = "igcv1_c48_d8_digits_1epochs_64images_seed"
    (tmp_path / "out" / f"{name}1").mkdir(parents=True)
    (tmp_path / "out" / f"{name}1" / "thesis.txt").write_text("42")
    with hold_folder(tmp_path / "out" / f"{name}0"):
        assert run(*DIGITS, *QUICK, "--epochs", "1", "--output", "out", "--seeds", "0", "1", "2") == 2
    errors = capsys.readouterr().err
    assert "seed2 (1 epoch, " in errors
    assert f"The folder out/{name}0 is in use by process {os.getpid()} on" in errors
    assert "1 of 3 runs are in progress in other processes" in errors
    assert f"error: 1 of 3 runs failed; the first: {name}1: The output directory out/{name}1 exists" in errors
    assert [path.parent.name for path in (tmp_path / "out").glob("*/metrics.json")] == [f"{name}2"]


@pytest.mark.slow
def test_runs_of_other_processes_are_taken_over(quick_network, tmp_path, capsys, monkeypatch):
    """One process ends while the next run trains; one finishes a run between two checks of its folder."""
    monkeypatch.chdir(tmp_path)
    words = [*DIGITS, *QUICK, "--epochs", "1", "--output", "out", "--seeds"]
    name = "igcv1_c48_d8_digits_1epochs_64images_seed"
    end, settle, others = Recorder.on_epoch_end, fit_module._settle, contextlib.ExitStack()

    def leave(self, epoch, logs=None):
        end(self, epoch, logs)
        others.close()

    def finish(run, *more):
        if not (tmp_path / "out" / f"{name}1").exists():
            shutil.copytree(tmp_path / "out" / f"{name}2", tmp_path / "out" / f"{name}1")
        return settle(run, *more)

    monkeypatch.setattr(Recorder, "on_epoch_end", leave)
    others.enter_context(hold_folder(tmp_path / "out" / f"{name}0"))
    _, errors = run_json(capsys, *words, "0", "2")
    assert [word in errors for word in (f"{name}0 is in use", "are left")] == [True, False]
    assert {path.parent.name for path in (tmp_path / "out").glob("*/metrics.json")} == {f"{name}0", f"{name}2"}
    monkeypatch.setattr(fit_module, "_settle", finish)
    accuracy = read_metrics(tmp_path / "out" / f"{name}2" / "metrics.json").test_accuracy
    _, errors = run_json(capsys, *words, "1")
    assert f"   test accuracy {accuracy:.2%}\n" in errors


def test_rows_without_a_network_are_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["paper", "hscnet", "table4", "--rows", "IGCV2", "--run", "--output", "out"]
    assert run(*words) == 0
    errors = capsys.readouterr().err
    assert "not trained: IGCV2: quoted from another paper; the IGC-V2 paper has no network with 2.3M" in errors
    assert not (tmp_path / "out").exists()


# Groups of runs, from fake records


def test_runs_are_grouped_by_row(tmp_path):
    """Seeds of a network form a group; other recipes form another group; duplicates of a run are ignored."""
    from keras_sharenets.training.recipes.named import find_recipe, override

    other = override(find_recipe("fast"), epochs=9)
    runs = [("s_vggnet_32", 0, 0.5), ("s_vggnet_32", 2, 0.7), ("sl_vggnet_32", 0, 0.8), ("resnet_8", 0, 0.9)]
    for each in runs:
        publish(tmp_path / "a", fake_run(*each))
    publish(tmp_path / "b", fake_run("s_vggnet_32", 0, 0.1))
    publish(tmp_path / "c", fake_run("s_vggnet_32", 0, 0.6, other))
    (tmp_path / "c" / "broken").mkdir()
    (tmp_path / "c" / "broken" / "metrics.json").write_text("{")
    found = find_runs([tmp_path / name for name in "abc"])
    assert len(found) == 6
    rows = [Row("SL", "sl_vggnet_32", "cifar10"), Row("S", "s_vggnet_32", "cifar10"), Row("?", None, "cifar10")]
    groups = group_runs(found, rows)
    assert [group.accuracies for group in groups] == [{0: 0.8}, {0: 0.5, 2: 0.7}, {0: 0.6}]


def draw_plot(tmp_path, capsys, *words):
    assert run("paper", *words, "--plot", tmp_path / "figure.png") == 0
    capsys.readouterr()
    return PIL.Image.open(io.BytesIO((tmp_path / "figure.png").read_bytes()))


def test_figures(tmp_path, capsys, monkeypatch):
    """Figures with printed results only, with runs, and with learning curves, which require runs."""
    monkeypatch.chdir(tmp_path)
    alone = draw_plot(tmp_path, capsys, "shardnet", "figure3")
    assert alone.width > 2.5 * alone.height  # Three panels.
    for seed, accuracy in ((0, 0.7), (1, 0.8)):
        publish(tmp_path / "runs", fake_run("s_vggnet_32", seed, accuracy))
        publish(tmp_path / "runs", fake_run("sharesnet_164", seed, accuracy))
    with_runs = draw_plot(tmp_path, capsys, "shardnet", "figure3")
    assert (np.asarray(with_runs) != np.asarray(alone)).any()
    assert np.asarray(draw_plot(tmp_path, capsys, "sharesnet", "figure4")).std() > 0
    by_arithmetic = draw_plot(tmp_path, capsys, "igcv2", "figure3")
    assert by_arithmetic.height > by_arithmetic.width  # Panels for channels and non-sparsity.
    assert run("paper", "hgcnet", "figure5", "--plot", tmp_path / "figure.png") == 2
    assert "There is nothing to plot for figure5" in capsys.readouterr().err


def test_figures_of_activations_refer_to_analyze(tmp_path, capsys, monkeypatch):
    assert run("paper", "hscnet", "figure8", "--plot", tmp_path / "figure.png") == 2
    assert "Draw it with `sharenets analyze RUN_DIR ... --activations --part 0.375` from" in capsys.readouterr().err
    monkeypatch.setattr(paper, "_train", lambda *words: [tmp_path / "a run", tmp_path / "another"])
    assert run("paper", "hscnet", "figure8", "--run", "--output", tmp_path) == 0
    folders = f"'{tmp_path}/a run' {tmp_path}/another"
    told = capsys.readouterr().out
    assert f"draw it with: sharenets analyze {folders} --activations --part 0.375 --output DIR" in told


# One table of each paper, from start to end

SMALLEST = {
    "hscnet": ("table4", "hscnet_m128_g16_r8_a2"),
    "hgcnet": ("table1", "sgcnet_42_g6"),
    "igcv2": ("table2", "plain_xception_c64"),
    "sharesnet": ("table3", "resnet_92"),
    "shardnet": ("table1a", "s_vggnet_32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", SMALLEST)
def test_killed_table_is_resumed(key, tmp_path, cifar10_folder):
    """One network is trained for four epochs on 512 images of CIFAR-10; the process is killed after the first."""
    table, network = SMALLEST[key]
    (row,) = [str(number) for number, row in _rows(key, table) if (row.network, row.data) == (network, "cifar10")]
    words = [sys.executable, "-m", "trainers", "paper", key, table, "--rows", row, "--run", "--epochs", "4"]
    words += ["--limit-images", "512", "--data-dir", cifar10_folder, "--output", tmp_path / "out"]
    words += ["--plot", tmp_path / "figure.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"cwd": tmp_path, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, **quiet)
    while not find_runs([tmp_path / "out"]):  # Runs with a finished epoch.
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "out").iterdir()
    killed = read_metrics(folder / "metrics.json")
    assert killed.state == "running"
    assert 1 <= len(killed.epochs) < 4
    assert subprocess.run(words, **quiet).returncode == 0
    finished = read_metrics(folder / "metrics.json")
    assert (finished.state, len(finished.epochs)) == ("finished", 4)
    assert finished.epochs[: len(killed.epochs)] == killed.epochs
    assert (finished.model, finished.data["train"], finished.data["name"]) == (network, 512, "cifar10")
    assert np.asarray(PIL.Image.open(tmp_path / "figure.png")).std() > 0


@pytest.mark.slow
def test_second_process_takes_over_runs_of_a_killed_one(tmp_path):
    """Two processes run the same command; the first that finishes an epoch is killed in the next one."""
    words = [sys.executable, "-m", "trainers", *DIGITS[:-1], "512", "--epochs", "4", "--seeds", "0", "1", "2"]
    quiet = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdout": subprocess.DEVNULL, "cwd": tmp_path}
    errors = [(tmp_path / f"errors{number}.txt").open("w+") for number in range(2)]
    processes = [subprocess.Popen([*words, "--output", "out"], stderr=each, **quiet) for each in errors]
    while not (begun := find_runs([tmp_path / "out"])):
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.02)
    killed = begun[0]
    (folder,) = (tmp_path / "out").glob(f"*_seed{killed.seed}")
    holder = json.loads((folder / ".lock").read_text())["pid"]
    (victim,) = (process for process in processes if process.pid == holder)
    (heir,) = (process for process in processes if process is not victim)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert heir.wait() == 0
    runs = {run.seed: run for run in find_runs([tmp_path / "out"])}
    assert {seed: (run.state, len(run.epochs)) for seed, run in runs.items()} == dict.fromkeys(
        range(3), ("finished", 4)
    )
    assert runs[killed.seed].epochs[:1] == killed.epochs[:1]
    told = errors[processes.index(heir)]
    told.seek(0)
    assert told.read().count("test accuracy ") == 3


def _rows(key, table):
    from keras_sharenets.training.papers.entries import papers

    (rows,) = [entry.rows for entry in papers()[key].entries if entry.key == table]
    return enumerate(rows, start=1)
