import numpy as np
import pytest

from benchmarks import timing
from benchmarks.memory import peak_memory


def test_calls_take_turns_and_every_second_one_is_measured(monkeypatch):
    """A clock of our own, which moves only while something runs: `a` takes 1 second, 2, 3 ..., `b` three times that."""
    run, clock = [], [0.0]

    def call(name, factor):
        run.append(name)
        clock[0] += factor * run.count(name)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    calls = {"a": lambda: call("a", 1), "b": lambda: call("b", 3)}
    seconds = timing.take_turns(calls, repetitions=3, warmup=2)
    assert "".join(run) == "aabb" + 3 * "aabb"
    # The second of each pair, behind two to warm up.
    assert seconds == {"a": [4, 6, 8], "b": [12, 18, 24]}
    assert timing.ratio(seconds["b"], seconds["a"]) == timing.Spread(3, 3, 3)


def test_medians_and_quartiles():
    seconds = {"ours": [0.2, 0.1, 0.3, 0.9, 0.4], "peer": [0.1, 0.1, 0.1, 0.1, 0.4]}
    columns = timing.figures(seconds, "peer", share=10)
    # Sorted: 0.1 0.2 0.3 0.4 0.9 seconds for ten pictures, and the ratios 1 1 2 3 9.
    names = ("milliseconds_low", "milliseconds", "milliseconds_high", "ratio_low", "ratio", "ratio_high")
    assert [columns["ours"][name] for name in names] == pytest.approx([20, 30, 40, 1, 2, 3])
    assert [columns["peer"][name] for name in names] == pytest.approx([10, 10, 10, 1, 1, 1])
    assert set(columns["ours"]) == set(names)


def test_ratio_forgets_what_slows_a_round_down():
    peer = np.array([1.0, 50.0, 2.0, 7.0])
    assert timing.ratio(1.5 * peer, peer) == timing.Spread(1.5, 1.5, 1.5)


@pytest.mark.parametrize("argument", ["repetitions", "warmup"])
def test_bad_argument(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` \(=0\) must be a whole number of at least 1"):
        timing.take_turns({}, **{"repetitions": 1, argument: 0})


def test_peak_is_that_of_the_fastest_product(monkeypatch):
    durations = iter([0.5, 0.25, 1.0, 1.0, 2.0, 4.0])
    clock = [0.0]
    readings = [0]

    def read():
        readings[0] += 1
        if readings[0] % 2 == 0:
            clock[0] += next(durations)
        return clock[0]

    monkeypatch.setattr("time.perf_counter", read)
    # 8 products in a quarter of a second; 64 in one second.
    assert timing.matmul_peak(sizes=(2, 4), repetitions=3) == 64
    durations = iter([0.5, 0.1, 1.0, 4.0, 4.0, 2.0])
    assert timing.matmul_peak(sizes=(2, 4), repetitions=3) == pytest.approx(80)


def test_memory_of_a_fresh_process():
    small, large = (peak_memory(np.ones, count) for count in (10, 10_000_000))
    if small is None:
        pytest.skip("the system does not tell")
    assert 0 <= small < 10e6
    assert 78e6 < large < 90e6
