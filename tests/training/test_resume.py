"""Interrupted and resumed runs in one process; `test_killed_runs.py` kills processes."""

import dataclasses
import json
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest

from keras_sharenets import files
from keras_sharenets.folder_lock import hold_folder
from keras_sharenets.interruption import Interrupted
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.data.sources import DataSource
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.run.fit import check_same_data, fit, resume
from keras_sharenets.training.run.record import RunOptions, read_metrics, run_from_dict, write_metrics
from keras_sharenets.training.run.recorder import Recorder, last_checkpoint, list_checkpoints, load_checkpoint
from trainers.cli import main

MODEL = "hscnet_m32_g4_r2_b1_a2"
TINY = {"width": (16,), "shuffle_groups": 1, "arrangements": 1}


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=2, batch_size=256, learning_rate=0.03)


@pytest.fixture(scope="module")
def interrupted_run(digits, recipe, quick_network, tmp_path_factory):
    """A run that was interrupted after the checkpoint of its first epoch, before its files were written."""

    def interrupt(model, path):
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("interrupted") / "run"
    settings = {"options": TINY, "run_options": RunOptions(seed=3, jit_compile=False)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "save_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(MODEL, digits, folder, recipe=recipe, verbose=0, **settings)
    assert not list(folder.glob("*.keras"))
    return folder


@pytest.fixture
def interrupted(interrupted_run, tmp_path):
    """A copy of the interrupted run."""
    return shutil.copytree(interrupted_run, tmp_path / "run")


def test_missing_files_of_an_epoch_are_written_on_resume(interrupted, digits):
    run = resume(interrupted, digits, verbose=0)
    assert [epoch.epoch for epoch in run.epochs] == [1, 2]
    metrics = json.loads((interrupted / "metrics.json").read_text())
    assert (metrics["state"], metrics["reason"]) == ("finished", None)
    assert metrics["seconds"] >= sum(epoch["seconds"] for epoch in metrics["epochs"])
    assert len((interrupted / "history.csv").read_text().splitlines()) == 3
    assert (interrupted / "best.keras").is_file()
    # A finished run is not changed.
    before = {path: path.stat().st_mtime_ns for path in interrupted.iterdir()}
    assert resume(interrupted, digits) == run
    assert {path: path.stat().st_mtime_ns for path in interrupted.iterdir()} == before


def test_run_interrupted_within_an_epoch_matches_undisturbed_run(digits, recipe, tmp_path, monkeypatch):
    """Weights, momentum, and history match up to rounding; `test_killed_runs.py` compares them bit for bit."""

    def build(name, dataset, options, recipe):
        images = keras.Input(dataset.shape)
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 16)(images))
        return keras.Model(images, keras.layers.Dense(10, activation="softmax")(x))

    def signal_at(patch, method, epoch, batch, number):
        call = getattr(Recorder, method)

        def interrupt(self, index, logs=None):
            if (len(self.run.epochs), index) == (epoch, batch):
                signal.raise_signal(number)
            call(self, index, logs)

        patch.setattr(Recorder, method, interrupt)

    monkeypatch.setattr("keras_sharenets.training.run.fit.build", build)
    run_options = RunOptions(seed=3, jit_compile=False)
    settings = {"recipe": recipe, "run_options": run_options, "verbose": 0}
    fit(MODEL, digits, tmp_path / "undisturbed", **settings)
    folder = tmp_path / "an interrupted run"
    told = rf"The last good checkpoint is {folder}/checkpoints/%09d\.npz; `sharenets fit --resume '{folder}'` continues"
    with monkeypatch.context() as patch:
        signal_at(patch, "on_train_batch_end", 1, 2, signal.SIGTERM)
        with pytest.raises(Interrupted, match=told % 8) as stop:  # Five steps per epoch.
            fit(MODEL, digits, folder, **settings)
    assert stop.value.number == signal.SIGTERM
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["state"], metrics["reason"]) == ("stopped", "SIGTERM")
    with monkeypatch.context() as patch:
        # All steps are taken, and evaluation is in progress.
        signal_at(patch, "on_test_batch_end", 1, 0, signal.SIGINT)
        with pytest.raises(Interrupted, match=told % 10) as stop:
            resume(folder, digits, verbose=0)
    assert stop.value.number == signal.SIGINT
    assert load_checkpoint(folder / "checkpoints" / "000000010.npz")[1]["step"] == 5
    run = resume(folder, digits, verbose=0)
    assert [epoch.epoch for epoch in run.epochs] == [1, 2]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    folders = (tmp_path / "undisturbed", folder)
    histories = [read_metrics(each / "metrics.json").epochs for each in folders]
    for epoch, other in zip(*histories, strict=True):
        figures, others = (
            {name: value for name, value in dataclasses.asdict(one).items() if name != "seconds" and value is not None}
            for one in (epoch, other)
        )
        assert figures == pytest.approx(others, rel=1e-3)
    ends = [list_checkpoints(each / "checkpoints")[-1] for each in folders]
    assert [end.stem for end in ends] == ["000000010"] * 2
    undisturbed, resumed = (load_checkpoint(end)[0] for end in ends)
    assert undisturbed.keys() == resumed.keys()
    for name, array in undisturbed.items():
        np.testing.assert_allclose(resumed[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_checkpoint_steps_and_number_of_kept_checkpoints(digits, recipe, quick_network, tmp_path):
    run_options = RunOptions(jit_compile=False, checkpoint_steps=2, keep_checkpoints=4)
    fit(MODEL, digits, tmp_path / "run", recipe=recipe, options=TINY, run_options=run_options, verbose=0)
    # With five steps per epoch, checkpoints are written after steps 2, 4, and 5.
    names = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["000000005.npz", "000000007.npz", "000000009.npz", "000000010.npz"]


def rewrite_as_version_1(folder):
    """Rewrites the record and the checkpoints of a run in the format of the first version."""
    later = {"version", "strategy", "source", "tensorboard", "deterministic", "keep_checkpoints", "checkpoint_steps"}
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["data"]["note"] = "in other words"
    del metrics["data"]["checksums"]
    path.write_text(json.dumps({name: value for name, value in metrics.items() if name not in later}))
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        arrays, state = load_checkpoint(checkpoint)
        state["run"] = {name: value for name, value in state["run"].items() if name not in later}
        np.savez(checkpoint, state=json.dumps(state), **arrays)


def test_resume_with_equal_arguments(interrupted, capsys):
    """Runs of an earlier version of the library can be resumed too."""
    rewrite_as_version_1(interrupted)
    same = f"--model {MODEL} --data digits --seed 3 --epochs 2 --jit-compile false --output {interrupted}".split()
    same += ["--model-option", "width=[16]"]
    assert main(["fit", "--resume", str(interrupted), *same]) == 0
    assert f"files in {interrupted}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "3"], "`--epochs` (=3) must match the run in RUN (=2) or be omitted."),
        (["--batch-size", "64"], "`--batch-size` (=64) must match the run in RUN (=256)"),
        (["--recipe", "fast"], "`--recipe` (=fast) must match the run in RUN (=digits)"),
        (["--tensorboard"], "`--tensorboard` (=[]) must match the run in RUN (=None)"),
        (["--seed", "4"], "`--seed` (=4) must match the run in RUN (=3)"),
        (["--model", "hscnet_m64"], "`--model` (=hscnet_m64) must match the run in RUN (=hscnet_m32_g4_r2_b1_a2)"),
        (["--jit-compile", "true"], "`--jit-compile` (=True) must match the run in RUN (=False)"),
        (["--deterministic"], "`--deterministic` (=True) must match the run in RUN (=False)"),
        (["--model-option", "width=8"], "`--model-option width` (=8) must match the run in RUN (=(16,))"),
        (["--output", "elsewhere"], "elsewhere) must match the run in RUN"),
        (["--data", "images"], "The data set has the name images, but the run in RUN has digits."),
        (["--checkpoint-steps", "0"], "`checkpoint_steps` (=0) must be a positive integer."),
        (["--keep-checkpoints", "0"], "`keep_checkpoints` (=0) must be a positive integer."),
    ],
)
def test_resume_with_different_arguments(interrupted, arguments, message, capsys, tmp_path, monkeypatch):
    import PIL.Image

    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            PIL.Image.new("L", (8, 8)).save(tmp_path / "images" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--resume", str(interrupted), *arguments]) == 2
    *told, error = capsys.readouterr().err.splitlines()
    assert message.replace("RUN", str(interrupted)) in error
    # The description of a folder may precede the error.
    assert not told or (told[0].startswith("images: ") and "--data" in arguments)
    assert json.loads((interrupted / "metrics.json").read_text())["state"] == "stopped"


def pixel_changed(part):
    images = part.images.copy()
    images[3, 4, 4] ^= 1
    return Arrays(images, part.labels)


def swapped(part):
    """The same images, the first two in the other order."""
    return part.part(np.array([1, 0, *range(2, len(part))]))


def test_runs_that_cannot_be_resumed(interrupted, digits, tmp_path):
    with pytest.raises(ValueError, match=rf"There is no {tmp_path}/none/metrics\.json: .*/none contains no run"):
        resume(tmp_path / "none", digits)
    with pytest.raises(ValueError, match=r"The data set has the mean \[1\.0\], but the run in .* has \["):
        resume(interrupted, dataclasses.replace(digits, mean=(1.0,)))
    # A folder of the same images may have been renamed, but not one of other images, or of a version without checksums.
    check_same_data(
        read_metrics(interrupted / "metrics.json"), dataclasses.replace(digits, name="renamed"), interrupted
    )
    unknown = dataclasses.replace(digits, name="renamed", checksums={})
    with pytest.raises(ValueError, match=r"The data set has the name renamed, but the run in .* has digits"):
        resume(interrupted, unknown)
    path = interrupted / "metrics.json"
    metrics = json.loads(path.read_text())
    for split, changed in {"test": pixel_changed(digits.test), "train": swapped(digits.train)}.items():
        splits = {"train": digits.train, "test": digits.test} | {split: changed}
        other = make_dataset(digits.name, digits.note, digits.class_names, **splits)
        assert (other.mean, other.variance) == (digits.mean, digits.variance)
        with pytest.raises(ValueError, match=rf"The images of the {split} split of digits are not those that the run"):
            resume(interrupted, other)
    brighter = dataclasses.replace(digits.train, images=digits.train.images // 2 + 9)
    other = make_dataset(digits.name, digits.note, digits.class_names, brighter, digits.test)
    # A run that starts from a trained network keeps the mean of that.
    path.write_text(json.dumps({**metrics, "start": {}}))
    with pytest.raises(ValueError, match=r"The images of the train split of digits are not those that the run"):
        resume(interrupted, other)
    path.write_text(json.dumps({**metrics, "backend": "torch"}))
    with pytest.raises(ValueError, match=r"was started with KERAS_BACKEND=torch: resume it with the same"):
        resume(interrupted, digits)
    path.write_text(json.dumps({name: metrics[name] for name in metrics if name != "recipe"}))
    with pytest.raises(ValueError, match=r"metrics\.json is not the record of a run: KeyError"):
        resume(interrupted, digits)
    path.write_text(json.dumps(metrics | {"version": 1000}))
    with pytest.raises(ValueError, match=r"its version \(=1000\) must be at most \d+: update keras_sharenets"):
        resume(interrupted, digits)
    path.write_text(json.dumps(metrics))
    checkpoint = list_checkpoints(interrupted / "checkpoints")[-1]
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"The checkpoint .*000000005\.npz is damaged: .*restart the run from the beginning"
    ):
        resume(interrupted, digits)
    with hold_folder(interrupted), pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on"):
        resume(interrupted, digits)


def test_previous_checkpoint_replaces_damaged_ones(interrupted):
    folder = interrupted / "checkpoints"
    whole = (folder / "000000005.npz").read_bytes()
    (folder / "000000007.npz").write_bytes(whole[:1000])
    (folder / "000000008.npz").write_bytes(b"no archive")
    np.savez(folder / "000000009.npz", state=json.dumps({"step": 4}))
    told = r"9\.npz contains no run\. .*8\.npz is damaged: .*7\.npz is damaged: .* the previous one, .*5\.npz\.$"
    with pytest.warns(UserWarning, match=told):
        path, _, state = last_checkpoint(folder)
    assert (path.name, state["step"]) == ("000000005.npz", 0)
    damaged = [f"00000000{number}.npz.damaged" for number in (7, 8, 9)]
    assert sorted(path.name for path in folder.iterdir()) == ["000000005.npz", *damaged]


def test_what_a_damaged_or_missing_checkpoint_takes_along(interrupted, digits, monkeypatch):
    """An epoch without a checkpoint is repeated: its network is not the best one of the run any more."""
    monkeypatch.setattr("keras_sharenets.training.run.fit._train", lambda run, *more: run)
    folder, record = interrupted / "checkpoints", interrupted / "metrics.json"
    (first,) = read_epochs(folder)
    second = dataclasses.replace(first, epoch=2, validation_accuracy=1.0)
    run = dataclasses.replace(read_metrics(record), epochs=(first, second))
    write_metrics(run, record)
    (interrupted / "best.keras").write_bytes(b"of epoch 2")
    (folder / "000000010.npz").write_bytes(b"no archive")
    with pytest.warns(UserWarning, match=r"damaged") as warned:
        assert resume(interrupted, digits).epochs == (first,)
    assert re.search(r"best\.keras is the network of epoch 2, which the run repeats", str(warned[-1].message))
    assert (interrupted / "best_lost_epoch_2.keras").read_bytes() == b"of epoch 2"
    assert not (interrupted / "best.keras").exists()
    # Without any checkpoint, no epoch of the record belongs to the weights that training starts from.
    shutil.rmtree(folder)
    again = resume(interrupted, dataclasses.replace(digits, source=DataSource("digits", data_dir="moved")))
    assert (again.epochs, again.seconds) == ((), 0.0)
    assert again.source["data_dir"] == "moved"  # Reports on the run find its images there.


def read_epochs(folder):
    return run_from_dict(last_checkpoint(folder)[-1]["run"]).epochs


def test_folder_in_use_is_rejected(digits, recipe, tmp_path):
    """The other run has not written any file yet."""
    with hold_folder(tmp_path / "run"), pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on"):
        fit(MODEL, digits, tmp_path / "run", recipe=recipe)
    assert list(tmp_path.iterdir()) == []


def test_partial_files_of_a_killed_run_are_ignored(digits, recipe, tmp_path):
    (tmp_path / ".metrics.json.7.partial").write_text("{")
    with pytest.raises(ValueError, match="`seed`"):
        fit(MODEL, digits, tmp_path, recipe=recipe, run_options=RunOptions(seed=-1))


def test_run_killed_while_writing_its_first_files_is_resumed(digits, recipe, quick_network, tmp_path, monkeypatch):
    def kill(*words):
        raise KeyboardInterrupt

    settings = {"recipe": override(recipe, epochs=1), "options": TINY, "run_options": RunOptions(jit_compile=False)}
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_labels", kill)
        with pytest.raises(KeyboardInterrupt):
            fit(MODEL, digits, tmp_path / "run", verbose=0, **settings)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.json"]
    run = resume(tmp_path / "run", digits, verbose=0)
    assert (run.state, len(run.epochs)) == ("finished", 1)
    assert (tmp_path / "run" / "labels.txt").read_text().splitlines() == list(digits.class_names)
