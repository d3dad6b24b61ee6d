"""A space as a `keras_tuner.HyperModel`, for any tuner of KerasTuner.

A failed trial counts toward `max_trials`, and three in a row end a search. The hypermodel therefore never proposes a
network over budget: each choice offers only values that leave at least one network within the budget. A hyperparameter
is the position among these values, from 0 to 1. Conditional hyperparameters could express the same, but KerasTuner
builds a network for every condition before it starts, hundreds here, and its Bayesian search needs numbers that are
meaningful for all networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.spaces import find_space
from keras_sharenets.search.spaces.space import (
    IMAGE,
    Counts,
    Point,
    Shape,
    Space,
    as_point,
    build,
    check_image_shape,
    choose,
    count,
    named,
    walk,
)

_COLUMNS = ("stored_parameters", "multiply_adds")
# A network over a limit that cannot be computed from counts is replaced by one whose count is lower by this factor:
# about fifty steps lead from the largest to the smallest network of a space.
_SHRINK = 0.9


@functools.lru_cache(maxsize=1)
def _within_budget(
    space: Space, budget: Budget, input_shape: Shape, num_classes: int
) -> dict[tuple[Any, ...], tuple[Point, Counts]]:
    """All networks of a space within the budget, in order; the keys are the chosen values."""
    found, everything = {}, []
    for chosen in walk(space, input_shape):
        point = as_point(space, chosen)
        counts = count(space, point, input_shape=input_shape, num_classes=num_classes)
        everything.append(counts)
        if budget.allows(counts):
            _, *values = chosen.values()
            found[tuple(values)] = point, counts
    if not found:
        smallest = min(everything, key=lambda counts: counts.stored_parameters)
        raise ValueError(
            f"`budget` (={budget}) must allow a network: it allows none of the {len(everything):,} networks of the "
            f"space '{space.name}'. The smallest has {smallest.stored_parameters:,} parameters and "
            f"{smallest.multiply_adds:,} multiply-adds."
        )
    return found


class SpaceHyperModel(keras_tuner.HyperModel):
    """The networks of a space within a budget.

    The networks are compiled with Adam and cross-entropy for integer labels, and report `accuracy`; the tuner's
    arguments `optimizer`, `loss` and `metrics` override this.

    Args:
        space: name of the space.
        input_shape: `(height, width, channels)` of the images.
        num_classes: number of classes.
        budget: limits on every network; no trial is spent on a network over budget.
        violated_limits: deterministic function of a point that returns the counts (fields of `Counts`) to reduce for
            the network to meet further limits, or nothing if it meets them. A network over such a limit is replaced by
            a smaller one without spending a trial. Messages show the limits as `str(violated_limits)`.

    Raises:
        ValueError: an argument breaks a rule, or the budget allows no network.

    >>> hypermodel = SpaceHyperModel("shardnet", input_shape=(8, 8, 1), budget=Budget(max_parameters=20_000))
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 10)
    >>> hypermodel.point(hp)
    {'network': 'shard_resnet', 'width': 8, 'blocks_per_stage': 1, 'share': 'none'}
    """

    def __init__(
        self,
        space: str,
        *,
        input_shape: Sequence[int] = IMAGE,
        num_classes: int = 10,
        budget: Budget | None = None,
        violated_limits: Callable[[Point], tuple[str, ...]] | None = None,
    ):
        super().__init__(name=space)
        _checks.positive("num_classes", num_classes)
        self.space = find_space(space)
        self.input_shape = check_image_shape(tuple(input_shape))
        self.num_classes = num_classes
        self.budget = Budget() if budget is None else budget
        self.violated_limits = violated_limits
        found = _within_budget(self.space, self.budget, self.input_shape, num_classes)
        # Maps each value to the values that may follow it.
        self._tree = {}
        for values in found:
            branch = self._tree
            for value in values:
                branch = branch.setdefault(value, {})
        self._index = {values: index for index, values in enumerate(found)}
        self._points = [point for point, _ in found.values()]
        self._counts = np.array([[getattr(counts, name) for name in _COLUMNS] for _, counts in found.values()])

    def __len__(self) -> int:
        """The number of networks within the budget."""
        return len(self._points)

    def point(self, hp: keras_tuner.HyperParameters) -> Point:
        """The arguments of the network that these hyperparameters describe, as a point of the space.

        Raises:
            ValueError: the network and all its replacements, down to the smallest, violate a limit.
        """
        # Request all hyperparameters for every kind of network: a tuner sets a new one to its default at first.
        positions = {choice.name: hp.Float(choice.name, 0.0, 1.0) for choice in self.space.choices}
        branch, picked = self._tree, []

        def pick(choice, values, chosen):
            nonlocal branch
            allowed = [value for value in values if value in branch]
            value = allowed[min(int(positions[choice.name] * len(allowed)), len(allowed) - 1)]
            branch = branch[value]
            picked.append(value)
            return value

        choose(self.space, pick, input_shape=self.input_shape)
        index, tried = self._index[tuple(picked)], set()
        while too_much := self.violated_limits(self._points[index]) if self.violated_limits else ():
            tried.add(index)
            index = self._smaller(index, too_much)
            if index in tried:
                raise ValueError(
                    f"{self.violated_limits} must allow a network: none of the {len(tried)} networks tried in the "
                    f"space '{self.space.name}' is within the limits, including the one with the fewest "
                    f"{too_much[0].replace('_', ' ')}."
                )
        return dict(self._points[index])

    def describe(self, hp: keras_tuner.HyperParameters) -> tuple[str, Point, Counts]:
        """Name and arguments for `keras_sharenets.create_model`, and the counts of the network."""
        sizes = {"input_shape": self.input_shape, "num_classes": self.num_classes}
        point = self.point(hp)
        name, arguments = named(self.space, point)
        return name, {**arguments, **sizes}, count(self.space, point, **sizes)

    def _smaller(self, index: int, too_much: tuple[str, ...]) -> int:
        """The nearest network in the order of the space with lower values of these counts and no higher others."""
        limits = np.where([name in too_much for name in _COLUMNS], _SHRINK, 1) * self._counts[index]
        smaller = np.flatnonzero((self._counts <= limits).all(axis=1))
        if not len(smaller):
            return int(self._counts[:, _COLUMNS.index(too_much[0])].argmin())
        return int(smaller[np.abs(smaller - index).argmin()])

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, compiled."""
        model = build(self.space, self.point(hp), input_shape=self.input_shape, num_classes=self.num_classes)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
