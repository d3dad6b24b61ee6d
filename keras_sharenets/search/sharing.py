"""Sharing in a space of one's own: that of an existing network's convolutions, and the arguments of a layer."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_tuner

from keras_sharenets import _checks, files
from keras_sharenets.analysis import profile
from keras_sharenets.ops import permutations
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.settings import Sharing
from keras_sharenets.search.spaces.hscnet import SHUFFLE_GROUPS, are_distinct
from keras_sharenets.search.spaces.space import Counts
from keras_sharenets.search.training import hold_out
from keras_sharenets.search.trials import UNSHARED
from keras_sharenets.sharing.budget import Choice, all_changes
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.conversion import convert, inspect_network
from keras_sharenets.sharing.places import Where
from keras_sharenets.sharing.report import Shared
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.finished import training_images
from keras_sharenets.training.run.start import look_up
from keras_sharenets.training.run.teacher import open_teacher

SHARES = (1, 2, 4, 8, 16, 32)


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
        self._network = inspect_network(model, sample_images)
        self._changes = all_changes(self._network, self._network.chosen(where))
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

    def point(self, hp: keras_tuner.HyperParameters) -> dict[str, str]:
        """For each hyperparameter `"none"`, or what its convolution becomes, where these are given."""
        choice, taken = Choice(self._changes), set()
        # All of them are asked for, whatever is made: a tuner must know them from the first network on.
        picked = {path: hp.Choice(path, [UNSHARED, *options]) for path, options in self._options.items()}
        for path, options in self._options.items():
            change = options.get(picked[path])
            if change is not None and taken.isdisjoint(map(id, change.places)):
                choice.take(change)
                taken.update(map(id, change.places))
        changes = choice.taken if choice.saved >= self._wanted or choice.save(self._wanted) else self._enough
        made = {change.places[0].path: change.description for change in changes}
        return dict.fromkeys(self._options, UNSHARED) | made

    def point_of_values(self, values: Mapping[str, Any]) -> dict[str, str]:
        """As `point`, of the values of hyperparameters by name."""
        hp = keras_tuner.HyperParameters()
        hp.values = dict(values)
        return self.point(hp)

    def network(self, point: Mapping[str, str]) -> keras.Model:
        """The network of a `point`, not compiled."""
        return self._convert(point).model

    def _convert(self, point: Mapping[str, str]) -> Shared:
        changes = [self._options[path][made] for path, made in point.items() if made != UNSHARED]
        return convert(self._network, changes, dict(self._network.refused))

    def describe(self, hp: keras_tuner.HyperParameters) -> tuple[str, dict[str, str], Counts]:
        """The name of the network, the `point`, and what its network stores and computes."""
        point = self.point(hp)
        found = profile(self.network(point))
        return self.name, point, Counts(found.stored_parameters, found.multiply_adds)

    def shared(self, hp: keras_tuner.HyperParameters) -> Shared:
        """The network that these hyperparameters stand for, not compiled, and what became of each layer."""
        return self._convert(self.point(hp))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, compiled with Adam at a rate for networks that begin trained."""
        model = self.shared(hp).model
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model


def open_sharing(
    network: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    budget: Budget,
    where: tuple[str, ...] | None = None,
    images: int = 200,
    validation: float = 0.2,
    seed: int = 0,
) -> Sharing:
    """The sharing of a trained network as [`Search`] wants it.

    Args:
        network: a run, a `.keras` file or the name of a network that comes trained.
        dataset: what to fine-tune with; `images` of those that trials are trained on are shown to the network.
        recipe: gives the size of images.
        budget, where: as in [`SharingHyperModel`].
        validation, seed: which part of the training split no trial is trained on.

    Raises:
        ValueError: there is no such network, it has other classes or gives no probabilities, or as in
            [`SharingHyperModel`].
    """
    path = look_up(network).path
    open_teacher(str(path), dataset, recipe, argument="from")
    samples = training_images(hold_out(dataset, validation, seed), recipe, images)
    hypermodel = SharingHyperModel(files.load_model(path), budget=budget, where=where, sample_images=samples)
    return Sharing(network, where, images, hypermodel)


def sharing_choices(
    hp: keras_tuner.HyperParameters,
    filters: int,
    *,
    channels: int | None = None,
    groups: Sequence[int] = SHARES,
    channel_repeats: Sequence[int] = SHARES,
    arrangements: Sequence[int] = (1, 2),
    name: str = "sharing",
) -> dict[str, Any]:
    """Arguments of `HighlySharedConv2D` that fit together, as conditional hyperparameters.

    Independent choices would end a search with a `ValueError`: G must divide input channels and filters, R must divide
    G, T must divide the filters of a group and have as many different orders of its input channels. So each G has its
    own choices of R and T, which are active where that G is chosen.

    Args:
        hp: the hyperparameters that `build` of a tuner gets.
        filters: those of the layer.
        channels: its input channels; by default as many as filters.
        groups, channel_repeats, arrangements: what to choose G, R and T from; those that do not fit are left out.
        name: beginning of the hyperparameters' names. Layers of one name and the same numbers of channels and filters
            share alike.

    Returns:
        `groups`, `channel_repeats` and `arrangements`, by name. `groups` alone, and `None`, in a conditional scope of
        yours that is not active.

    Raises:
        ValueError: a number is no positive integer, or none are left that fit together.

    >>> from keras_sharenets.layers import HighlySharedConv2D
    >>> hp = keras_tuner.HyperParameters()
    >>> HighlySharedConv2D(32, 3, **sharing_choices(hp, 32)).groups
    1
    >>> [choice.name for choice in hp.space][:4]
    ['sharing_32_to_32/groups', 'sharing_32_to_32/arrangements_of_1', 'sharing_32_to_32/channel_repeats_of_2', \
'sharing_32_to_32/arrangements_of_2']
    """
    filters = _checks.positive("filters", filters)
    channels = filters if channels is None else _checks.positive("channels", channels)
    fitting = {}
    for each in _checks.sizes("groups", groups):
        if math.gcd(filters, channels) % each == 0:
            repeats = [number for number in _checks.sizes("channel_repeats", channel_repeats) if each % number == 0]
            orders = [
                number
                for number in _checks.sizes("arrangements", arrangements)
                if _arranges(number, channels // each, filters // each)
            ]
            if repeats and orders:
                fitting[each] = {"channel_repeats": repeats, "arrangements": orders}
    if not fitting:
        raise ValueError(
            f"`groups` (={tuple(groups)}), `channel_repeats` (={tuple(channel_repeats)}) and `arrangements` "
            f"(={tuple(arrangements)}) must have numbers that fit `channels` (={channels}) and `filters` (={filters})."
        )
    with hp.name_scope(f"{name}_{channels}_to_{filters}"):
        chosen: dict[str, Any] = {"groups": hp.Choice("groups", list(fitting))}
        for each, arguments in fitting.items():
            with hp.conditional_scope("groups", [each]):
                for argument, numbers in arguments.items():
                    # A name of its own: some tuners mix up choices of one name that differ in their condition alone.
                    number = hp.Choice(f"{argument}_of_{each}", numbers) if len(numbers) > 1 else numbers[0]
                    if each == chosen["groups"]:
                        chosen[argument] = number
    return chosen


def _arranges(arrangements: int, channels: int, filters: int) -> bool:
    """Whether a group of so many channels and filters has so many arrangements, all of them different."""
    if filters % arrangements or (permutations.shuffles(arrangements) and channels % SHUFFLE_GROUPS):
        return False
    return are_distinct(channels, arrangements)
