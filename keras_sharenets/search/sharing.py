"""The sharing of an existing network as a `keras_tuner.HyperModel`: which convolutions share what, within a budget."""

from __future__ import annotations

import collections
from typing import Any

import keras
import keras_tuner

from keras_sharenets.search.budgets import Budget
from keras_sharenets.sharing.budget import Choice, all_changes
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.conversion import convert, look_at
from keras_sharenets.sharing.places import Where, chosen
from keras_sharenets.sharing.report import Shared

NONE = "none"


class SharingHyperModel(keras_tuner.HyperModel):
    """The networks that sharing can make of a trained one, with its weights taken over.

    A hyperparameter for each convolution with which a change can begin, called by its name: `"none"`, or what it
    becomes, as the report of `keras_sharenets.share` says it. Of changes that exclude each other the first in the
    network is made. Where a choice is over the budget, the changes that lose least for a weight are made as well, until
    it is met: no trial is spent on a network that is too large.

    Args:
        model: functional or sequential network, trained. It is not touched.
        budget: no network is over it. Sharing saves no multiply-adds, so only `max_parameters` can be given.
        where, sample_images: as in `keras_sharenets.share`.

    Raises:
        ValueError: an argument breaks a rule there, no convolution can share, or the budget is below what is possible.

    >>> x = inputs = keras.Input((8, 8, 8))
    >>> for _ in range(2):
    ...     x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    ...     x = keras.layers.BatchNormalization()(x)
    >>> hypermodel = SharingHyperModel(keras.Model(inputs, x), budget=Budget(max_parameters=800))
    >>> hypermodel.shared(keras_tuner.HyperParameters()).parameters <= 800
    True
    """

    def __init__(
        self, model: keras.Model, *, budget: Budget | None = None, where: Where = None, sample_images: Any = None
    ) -> None:
        super().__init__(name=model.name)
        budget = Budget() if budget is None else budget
        if budget.max_multiply_adds is not None:
            raise ValueError(f"`budget` (={budget}) must have no `max_multiply_adds`: sharing saves none.")
        self._network = look_at(model, sample_images)
        places = chosen(self._network.places, where, list(self._network.refused))
        self._changes = all_changes(self._network, places)
        if not self._changes:
            raise ValueError(f"`model` (='{model.name}') must have a convolution that can share, and has none.")
        limit = self._network.parameters if budget.max_parameters is None else budget.max_parameters
        self._wanted = self._network.parameters - limit
        least = Choice(self._changes)
        if not least.save(self._wanted):
            raise ValueError(
                f"`budget` (={budget}) must allow {self._network.parameters - least.saved:,} parameters: the "
                f"{self._network.parameters:,} of '{model.name}' come down to that by sharing alone."
            )
        self._enough = least.taken
        self._options: dict[str, dict[str, Change]] = collections.defaultdict(dict)
        for change in self._changes:
            self._options[change.places[0].path][change.description] = change

    def shared(self, hp: keras_tuner.HyperParameters) -> Shared:
        """The network that these hyperparameters stand for, not compiled, and what became of each layer."""
        choice, taken = Choice(self._changes), set()
        # All of them are asked for, whatever is made: a tuner must know them from the first network on.
        picked = {path: hp.Choice(path, [NONE, *options]) for path, options in self._options.items()}
        for path, options in self._options.items():
            change = options.get(picked[path])
            if change is not None and taken.isdisjoint(map(id, change.places)):
                choice.take(change)
                taken.update(map(id, change.places))
        changes = choice.taken if choice.saved >= self._wanted or choice.save(self._wanted) else self._enough
        return convert(self._network, changes, dict(self._network.refused))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, compiled with Adam at a rate for networks that begin trained."""
        model = self.shared(hp).model
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
