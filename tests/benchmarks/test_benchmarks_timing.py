import keras
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.timing import peak_memory
from keras_sharenets.timing import take_turns


def test_calls_take_turns_and_every_second_one_is_measured(monkeypatch):
    """A clock of our own, which moves only while something runs: `a` takes 1 second, 2, 3 ..., `b` three times that."""
    run, clock = [], [0.0]

    def call(name, factor):
        run.append(name)
        clock[0] += factor * run.count(name)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    calls = {"a": lambda: call("a", 1), "b": lambda: call("b", 3)}
    seconds = take_turns(calls, repetitions=3, warmup=2)
    assert "".join(run) == "aabb" + 3 * "aabb"
    # The second of each pair, behind two to warm up.
    assert seconds == {"a": [4, 6, 8], "b": [12, 18, 24]}
    assert timing.ratio(seconds["b"], seconds["a"]) == timing.Spread(3, 3, 3)


def test_medians_and_quartiles():
    seconds = {"ours": [0.2, 0.1, 0.3, 0.9, 0.4], "peer": [0.1, 0.1, 0.1, 0.1, 0.4]}
    columns = timing.columns(seconds, "peer", share=10)
    # Sorted: 0.1 0.2 0.3 0.4 0.9 seconds for ten images, and the ratios 1 1 2 3 9.
    names = ("milliseconds_low", "milliseconds", "milliseconds_high", "ratio_low", "ratio", "ratio_high")
    assert [columns["ours"][name] for name in names] == pytest.approx([20, 30, 40, 1, 2, 3])
    assert [columns["peer"][name] for name in names] == pytest.approx([10, 10, 10, 1, 1, 1])
    assert set(columns["ours"]) == set(names)


def test_ratio_forgets_what_slows_a_round_down():
    peer = np.array([1.0, 50.0, 2.0, 7.0])
    assert timing.ratio(1.5 * peer, peer) == timing.Spread(1.5, 1.5, 1.5)


@pytest.mark.parametrize(("argument", "value"), [("repetitions", 0), ("warmup", -1)])
def test_bad_argument(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}` \(={value}\) must be a positive integer"):
        take_turns({}, **{"repetitions": 1, argument: value})


def test_peak_is_that_of_the_fastest_product(monkeypatch):
    """A clock that moves by the time of one product after another, and not between them."""
    products = []

    def peak(*durations, **options):
        clock, left = [0.0], list(durations)
        monkeypatch.setattr(keras.ops, "matmul", lambda a, b: products.append(a.shape) or a)
        monkeypatch.setattr("time.perf_counter", lambda: clock[0])
        monkeypatch.setattr(keras.ops, "convert_to_numpy", lambda _: clock.__setitem__(0, clock[0] + left.pop(0)))
        return timing.matmul_peak(**options)

    # 8 multiply-adds in half a second, a quarter, a quarter; 64 in two seconds.
    assert peak(0.5, 0.25, 0.25, 2.0, sizes=(2, 4), seconds=1.0) == 32
    assert products == [(2, 2), (2, 2), (2, 2), (4, 4)]
    assert peak(1.0, 0.75, 0.5, sizes=(2, 4), seconds=1.0) == 128
    # However long it takes, there is one.
    assert peak(9.0, sizes=(2,), seconds=1.0) == pytest.approx(8 / 9)


def test_peak_of_this_machine():
    """No processor is slower than a million, none has a trillion of these matrices."""
    assert 1e6 < timing.matmul_peak(sizes=(64, 256), seconds=0.05) < 1e15


def test_memory_of_a_fresh_process():
    small, large = (peak_memory(np.ones, count) for count in (10, 10_000_000))
    if small is None:
        pytest.skip("the system does not tell")
    assert 0 <= small < 10e6
    assert 78e6 < large < 90e6
