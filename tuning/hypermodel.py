"""A space as a `keras_tuner.HyperModel`, for any tuner of KerasTuner.

A trial that fails counts as one of `max_trials`, and three in a row end a search. So no network over budget is ever
asked for: every choice has only such values that some way on from it stays within the budget. A hyperparameter is the
place among these values, from 0 to 1. Values under conditions would say the same, but KerasTuner builds a network for
every condition before it starts, hundreds here, and its Bayesian search needs numbers that mean something to all
networks.
"""

import keras_tuner

from keras_sharenets import _checks
from tuning.budgets import Budget
from tuning.spaces import PICTURE, as_point, build, check_picture, choose, count, find_space, walk


def _within(space, budget, input_shape, num_classes):
    """All ways through the choices that stay within the budget, as nested dicts from a value to what may follow it."""
    tree, considered, smallest = {}, 0, None
    for chosen in walk(space, input_shape):
        considered += 1
        counts = count(space, as_point(space, chosen), input_shape, num_classes)
        if smallest is None or counts.stored_parameters < smallest.stored_parameters:
            smallest = counts
        if budget.allows(counts):
            _, *values = chosen.values()
            branch = tree
            for value in values:
                branch = branch.setdefault(value, {})
    if not tree:
        raise ValueError(
            f"`budget` (={budget}) must allow a network: of the {considered:,} of the space '{space.name}' it allows "
            f"none. The smallest has {smallest.stored_parameters:,} parameters and {smallest.multiply_adds:,} "
            "multiply-adds."
        )
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

    Raises:
        ValueError: an argument breaks a rule, or the budget allows no network.

    >>> hypermodel = SpaceHyperModel("shardnet", (8, 8, 1), budget=Budget(max_parameters=20_000))
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 10)
    >>> hypermodel.point(hp)
    {'network': 'shard_resnet', 'filters': 8, 'blocks_per_level': 1, 'share': 'none'}
    """

    def __init__(self, space, input_shape=PICTURE, num_classes=10, budget=None):
        super().__init__(name=space)
        _checks.positive("num_classes", num_classes)
        self.space = find_space(space)
        self.input_shape = check_picture(tuple(input_shape))
        self.num_classes = num_classes
        self.budget = Budget() if budget is None else budget
        self._tree = _within(self.space, self.budget, self.input_shape, num_classes)

    def point(self, hp):
        """The arguments of the network that these hyperparameters stand for, as `tuning.spaces` has them."""
        # All of them for every kind of network: a tuner that meets a new one takes its default and does not search.
        places = {choice.name: hp.Float(choice.name, 0.0, 1.0) for choice in self.space.choices}
        branch = self._tree

        def pick(choice, values, chosen):
            nonlocal branch
            allowed = [value for value in values if value in branch]
            value = allowed[min(int(places[choice.name] * len(allowed)), len(allowed) - 1)]
            branch = branch[value]
            return value

        return choose(self.space, pick, self.input_shape)

    def build(self, hp):
        """The network, compiled."""
        model = build(self.space, self.point(hp), self.input_shape, self.num_classes)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
