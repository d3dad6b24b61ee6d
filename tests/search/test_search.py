"""The search with mocked training: trials, records, and resumption after interruptions."""

import dataclasses
import functools
import math
import pathlib

import keras
import keras_tuner
import numpy as np
import pytest

from keras_sharenets import files, mobile
from keras_sharenets.mobile.export import conversion
from keras_sharenets.search import hypermodel, measuring, search, training, trials
from keras_sharenets.search.budgets import Budget, FileBudget
from keras_sharenets.search.measuring import FileCosts
from keras_sharenets.search.oracles import parts_of_training
from keras_sharenets.search.settings import TUNERS, Search
from keras_sharenets.search.spaces import find_space
from keras_sharenets.search.spaces.space import check
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import override, recipe_for

DIGITS = load("digits")
WITHIN = functools.cache(hypermodel._within_budget)
RECIPE = override(recipe_for("hscnet_m32_g4_r2_b1_a2", "digits"), epochs=9)


class Killed(BaseException):
    """Simulates the end of the process: the program does not handle it."""


def _make_search(folder, **changes):
    asked = Search(
        folder=pathlib.Path(folder),
        space="shardnet",
        dataset=DIGITS,
        tuner="random",
        trials=5,
        recipe=RECIPE,
        budget=Budget(max_parameters=20_000),
        file_budget=FileBudget(),
        seed=0,
        validation=0.2,
        halving_worth=0.0,
        finalists=1,
    )
    return dataclasses.replace(asked, **changes)


@pytest.fixture
def trained(monkeypatch):
    """Mocks training; a list of `(first epoch, end epoch)` of every call."""
    done = []
    inputs = keras.Input((1,))
    tiny = keras.Model(inputs, keras.layers.Dense(1)(inputs))

    def train(network, dataset, *, recipe, seed, first_epoch=0, last_epoch):
        done.append((first_epoch, last_epoch))
        return 0.5 + 0.01 * len(done)

    monkeypatch.setattr(training, "build", lambda name, dataset, options, recipe: tiny)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "measure", lambda model, folder, dataset: FileCosts(1000, 0.5, 4000))
    monkeypatch.setattr(search, "_PAUSE", 0)
    monkeypatch.setattr(hypermodel, "_within_budget", WITHIN)
    # KerasTuner builds one network before it starts, to find the hyperparameters.
    monkeypatch.setattr(hypermodel.SpaceHyperModel, "build", hypermodel.SpaceHyperModel.point)
    return done


def _silent(result):
    pass


def _settings(folder):
    return [result.settings for result in trials.read_all(folder)]


# The Gaussian process takes seconds per trial after the first two.
@pytest.mark.parametrize(
    ("tuner", "count"),
    [
        ("bayesian", 3),
        pytest.param("hyperband", 8, marks=pytest.mark.slow),
        pytest.param("bayesian", 8, marks=pytest.mark.slow),
        pytest.param("random", 8, marks=pytest.mark.slow),
    ],
)
def test_trials_are_networks_within_the_budget(tuner, count, trained, tmp_path):
    said = []
    asked = _make_search(tmp_path, tuner=tuner, trials=count)
    search.run(asked, said.append)
    results = trials.read_all(tmp_path)
    assert [result.id for result in results] == [str(number) for number in range(count)]
    assert [(result.id, result.state) for result in said] == [
        (str(number), state) for number in range(count) for state in ("running", "finished")
    ]
    for result in results:
        arguments = dict(result.arguments)
        assert (arguments.pop("input_shape"), arguments.pop("num_classes")) == ([8, 8, 1], 10)
        assert result.parameters <= 20_000
        assert result.score == result.accuracy
    assert len(trained) == count


@pytest.mark.slow
def test_hyperband_continues_the_best_trials(trained, tmp_path):
    search.run(_make_search(tmp_path, tuner="hyperband", trials=13), _silent)
    assert parts_of_training("hyperband", 13, 9) == 9
    # The mocked accuracy increases: the last three of nine trials are continued, and then the last of these.
    assert trained == [(0, 1)] * 9 + [(1, 3)] * 3 + [(3, 9)]
    results = trials.read_all(tmp_path)
    assert [result.continues for result in results] == [None] * 9 + ["08", "07", "06", "11"]
    for result in results[9:]:
        before = results[int(result.continues)]
        assert (result.name, result.arguments) == (before.name, before.arguments)


def test_hyperband_replaces_a_failed_trial(trained, tmp_path, monkeypatch):
    fine = training.train

    def fail_once(*arguments, **options):
        accuracy = fine(*arguments, **options)
        if len(trained) == 2:
            raise keras_tuner.errors.FailedTrialError("the training diverged")
        return accuracy

    monkeypatch.setattr(training, "train", fail_once)
    search.run(_make_search(tmp_path, tuner="hyperband", trials=5), _silent)
    results = trials.read_all(tmp_path)
    assert [result.state for result in results] == ["finished", "failed", "finished", "finished", "finished"]
    assert trained == [(0, 3)] * 4 + [(3, 9)]
    assert results[4].continues == "3"


@pytest.mark.parametrize("tuner", ["hyperband", *(pytest.param(name, marks=pytest.mark.slow) for name in TUNERS[:2])])
def test_no_network_is_trained_twice(tuner, trained, tmp_path):
    budget = Budget(max_parameters=1400)
    networks = len(hypermodel.SpaceHyperModel("shardnet", input_shape=DIGITS.shape, budget=budget))
    assert networks == 8
    search.run(_make_search(tmp_path, tuner=tuner, trials=13, budget=budget), _silent)
    tried = [(result.name, str(result.arguments)) for result in trials.read_all(tmp_path) if result.continues is None]
    assert len(tried) == len(set(tried)) == networks
    if tuner == "hyperband":
        # The first round needs nine networks; without the ninth, the best third of the eight continues.
        assert trained == [(0, 1)] * 8 + [(1, 3)] * 3 + [(3, 9)]
        assert [result.continues for result in trials.read_all(tmp_path)][8:] == ["07", "06", "05", "10"]


@pytest.mark.slow
def test_hyperband_trains_at_least_one_epoch(trained, tmp_path):
    recipe = override(RECIPE, epochs=3)
    search.run(_make_search(tmp_path, tuner="hyperband", trials=13, recipe=recipe), _silent)
    # 13 trials would allow ninths of the training, but each trial trains for at least one of the 3 epochs.
    assert trained[:4] == [(0, 1)] * 3 + [(1, 3)]
    assert all(first < last for first, last in trained)


# Each takes more than a minute.
@pytest.mark.slow
@pytest.mark.parametrize("tuner", TUNERS)
def test_kill_at_any_write_loses_no_trial(tuner, trained, tmp_path, monkeypatch):
    """The process ends before or after one of its writes; the same call resumes with the same results."""
    write, writes = files.write_bytes, []

    def count(path, data):
        writes.append(path)
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", count)
    search.run(_make_search(tmp_path / "whole", tuner=tuner, trials=4), _silent)
    whole, trainings = _settings(tmp_path / "whole"), len(trained)
    assert trainings == 4
    for place in range(0, len(writes), 3):
        folder, left = tmp_path / f"{place}", [place]

        def kill(path, data, left=left, place=place):
            left[0] -= 1
            if left[0] >= 0 or place % 2:
                write(path, data)
            if left[0] < 0:
                raise Killed

        trained.clear()
        monkeypatch.setattr(files, "write_bytes", kill)
        with pytest.raises(Killed):
            search.run(_make_search(folder, tuner=tuner, trials=4), _silent)
        monkeypatch.setattr(files, "write_bytes", write)
        search.run(_make_search(folder, tuner=tuner, trials=4), _silent)
        assert [result.id for result in trials.read_all(folder)] == list("0123")
        assert {result.state for result in trials.read_all(folder)} == {"finished"}
        # Only the interrupted trial is repeated.
        assert trainings <= len(trained) <= trainings + 1
        if tuner == "random":
            assert _settings(folder) == whole


def test_search_of_an_older_version_is_resumed(trained, tmp_path):
    """Arguments and hyperparameters had other names."""

    def kill(result):
        if (result.id, result.state) == ("2", "running"):
            raise Killed

    whole, began = tmp_path / "whole", tmp_path / "began"
    search.run(_make_search(whole, trials=4), _silent)
    with pytest.raises(Killed):
        search.run(_make_search(began, trials=4), kill)
    for path in (began / "oracle.json", *began.glob("*/trial.json")):
        text = path.read_text()
        assert '"width"' in text
        path.write_text(text.replace('"width"', '"filters"').replace('"blocks_per_stage"', '"blocks_per_level"'))
    before = trials.read_all(began)
    search.run(_make_search(began, trials=4), _silent)
    assert trials.read_all(began)[:2] == before
    assert [result.choices for result in trials.read_all(began)] == [r.choices for r in trials.read_all(whole)]
    assert _settings(began) == _settings(whole)


def test_finished_search_trains_nothing(trained, tmp_path):
    search.run(_make_search(tmp_path), _silent)
    before = {path: path.read_bytes() for path in tmp_path.rglob("trial.json")}
    search.run(_make_search(tmp_path), _silent)
    assert len(trained) == 5
    assert {path: path.read_bytes() for path in tmp_path.rglob("trial.json")} == before


def test_failed_trial_is_recorded_and_counted_once(trained, tmp_path, monkeypatch):
    fine = training.train

    def fail_once(*arguments, **options):
        if len(trained) == 2:
            trained.append("failed")
            raise ArithmeticError("out of memory")
        return fine(*arguments, **options)

    monkeypatch.setattr(training, "train", fail_once)
    search.run(_make_search(tmp_path), _silent)
    results = trials.read_all(tmp_path)
    assert [result.state for result in results] == ["finished", "finished", "failed", "finished", "finished"]
    assert results[2].reason == "ArithmeticError: out of memory"
    assert results[2] not in trials.candidates(results)


def test_diverged_training_is_a_failed_trial(trained, tmp_path, monkeypatch):
    fine = training.train

    def diverge_once(network, dataset, **options):
        values = math.nan if len(trained) == 1 else 0.0
        network.set_weights([np.full(weight.shape, values) for weight in network.get_weights()])
        return fine(network, dataset, **options)

    monkeypatch.setattr(training, "train", diverge_once)
    search.run(_make_search(tmp_path, trials=3), _silent)
    results = trials.read_all(tmp_path)
    assert [result.state for result in results] == ["finished", "failed", "finished"]
    assert "diverged" in results[1].reason


def test_failed_int8_export_is_a_failed_trial(trained, tmp_path, monkeypatch, capfd, recwarn):
    fine = training.measure

    def mismatch(*arguments, **options):
        raise mobile.ExportMismatchError("The converted file does not compute what Keras computes")

    monkeypatch.setattr(conversion, "convert", mismatch)
    monkeypatch.setattr(measuring, "_representative_data", lambda *arguments: None)
    monkeypatch.setattr(
        training, "measure", lambda *arguments: (measuring.measure if len(trained) == 2 else fine)(*arguments)
    )
    search.run(_make_search(tmp_path, trials=3), _silent)
    results = trials.read_all(tmp_path)
    assert [result.state for result in results] == ["finished", "failed", "finished"]
    assert results[1].reason == "The converted file does not compute what Keras computes"
    assert "Traceback" not in capfd.readouterr().err
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    search.run(_make_search(tmp_path, trials=3), _silent)
    assert trials.read_all(tmp_path) == results


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ArithmeticError("out of memory"), "ArithmeticError: out of memory"),
        (keras_tuner.errors.FailedTrialError("the training diverged"), "the training diverged"),
    ],
)
def test_three_consecutive_failures_stop_the_search(trained, tmp_path, monkeypatch, error, said):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(ValueError, match=f"Three trials in a row failed. The last error: {said}$"):
        search.run(_make_search(tmp_path), _silent)
    assert [(result.state, result.reason) for result in trials.read_all(tmp_path)] == [("failed", said)] * 3


def test_full_disk_stops_the_search_and_the_trial_is_repeated(trained, tmp_path, monkeypatch):
    def full(model, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(files, "save_model", full)
        with pytest.raises(ValueError, match=r"Cannot write a file: .*No space left"):
            search.run(_make_search(tmp_path), _silent)
    assert trials.read_all(tmp_path) == []
    search.run(_make_search(tmp_path), _silent)
    assert [result.state for result in trials.read_all(tmp_path)] == ["finished"] * 5


def test_halving_worth(trained, tmp_path, monkeypatch):
    sizes = iter([(1000, 1.0), (500, 1.0), (1000, 0.5), (4000, 4.0), (1000, 1.0)])
    monkeypatch.setattr(training, "train", lambda *arguments, **options: 0.9)
    monkeypatch.setattr(training, "measure", lambda model, folder, dataset: FileCosts(*next(sizes), 4000))
    search.run(_make_search(tmp_path, halving_worth=0.01), _silent)
    scores = [result.score for result in trials.read_all(tmp_path)]
    assert [round(score - scores[0], 9) for score in scores] == [0, 0.01, 0.01, -0.04, 0]


def test_file_above_the_limit_cannot_win(trained, tmp_path, monkeypatch):
    sizes = iter([900, 1100, 900, 1100, 900])
    monkeypatch.setattr(training, "measure", lambda model, folder, dataset: FileCosts(next(sizes), 0.5, 4000))
    monkeypatch.setattr(search.FileLimits, "__call__", lambda self, point: ())
    search.run(_make_search(tmp_path, file_budget=FileBudget(max_tflite_bytes=1000)), _silent)
    results = trials.read_all(tmp_path)
    assert [result.within_budget for result in results] == [True, False, True, False, True]
    assert {result.id for result in trials.candidates(results)} == {"0", "2", "4"}


def test_search_without_files_on_another_backend(trained, tmp_path, monkeypatch):
    for module in (measuring, search):
        monkeypatch.setattr(module, "writes_files", lambda: False)
    monkeypatch.setattr(training, "measure", measuring.measure)
    search.run(_make_search(tmp_path, trials=2), _silent)
    results = trials.read_all(tmp_path)
    assert [(result.state, result.within_budget) for result in results] == [("finished", True)] * 2
    assert {(result.int8_bytes, result.float32_bytes, result.latency_ms) for result in results} == {(None, None, None)}
    assert [result.id for result in trials.ranked(results)] == ["1", "0"]
    for changes in ({"file_budget": FileBudget(max_tflite_bytes=1000)}, {"halving_worth": 0.01}):
        with pytest.raises(ValueError, match="applies to int8 files, which need the TensorFlow backend"):
            search.run(_make_search(tmp_path / "other", **changes), _silent)


def test_plateau_schedule_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"`schedule` \(='plateau'\)"):
        search.run(_make_search(tmp_path, recipe=override(RECIPE, schedule="plateau")), _silent)


def test_recorded_arguments_are_points_of_the_space(trained, tmp_path):
    search.run(_make_search(tmp_path), _silent)
    space = find_space("shardnet")
    for result in trials.read_all(tmp_path):
        point = {key: value for key, value in result.arguments.items() if key not in ("input_shape", "num_classes")}
        point = {key: tuple(value) if isinstance(value, list) else value for key, value in point.items()}
        kind = next(kind for kind, name in space.networks.items() if name == result.name)
        check(space, {"network": kind, **point}, input_shape=(8, 8, 1))
