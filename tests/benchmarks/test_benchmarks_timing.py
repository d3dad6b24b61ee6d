import keras
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.timing import peak_memory
from keras_sharenets.timing import take_turns


def test_calls_alternate_and_every_second_one_is_measured(monkeypatch):
    """A fake clock advances during calls only: those of `a` take 1, 2, 3 ... seconds, those of `b` three times that."""
    run, clock = [], [0.0]

    def call(name, factor):
        run.append(name)
        clock[0] += factor * run.count(name)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    calls = {"a": lambda: call("a", 1), "b": lambda: call("b", 3)}
    seconds = take_turns(calls, repetitions=3, warmup=2)
    assert "".join(run) == "aabb" + 3 * "aabb"
    # The second of each pair, after two warm-up calls.
    assert seconds == {"a": [4, 6, 8], "b": [12, 18, 24]}
    assert timing.ratio(seconds["b"], seconds["a"]) == timing.Spread(3, 3, 3)


def test_medians_and_quartiles():
    seconds = {"ours": [0.2, 0.1, 0.3, 0.9, 0.4], "peer": [0.1, 0.1, 0.1, 0.1, 0.4]}
    columns = timing.columns(seconds, "peer", share=10)
    # Sorted: 0.1, 0.2, 0.3, 0.4, 0.9 seconds for ten images; the ratios are 1, 1, 2, 3, 9.
    names = ("milliseconds_low", "milliseconds", "milliseconds_high", "ratio_low", "ratio", "ratio_high")
    assert [columns["ours"][name] for name in names] == pytest.approx([20, 30, 40, 1, 2, 3])
    assert [columns["peer"][name] for name in names] == pytest.approx([10, 10, 10, 1, 1, 1])
    assert set(columns["ours"]) == set(names)


def test_ratio_is_independent_of_slow_rounds():
    peer = np.array([1.0, 50.0, 2.0, 7.0])
    assert timing.ratio(1.5 * peer, peer) == timing.Spread(1.5, 1.5, 1.5)


@pytest.mark.parametrize(("argument", "value"), [("repetitions", 0), ("warmup", -1)])
def test_bad_argument(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}` \(={value}\) must be a positive integer"):
        take_turns({}, **{"repetitions": 1, argument: value})


def test_peak_is_the_speed_of_the_fastest_product(monkeypatch):
    """A fake clock advances only during matrix products."""
    products = []

    def peak(*durations, **options):
        clock, left = [0.0], list(durations)
        monkeypatch.setattr(keras.ops, "matmul", lambda a, b: products.append(a.shape) or a)
        monkeypatch.setattr("time.perf_counter", lambda: clock[0])
        monkeypatch.setattr(keras.ops, "convert_to_numpy", lambda _: clock.__setitem__(0, clock[0] + left.pop(0)))
        return timing.matmul_peak(**options)

    # 8 multiply-adds in 0.5, 0.25, and 0.25 seconds; 64 in two seconds.
    assert peak(0.5, 0.25, 0.25, 2.0, sizes=(2, 4), seconds=1.0) == 32
    assert products == [(2, 2), (2, 2), (2, 2), (4, 4)]
    assert peak(1.0, 0.75, 0.5, sizes=(2, 4), seconds=1.0) == 128
    # At least one product is measured.
    assert peak(9.0, sizes=(2,), seconds=1.0) == pytest.approx(8 / 9)


def test_peak_is_plausible():
    """It is above a million and below 10^15 multiply-adds per second."""
    assert 1e6 < timing.matmul_peak(sizes=(64, 256), seconds=0.05) < 1e15


def test_peak_memory_of_a_fresh_process():
    small, large = (peak_memory(np.ones, count) for count in (10, 10_000_000))
    if small is None:
        pytest.skip("peak memory is not available on this system")
    assert 0 <= small < 10e6
    assert 78e6 < large < 90e6
