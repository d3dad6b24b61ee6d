"""Records of trials: files, order, and Pareto front."""

import json
import math

import pytest

from keras_sharenets.cli import search
from keras_sharenets.rendering import figures
from keras_sharenets.search import report, trials
from keras_sharenets.search.measuring import Peer


def _result(number, accuracy, size, milliseconds, **more):
    given = {"id": str(number), "state": "finished", "name": "", "arguments": {}, "parameters": 1, "multiply_adds": 1}
    given |= {"epochs": 1, "continues": None, "settings": {}, "worker": "tuner0", "within_budget": True}
    given |= {"accuracy": accuracy, "score": accuracy, "int8_bytes": size, "latency_ms": milliseconds}
    return trials.Result(**{**given, **more})


def test_pareto_front():
    sizes = [((7 * number) % 31 + 1, (11 * number) % 29 / 29) for number in range(40)]
    results = [_result(number, accuracy, size, size) for number, (size, accuracy) in enumerate(sizes)]
    front = trials.pareto_front(results, "int8_bytes")

    def beaten(result):
        return any(
            other.int8_bytes <= result.int8_bytes
            and other.accuracy >= result.accuracy
            and (other.int8_bytes, other.accuracy) != (result.int8_bytes, result.accuracy)
            for other in results
        )

    expected = {(result.int8_bytes, result.accuracy) for result in results if not beaten(result)}
    assert {(result.int8_bytes, result.accuracy) for result in front} == expected
    assert len(front) == len(expected) > 2
    assert [result.int8_bytes for result in front] == sorted(result.int8_bytes for result in front)


def test_captions_of_figures_have_units(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(figures, "caption", lambda figure, text: told.append(text.splitlines()[-2:]))
    monkeypatch.setattr(figures, "name_points", lambda *given, **more: None)
    peers = [Peer("near", tmp_path, 2_458_000, None, 0.5), Peer("far", tmp_path, 12_345_678, 0.75, 1234.5)]
    for cost, label, divisor, unit in report.FIGURES.values():
        report.draw_front([_result(0, 0.5, 10_000, 1.5)], peers, cost=cost, label=label, divisor=divisor, unit=unit)
    sizes, times = told
    assert sizes == ["not shown: near at 2,458 kB, accuracy unknown", "not shown: far at 12,346 kB, 75.0%"]
    # 1,234.5 is rounded to the even number.
    assert times == ["not shown: near at 0.5 ms, accuracy unknown", "not shown: far at 1,234 ms, 75.0%"]


def test_ranking_excludes_trials_over_budget_and_prefers_smaller_files():
    results = [_result(0, 0.9, 20, 1), _result(1, 0.9, 10, 1), _result(2, 0.95, 10, 1, within_budget=False)]
    results.append(_result(3, None, None, None, state="failed", within_budget=None, score=None))
    assert [result.id for result in trials.ranked(results)] == ["1", "0"]
    assert trials.ranked(results[2:]) == []


@pytest.mark.parametrize(("state", "left"), [("finished", ["1"]), ("running", ["0"]), ("failed", ["0"])])
def test_only_a_finished_trial_replaces_the_one_it_continues(state, left):
    ended = {} if state == "finished" else {"within_budget": None, "score": None}
    results = [_result(0, 0.9, 20, 1), _result(1, 0.8, 20, 1, continues="0", state=state, **ended)]
    assert [result.id for result in trials.candidates(results)] == left


def test_record_round_trip(tmp_path):
    result = _result(7, 0.5, 10, math.pi)
    trials.write(result, tmp_path)
    assert trials.read_all(tmp_path) == [result]
    (tmp_path / "7" / "trial.json").write_text(json.dumps({"id": "7"}))
    with pytest.raises(ValueError, match=r"7/trial\.json is not the record of a trial: KeyError 'state'"):
        trials.read_all(tmp_path)


def test_old_record_without_unsteady_times(tmp_path):
    trials.write(_result(0, 0.9, 1000, 1.5, unsteady=True), tmp_path)
    (result,) = trials.read_all(tmp_path)
    assert result.unsteady
    path = tmp_path / "0" / trials.FILE
    record = json.loads(path.read_text())
    del record["unsteady"]
    path.write_text(json.dumps(record))
    assert trials.read_all(tmp_path) == [_result(0, 0.9, 1000, 1.5)]


@pytest.mark.parametrize(("unsteady", "told"), [(False, "1.50 ms;"), (True, "~1.50 ms;")])
def test_unsteady_time_is_marked(unsteady, told):
    line = search._trial_line(_result(0, 0.9, 1000, 1.5, unsteady=unsteady, seconds=3.0), 60.0, str)
    assert line == f"trial 0: validation accuracy 0.9000, int8 file 1,000 bytes, {told} 3 s, about 60 s left"
