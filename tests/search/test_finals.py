"""The final round of a search, with mocked training."""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from keras_sharenets.search import conclusion, report, trials
from keras_sharenets.search.budgets import Budget, FileBudget
from keras_sharenets.search.measuring import FileCosts
from keras_sharenets.search.settings import Search
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import find_recipe

DIGITS, SEED = load("digits"), 7
# Accuracies on the held-out part of the trial and on two other parts.
ACCURACIES = {"0": (0.97, 0.95, 0.95), "1": (0.96, 0.99, 0.96), "2": (0.95, 0.97, 0.98), "3": (0.9, 1.0, 1.0)}


def _search(folder, finalists):
    return Search(
        folder=pathlib.Path(folder),
        space="shardnet",
        dataset=DIGITS,
        tuner="random",
        trials=len(ACCURACIES),
        recipe=find_recipe("digits"),
        budget=Budget(),
        file_budget=FileBudget(),
        seed=SEED,
        validation=0.2,
        halving_worth=0.0,
        finalists=finalists,
    )


def _write_trials(folder, costs=(0, 0, 0, 0), before=None):
    for (number, accuracies), cost in zip(ACCURACIES.items(), costs, strict=True):
        known = {"name": number, "arguments": {}, "parameters": 1, "multiply_adds": 1, "epochs": 40, "settings": {}}
        known |= {"continues": before, "worker": "tuner0", "within_budget": True, "int8_bytes": 1000}
        score = accuracies[0] - cost
        trials.write(trials.Result(number, "finished", accuracy=accuracies[0], score=score, **known), folder)


@pytest.fixture
def trained(monkeypatch):
    """Mocks training; a list of the calls: network, seed, epochs, data."""
    done = []

    def train(network, dataset, *, recipe, seed, last_epoch):
        done.append((network, seed, last_epoch, dataset))
        return ACCURACIES[network][seed - SEED]

    def starting_network(search, result, dataset):
        assert result.continues is None
        return result.name, 0

    monkeypatch.setattr(conclusion, "train", train)
    monkeypatch.setattr(conclusion, "starting_network", starting_network)
    return done


def _silent(line):
    pass


def test_remaining_time_includes_trials_finalists_and_winner(tmp_path):
    _write_trials(tmp_path)
    search = dataclasses.replace(_search(tmp_path, 2), trials=10)
    assert conclusion.seconds_left(search) is None
    # Two workers; trials 0 and 1 were trained for 40 epochs, trial 3 continued 0 for 20 more; 2 failed.
    timed = {"0": (40, 30.0, None, "tuner0"), "1": (40, 40.0, None, "tuner1"), "3": (60, 20.0, "0", "tuner1")}
    for result in trials.read_all(tmp_path):
        if result.id in timed:
            names = ("epochs", "seconds", "continues", "worker")
            trials.write(dataclasses.replace(result, **dict(zip(names, timed[result.id], strict=True))), tmp_path)
    epoch = (30 + 40 + 20) / (40 + 40 + 20)
    # Six trials of 30 s on two workers; then two finalists twice and the winner, for all 40 epochs of the recipe.
    assert conclusion.seconds_left(search) == pytest.approx(6 * 30 / 2 + 5 * search.recipe.epochs * epoch)
    # In a longer recipe, both finalists are also trained on the part of their trial.
    longer = dataclasses.replace(search, recipe=dataclasses.replace(search.recipe, epochs=50))
    assert conclusion.seconds_left(longer) == pytest.approx(6 * 30 / 2 + 7 * 50 * epoch)
    search = dataclasses.replace(search, trials=4, finalists=1)
    assert conclusion.seconds_left(search) == pytest.approx(search.recipe.epochs * epoch)


def test_finalist_with_the_best_mean_wins(trained, tmp_path):
    _write_trials(tmp_path, before="9")
    said = []
    best, finalists = conclusion.compare_finalists(_search(tmp_path, 3), said.append)
    # The last trial has the highest mean but is not among the best three.
    assert [finalist.id for finalist in finalists] == ["1", "2", "0"]
    assert best == trials.read_all(tmp_path)[1]
    for finalist in finalists:
        assert finalist.accuracies == ACCURACIES[finalist.id]
        assert finalist.score == pytest.approx(sum(ACCURACIES[finalist.id]) / 3)
    assert [training[:3] for training in trained] == [(number, SEED + part, 40) for number in "012" for part in (1, 2)]
    assert [line.split("; ")[0] for line in said[:2]] == [
        "finalist 0, part 2 of 3: validation accuracy 0.9500",
        "finalist 0, part 3 of 3: validation accuracy 0.9500",
    ]


def test_finalist_of_fewer_epochs_is_trained_on_its_part_again(trained, tmp_path):
    """An accuracy after fewer epochs is not comparable."""
    _write_trials(tmp_path)
    short = dataclasses.replace(trials.read_all(tmp_path)[0], epochs=13, accuracy=0.961, score=0.961)
    trials.write(short, tmp_path)
    _, finalists = conclusion.compare_finalists(_search(tmp_path, 2), _silent)
    assert {finalist.id: finalist.accuracies for finalist in finalists} == {key: ACCURACIES[key] for key in "01"}
    assert [training[:3] for training in trained][:3] == [("0", SEED + part, 40) for part in range(3)]


def test_finalists_are_validated_on_other_parts(trained, tmp_path):
    _write_trials(tmp_path)
    conclusion.compare_finalists(_search(tmp_path, 2), _silent)
    first, second = (data for network, *_, data in trained if network == "0")
    for data in (first, second):
        both = np.concatenate([data.train.images, data.test.images])
        assert (len(data.train), len(data.test)) == (1151, 287)
        assert sorted(map(bytes, both)) == sorted(map(bytes, DIGITS.train.images))
    assert not np.array_equal(first.test.images, second.test.images)


def test_bytes_and_latency_are_part_of_the_score(trained, tmp_path):
    _write_trials(tmp_path, costs=(0, 0.02, 0, 0))
    best, finalists = conclusion.compare_finalists(_search(tmp_path, 3), _silent)
    assert best.id == "2"
    assert {finalist.id: round(finalist.score, 4) for finalist in finalists} == {"2": 0.9667, "0": 0.9567, "1": 0.95}


def test_best_trial_wins_without_a_final_round(trained, tmp_path):
    assert conclusion.compare_finalists(_search(tmp_path / "none", 3), _silent) == (None, [])
    _write_trials(tmp_path)
    best, finalists = conclusion.compare_finalists(_search(tmp_path, 1), _silent)
    assert (best.id, finalists, trained) == ("0", [], [])


@pytest.mark.parametrize(("limit", "within"), [(2000, True), (1999, False)])
def test_winner_is_trained_on_all_images_and_tested(trained, tmp_path, monkeypatch, limit, within):
    """The images that its trial was compared on are trained on, and calibrate the int8 file."""
    seen = {}
    costs = FileCosts(int8_bytes=2000, latency_ms=1.5, float32_bytes=7000)
    monkeypatch.setattr(conclusion, "train_and_measure", lambda *_, **how: seen.update(how) or (0.5, costs))
    monkeypatch.setattr(conclusion, "evaluate", lambda *_: argparse.Namespace(accuracy=0.25))
    _write_trials(tmp_path)
    budget = FileBudget(max_tflite_bytes=limit)
    conclusion.conclude(dataclasses.replace(_search(tmp_path, 1), file_budget=budget), _silent)
    found = conclusion.read_conclusion(tmp_path)
    assert (found["winner"], found["validation_accuracy"]) == ("0", 0.97)
    assert (found["test_accuracy"], found["int8_test_accuracy"], found["int8_bytes"]) == (0.5, 0.25, 2000)
    assert found["within_budget"] is within
    assert (seen["dataset"], seen["last_epoch"]) == (DIGITS, 40)
    held = set(map(bytes, seen["held"].test.images))
    assert held <= set(map(bytes, DIGITS.train.images))


def test_ties_keep_the_order_of_the_trials(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(conclusion, "train", lambda *arguments, **options: 0.9)
    _write_trials(tmp_path)
    for path in tmp_path.glob("*/trial.json"):
        record = json.loads(path.read_text()) | {"accuracy": 0.9, "score": 0.9}
        path.write_text(json.dumps(record | {"int8_bytes": 1000 - int(path.parent.name)}))
    best, finalists = conclusion.compare_finalists(_search(tmp_path, 4), _silent)
    assert best.id == "3"
    assert [finalist.id for finalist in finalists] == ["3", "2", "1", "0"]


def test_report_of_the_final_round(trained, tmp_path):
    _write_trials(tmp_path)
    results = trials.read_all(tmp_path)
    best, finalists = conclusion.compare_finalists(_search(tmp_path, 2), _silent)
    concluded = {"winner": best.id, "finalists": [dataclasses.asdict(finalist) for finalist in finalists]}
    found = report.Report(tmp_path, {}, results, [], concluded, {})
    assert found.winner.id == "1"
    assert report.finalist_table(found) == [
        ["trial", "accuracies", "mean"],
        ["1", "0.9600, 0.9900, 0.9600", "0.9700"],
        ["0", "0.9700, 0.9500, 0.9500", "0.9567"],
    ]
    unfinished = dataclasses.replace(found, conclusion=None)
    assert unfinished.winner.id == "0"
    assert report.finalist_table(unfinished) == [["trial", "accuracies", "mean"]]


def test_interrupted_final_round_resumes(trained, tmp_path, monkeypatch):
    _write_trials(tmp_path)
    fine = conclusion.train

    def interrupt(*arguments, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fine(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(conclusion, "train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            conclusion.compare_finalists(_search(tmp_path, 3), _silent)
    best, _ = conclusion.compare_finalists(_search(tmp_path, 3), _silent)
    assert best.id == "1"
    # Only the interrupted training is repeated.
    assert [training[:2] for training in trained] == [(number, SEED + part) for number in "012" for part in (1, 2)]
