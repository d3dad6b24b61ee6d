import copy

import keras_tuner
import numpy as np
import pytest
from harness import slow_after

import keras_sharenets as ksn
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.hypermodel import SpaceHyperModel
from keras_sharenets.search.spaces import NAMES, find_space
from keras_sharenets.search.spaces.space import check, count, points
from keras_sharenets.training.data.sources import load

DIGITS = (8, 8, 1)
SMALL = Budget(max_parameters=3_000, max_multiply_adds=200_000)


def _random_hyperparameters(hypermodel, seed):
    hp = keras_tuner.HyperParameters()
    hypermodel.point(hp)
    generator = np.random.default_rng(seed)
    for choice in hp.space:
        hp.values[choice.name] = generator.uniform(choice.min_value, choice.max_value)
    return hp


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("hscnet", Budget(max_parameters=20_000, max_multiply_adds=10**6)),
        pytest.param("hscnet", Budget(), marks=pytest.mark.slow),
        pytest.param("hgcnet", Budget(max_parameters=10_000, max_multiply_adds=200_000), marks=pytest.mark.slow),
        pytest.param("igcv2", Budget(max_parameters=8_000), marks=pytest.mark.slow),
        pytest.param("sharesnet", Budget(max_multiply_adds=10**6), marks=pytest.mark.slow),
        pytest.param("shardnet", Budget(max_parameters=20_000), marks=pytest.mark.slow),
    ],
)
def test_hyperparameters_give_networks_within_the_budget(name, budget):
    hypermodel, found = SpaceHyperModel(name, input_shape=DIGITS, budget=budget), set()
    for seed in range(100):
        point = hypermodel.point(_random_hyperparameters(hypermodel, seed))
        check(find_space(name), point, input_shape=DIGITS)
        assert budget.allows(count(find_space(name), point, input_shape=DIGITS))
        found.add(repr(point))
    assert len(found) > 20


def test_every_network_within_the_budget_is_reachable():
    budget = Budget(max_parameters=3_000)
    hypermodel = SpaceHyperModel("shardnet", input_shape=DIGITS, budget=budget)
    sampled = (hypermodel.point(_random_hyperparameters(hypermodel, seed)) for seed in range(3_000))
    space = find_space("shardnet")
    within = {repr(point) for point in points(space, DIGITS) if budget.allows(count(space, point, input_shape=DIGITS))}
    assert {repr(point) for point in sampled} == within


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("igcv2", "hgcnet", "hscnet") else []) for name in NAMES],
)
def test_extreme_hyperparameters(name):
    hypermodel = SpaceHyperModel(name, input_shape=DIGITS)
    hp = keras_tuner.HyperParameters()
    assert hypermodel.point(hp) == next(points(find_space(name), DIGITS))
    for choice in hp.space:
        hp.values[choice.name] = 1.0
    *_, last = points(find_space(name), DIGITS)
    assert hypermodel.point(hp) == last


def test_budget_without_networks():
    with pytest.raises(
        ValueError,
        match=r"`budget` .*max_parameters=10.* must allow a network: it allows none of the 1,092 .* 930 para",
    ):
        SpaceHyperModel("shardnet", input_shape=DIGITS, budget=Budget(max_parameters=10))


@pytest.mark.slow
def test_random_search_on_digits(tmp_path, eager):
    digits = load("digits")
    images, labels = digits.train.images[:256] / 255.0, digits.train.labels[:256]
    hypermodel = SpaceHyperModel("shardnet", input_shape=DIGITS, budget=SMALL)
    options = {"objective": "val_accuracy", "max_trials": 2, "seed": 1, "directory": tmp_path}
    tuner = keras_tuner.RandomSearch(hypermodel, **options)
    tuner.search(images, labels, epochs=1, batch_size=64, validation_split=0.25, verbose=0)
    trials = tuner.oracle.get_best_trials(5)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 2
    for trial, model in zip(trials, tuner.get_best_models(2), strict=True):
        counts = count(hypermodel.space, hypermodel.point(trial.hyperparameters), input_shape=DIGITS)
        profile = ksn.profile(model)
        assert (counts.stored_parameters, counts.multiply_adds) == (profile.stored_parameters, profile.multiply_adds)
        assert SMALL.allows(counts)


def _too_large(limit, name):
    return lambda point: (
        (name,) if getattr(count(find_space("hscnet"), point, input_shape=DIGITS), name) > limit else ()
    )


@pytest.fixture(scope="module")
def free():
    """The space without limits, cached because its enumeration is slow."""
    return SpaceHyperModel("hscnet", input_shape=DIGITS)


def _limited(free, violated_limits):
    limited = copy.copy(free)
    limited.violated_limits = violated_limits
    return limited


@pytest.mark.parametrize(("name", "limit"), slow_after(1, [("stored_parameters", 30_000), ("multiply_adds", 300_000)]))
def test_points_beyond_other_limits_are_replaced(free, name, limit):
    asked = []
    limited = _limited(free, lambda point: asked.append(point) or _too_large(limit, name)(point))
    most, found = 0, set()
    for seed in range(60):
        hp = _random_hyperparameters(free, seed)
        before, asked[:] = free.point(hp), []
        point = limited.point(hp)
        most = max(most, len(asked))
        check(find_space("hscnet"), point, input_shape=DIGITS)
        assert getattr(count(find_space("hscnet"), point, input_shape=DIGITS), name) <= limit
        assert before == point or _too_large(limit, name)(before)
        assert limited.point(hp) == point
        found.add(repr(point))
    assert most < 80
    assert len(found) > 10


def test_both_kinds_of_limits_and_impossible_limits(free):
    def violated_limits(point):
        counts = count(find_space("hscnet"), point, input_shape=DIGITS)
        if counts.stored_parameters > 20_000:
            return ("stored_parameters",)
        return ("multiply_adds",) if counts.multiply_adds > 200_000 else ()

    limited = _limited(free, violated_limits)
    for seed in range(40):
        assert not violated_limits(limited.point(_random_hyperparameters(limited, seed)))
    nothing = _limited(free, lambda point: ("multiply_adds",))
    with pytest.raises(
        ValueError,
        match=r"must allow a network: none of the \d+ networks .* including the one with the fewest multiply adds",
    ):
        nothing.point(_random_hyperparameters(nothing, 0))
