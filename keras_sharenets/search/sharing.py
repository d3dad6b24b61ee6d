"""Hyperparameters for sharing: in the convolutions of an existing network, and for the arguments of a layer."""

from __future__ import annotations

import collections
import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
from keras_sharenets.training.run.start import NetworkLocation
from keras_sharenets.training.run.teacher import open_teacher

SHARES = (1, 2, 4, 8, 16, 32)
# Function of a point and a function that returns its network.
FileBytes = Callable[[Mapping[str, str], Callable[[], keras.Model]], int]


def _unmeasured(point: Mapping[str, str], network: Callable[[], keras.Model]) -> int:
    """The size of a file where it does not matter."""
    return 0


class SharingHyperModel(keras_tuner.HyperModel):
    """The networks that sharing can derive from a trained network, with its weights transferred.

    There is one hyperparameter for each convolution where a change can start, named after the convolution. Its value is
    `"none"` or the replacement, as in the report of `keras_sharenets.share`. If changes exclude each other, the first
    one in the network is applied. If a choice is over budget, the changes with the lowest loss per saved weight are
    added until the budget is met, so that no trial is spent on a network that is too large.

    Args:
        model: trained functional or sequential network. It is not modified.
        budget: limits on every network. Sharing saves no multiply-adds, so only `max_parameters` can be given.
        where, sample_images: as in `keras_sharenets.share`.

    Raises:
        ValueError: `where` or `sample_images` is invalid, no convolution can share, or the budget cannot be met.

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
            raise ValueError(f"`model` (='{model.name}') must have a convolution that can share; it has none.")
        limit = self._network.parameters if budget.max_parameters is None else budget.max_parameters
        self._wanted = self._network.parameters - limit
        least = Choice(self._changes)
        if not least.save(self._wanted):
            raise ValueError(
                f"`budget` (={budget}) must allow {self._network.parameters - least.saved:,} parameters: sharing "
                f"reduces the {self._network.parameters:,} of '{model.name}' no further."
            )
        self._max_bytes, self._file_bytes = 0, _unmeasured
        self._options: dict[str, dict[str, Change]] = collections.defaultdict(dict)
        self._names: dict[int, str] = {}
        for change in self._changes:
            options, name = self._options[change.places[0].path], change.description
            if name in options and len(options[name].places) != len(change.places):  # The stage, and the whole network.
                name = f"{name}, {len(change.places)} layers"
            options.setdefault(name, change)
            self._names[id(change)] = name

    def limited(self, max_tflite_bytes: int, file_bytes: FileBytes) -> SharingHyperModel:
        """The same networks, but with more sharing where the int8 file of a choice would be larger than a limit.

        Args:
            max_tflite_bytes: the limit.
            file_bytes: function of a `point` and a function that returns its network; it returns the size of the file.
        """
        new = copy.copy(self)
        new._max_bytes, new._file_bytes = max_tflite_bytes, file_bytes
        return new

    def point(self, hp: keras_tuner.HyperParameters) -> dict[str, str]:
        """For each hyperparameter, `"none"` or the replacement of its convolution.

        Raises:
            ValueError: no choice has a file within the limit of [`limited`].
        """
        choice, taken = Choice(self._changes), set()
        # Request all hyperparameters, whether applied or not: a tuner must know them from the first network on.
        picked = {path: hp.Choice(path, [UNSHARED, *options]) for path, options in self._options.items()}
        for path, options in self._options.items():
            change = options.get(picked[path])
            if change is not None and taken.isdisjoint(map(id, change.places)):
                choice.take(change)
                taken.update(map(id, change.places))
        wanted, sizes = self._wanted, []
        while choice.saved >= wanted or choice.save(wanted) or (choice := Choice(self._changes)).save(wanted):
            made = {change.places[0].path: self._names[id(change)] for change in choice.taken}
            point = dict.fromkeys(self._options, UNSHARED) | made
            size = self._file_bytes(point, functools.partial(self.network, point))
            if size <= self._max_bytes:
                return point
            # A weight takes one byte.
            wanted, sizes = choice.saved + size - self._max_bytes, [*sizes, size]
        raise ValueError(
            f"`max_tflite_bytes` (={self._max_bytes}) must be at least {min(sizes)}: sharing reduces the int8 file of "
            f"'{self.name}' no further."
        )

    def network(self, point: Mapping[str, str]) -> keras.Model:
        """The network of a `point`, not compiled."""
        return self._convert(point).model

    def _convert(self, point: Mapping[str, str]) -> Shared:
        changes = [self._options[path][made] for path, made in point.items() if made != UNSHARED]
        return convert(self._network, changes, dict(self._network.refused))

    def describe(self, hp: keras_tuner.HyperParameters) -> tuple[str, dict[str, str], Counts]:
        """The name of the trained network, the `point`, and the counts of its network."""
        point = self.point(hp)
        found = profile(self.network(point))
        return self.name, point, Counts(found.stored_parameters, found.multiply_adds)

    def shared(self, hp: keras_tuner.HyperParameters) -> Shared:
        """The network that these hyperparameters describe, not compiled, with a report on each layer."""
        return self._convert(self.point(hp))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, compiled with Adam at a learning rate for fine-tuning."""
        model = self.shared(hp).model
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model


def open_sharing(
    network: NetworkLocation,
    dataset: Dataset,
    recipe: Recipe,
    *,
    budget: Budget,
    where: tuple[str, ...] | None = None,
    images: int = 200,
    validation: float = 0.2,
    seed: int = 0,
) -> Sharing:
    """The `sharing` argument of a [`Search`], for a trained network.

    Args:
        network: the network, as found by `locate_network`.
        dataset: data set for fine-tuning.
        recipe: recipe with the size of the images.
        budget, where: as in [`SharingHyperModel`].
        images: number of sample images, taken from those that the trials are trained on.
        validation, seed: define the held-out part of the training split.

    Raises:
        ValueError: the network is damaged, has other classes, outputs no probabilities or takes images of any size, or
            as in [`SharingHyperModel`].
    """
    open_teacher(str(network.path), dataset, recipe, argument="from")
    model = files.load_model(network.path)
    if None in model.input_shape[1:]:
        raise ValueError(
            f"`from` (={network.source}) must take images of one size, and takes {model.input_shape[1:]}: build it "
            "with a fixed `input_shape` and load the weights into it."
        )
    samples = training_images(hold_out(dataset, validation, seed), recipe, images)
    hypermodel = SharingHyperModel(model, budget=budget, where=where, sample_images=samples)
    return Sharing(network.source, where, images, hypermodel)


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
    """Valid combinations of arguments of `HighlySharedConv2D`, as conditional hyperparameters.

    Independent choices would end a search with a `ValueError`: G must divide the input channels and the filters, R must
    divide G, and T must divide the filters of a group, whose input channels must have T different orders. So each G has
    its own choices of R and T, which are active when that G is chosen.

    Args:
        hp: hyperparameters that a tuner passes to `build`.
        filters: filters of the layer.
        channels: input channels of the layer; by default equal to `filters`.
        groups, channel_repeats, arrangements: values to choose G, R and T from; incompatible ones are ignored.
        name: prefix of the hyperparameters' names. Layers with the same name, channels and filters use the same
            hyperparameters.

    Returns:
        `groups`, `channel_repeats` and `arrangements`, by name. Inside an inactive conditional scope of the caller,
        only `groups`, which is `None`.

    Raises:
        ValueError: a number is not a positive integer, or no combination is valid.

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
            f"(={tuple(arrangements)}) must contain values that suit `channels` (={channels}) and `filters` "
            f"(={filters})."
        )
    with hp.name_scope(f"{name}_{channels}_to_{filters}"):
        chosen: dict[str, Any] = {"groups": hp.Choice("groups", list(fitting))}
        for each, arguments in fitting.items():
            with hp.conditional_scope("groups", [each]):
                for argument, numbers in arguments.items():
                    # Use a separate name: some tuners confuse choices whose conditions differ but not their names.
                    number = hp.Choice(f"{argument}_of_{each}", numbers) if len(numbers) > 1 else numbers[0]
                    if each == chosen["groups"]:
                        chosen[argument] = number
    return chosen


def _arranges(arrangements: int, channels: int, filters: int) -> bool:
    """Whether a group with these channels and filters has that many distinct arrangements."""
    if filters % arrangements or (permutations.shuffles(arrangements) and channels % SHUFFLE_GROUPS):
        return False
    return are_distinct(channels, arrangements)
