"""A space as a `keras_tuner.HyperModel`, for any tuner of KerasTuner.

A trial that fails counts as one of `max_trials`, and three in a row end a search. So no network over budget is ever
asked for: every choice has only such values that some way on from it stays within the budget. A hyperparameter is the
place among these values, from 0 to 1. Values under conditions would say the same, but KerasTuner builds a network for
every condition before it starts, hundreds here, and its Bayesian search needs numbers that mean something to all
networks.
"""

import keras_tuner
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.spaces.registry import (
    PICTURE,
    as_point,
    build,
    check_picture,
    choose,
    count,
    find_space,
    walk,
)

_COLUMNS = ("stored_parameters", "multiply_adds")
# A network over a limit that counts do not tell of is replaced by one with so much less of what is too much: from the
# largest to the smallest network of a space it takes some fifty steps.
_SHRINK = 0.9


def _within(space, budget, input_shape, num_classes):
    """All ways through the choices that stay within the budget: tuples of values, each with `(point, Counts)`."""
    found, considered, smallest = {}, 0, None
    for chosen in walk(space, input_shape):
        considered += 1
        point = as_point(space, chosen)
        counts = count(space, point, input_shape, num_classes)
        if smallest is None or counts.stored_parameters < smallest.stored_parameters:
            smallest = counts
        if budget.allows(counts):
            _, *values = chosen.values()
            found[tuple(values)] = point, counts
    if not found:
        raise ValueError(
            f"`budget` (={budget}) must allow a network: of the {considered:,} of the space '{space.name}' it allows "
            f"none. The smallest has {smallest.stored_parameters:,} parameters and {smallest.multiply_adds:,} "
            "multiply-adds."
        )
    return found


def _as_tree(ways):
    """Tuples of values as nested dicts from a value to what may follow it."""
    tree = {}
    for values in ways:
        branch = tree
        for value in values:
            branch = branch.setdefault(value, {})
    return tree


class SpaceHyperModel(keras_tuner.HyperModel):
    """The networks of a space within a budget.

    The networks are compiled with Adam and cross-entropy for whole-number labels, and report `accuracy`; arguments of
    the tuner (`optimizer`, `loss`, `metrics`) replace that.

    Args:
        space: str, name of the space.
        input_shape: `(height, width, channels)` of the pictures.
        num_classes: int.
        budget: `Budget`; no network is over it, so none costs a trial.
        excess: function of a point that returns what there must be less of, fields of `Counts`, to keep within other
            limits; nothing if it is within them. It always says the same of a point. In place of a network that is over
            such a limit stands another with less: no trial is spent on it. A message calls the limits `str(excess)`.

    Raises:
        ValueError: an argument breaks a rule, or the budget allows no network.

    >>> hypermodel = SpaceHyperModel("shardnet", (8, 8, 1), budget=Budget(max_parameters=20_000))
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 10)
    >>> hypermodel.point(hp)
    {'network': 'shard_resnet', 'filters': 8, 'blocks_per_level': 1, 'share': 'none'}
    """

    def __init__(self, space, input_shape=PICTURE, num_classes=10, budget=None, excess=None):
        super().__init__(name=space)
        _checks.positive("num_classes", num_classes)
        self.space = find_space(space)
        self.input_shape = check_picture(tuple(input_shape))
        self.num_classes = num_classes
        self.budget = Budget() if budget is None else budget
        self.excess = excess
        within = _within(self.space, self.budget, self.input_shape, num_classes)
        self._tree = _as_tree(within)
        self._places = {values: place for place, values in enumerate(within)}
        self._points = [point for point, _ in within.values()]
        self._counts = np.array([[getattr(counts, name) for name in _COLUMNS] for _, counts in within.values()])

    def __len__(self):
        """The number of networks within the budget."""
        return len(self._points)

    def point(self, hp):
        """The arguments of the network that these hyperparameters stand for, as its space has them.

        Raises:
            ValueError: everything that was tried in its place is over the limits of `excess`, the smallest too.
        """
        # All of them for every kind of network: a tuner that meets a new one takes its default and does not search.
        places = {choice.name: hp.Float(choice.name, 0.0, 1.0) for choice in self.space.choices}
        branch, picked = self._tree, []

        def pick(choice, values, chosen):
            nonlocal branch
            allowed = [value for value in values if value in branch]
            value = allowed[min(int(places[choice.name] * len(allowed)), len(allowed) - 1)]
            branch = branch[value]
            picked.append(value)
            return value

        choose(self.space, pick, self.input_shape)
        place, tried = self._places[tuple(picked)], set()
        while too_much := self.excess(self._points[place]) if self.excess else ():
            tried.add(place)
            place = self._less(place, too_much)
            if place in tried:
                raise ValueError(
                    f"{self.excess} must allow a network: of {len(tried)} of the space '{self.space.name}' that were "
                    f"tried it allows none, the one with the least {too_much[0].replace('_', ' ')} among them."
                )
        return dict(self._points[place])

    def point_of_values(self, values):
        """As `point`, of the values of hyperparameters by name."""
        hp = keras_tuner.HyperParameters()
        hp.values = dict(values)
        return self.point(hp)

    def _less(self, place, too_much):
        """The nearest network in the order of the space with less of these counts and no more of the others."""
        limits = np.where([name in too_much for name in _COLUMNS], _SHRINK, 1) * self._counts[place]
        smaller = np.flatnonzero((self._counts <= limits).all(axis=1))
        if not len(smaller):
            return int(self._counts[:, _COLUMNS.index(too_much[0])].argmin())
        return int(smaller[np.abs(smaller - place).argmin()])

    def build(self, hp):
        """The network, compiled."""
        model = build(self.space, self.point(hp), self.input_shape, self.num_classes)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
