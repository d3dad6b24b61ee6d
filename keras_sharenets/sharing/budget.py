"""Which convolutions share what, so that a network fits a budget: the least loss for each weight that is saved."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

import keras

from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.conversion import Network, convert
from keras_sharenets.sharing.places import Place
from keras_sharenets.sharing.proposals import propose
from keras_sharenets.sharing.report import Shared
from keras_sharenets.sharing.schemes import HierarchicalGroups, InterleavedGroups, ShareChannels, ShareDepth

# What is tried at each convolution.
CANDIDATES = (
    ShareDepth("stage"),
    ShareDepth("stage", blending=True),
    ShareDepth("all", blending=True),
    ShareChannels(arrangements=2),
    ShareChannels(arrangements=4),
    HierarchicalGroups(2),
    HierarchicalGroups(4),
    InterleavedGroups(),
)
# Bytes of a stored weight in a float32 file; the rest of the file is taken from one that is written.
_WEIGHT_BYTES = 4
# Files that are written before a budget of bytes is given up.
_FILES = 6


def all_changes(network: Network, places: Sequence[Place]) -> list[Change]:
    """Every change of every candidate at these places that saves weights."""
    found = [change for scheme in CANDIDATES for change in propose(scheme, places, network.samples.moments)[0]]
    return [change for change in found if change.saved > 0]


class Choice:
    """Changes with no place in common, more of them step by step, each the one that loses least for what it saves."""

    def __init__(self, changes: Sequence[Change]):
        self._changes = list(changes)
        self._of_place: dict[int, Change] = {}

    @property
    def taken(self) -> list[Change]:
        """The changes that are made."""
        return list(dict.fromkeys(self._of_place.values()))

    @property
    def saved(self) -> int:
        """Weights that these save."""
        return sum(change.saved for change in self.taken)

    def step(self) -> bool:
        """Takes one more change in place of those that it excludes, or splits one up; `False` if neither saves more."""
        best, best_rate = None, float("inf")
        for change in self._changes:
            excluded = self._excluded(change)
            saved = change.saved - sum(other.saved for other in excluded)
            if saved <= 0:
                continue
            rate = (change.loss - sum(other.loss for other in excluded)) / saved
            if rate < best_rate:
                best, best_rate = change, rate
        if best is None:
            return self._split()
        self.take(best)
        return True

    def _split(self) -> bool:
        """Takes a change of each place alone in place of one of several, if these save more together."""
        for change in self.taken:
            alone = [self._most_saving(place) for place in change.places]
            parts = [part for part in alone if part is not None]
            if sum(part.saved for part in parts) > change.saved:
                self.drop(change)
                for part in parts:
                    self.take(part)
                return True
        return False

    def _most_saving(self, place: Place) -> Change | None:
        alone = (change for change in self._changes if len(change.places) == 1 and change.places[0] is place)
        return max(alone, key=lambda change: (change.saved, -change.loss), default=None)

    def take(self, change: Change) -> None:
        """Makes a change, in place of those that it excludes."""
        for other in self._excluded(change):
            self.drop(other)
        self._of_place.update((id(place), change) for place in change.places)

    def _excluded(self, change: Change) -> list[Change]:
        met = (self._of_place.get(id(place)) for place in change.places)
        return list(dict.fromkeys(other for other in met if other is not None))

    def drop(self, change: Change) -> None:
        """Undoes a change."""
        self._of_place = {place: other for place, other in self._of_place.items() if other is not change}

    def save(self, wanted: int) -> bool:
        """Takes changes until they save so many weights, then undoes those that lose most and are not needed."""
        while self.saved < wanted:
            if not self.step():
                return False
        for change in sorted(self.taken, key=lambda change: -change.loss):
            if self.saved - change.saved >= wanted:
                self.drop(change)
        return True


def fit_parameters(network: Network, places: Sequence[Place], max_parameters: int) -> Shared:
    """The network with at most so many trainable parameters.

    Raises:
        ValueError: there is no such choice; the least that was found is said.
    """
    choice = Choice(all_changes(network, places))
    if not choice.save(network.parameters - max_parameters):
        raise ValueError(
            f"`max_parameters` (={max_parameters:,}) must be at least {network.parameters - choice.saved:,}: the "
            f"{network.parameters:,} parameters of '{network.model.name}' come down to that by sharing alone."
        )
    return _converted(network, places, choice)


def _converted(network: Network, places: Sequence[Place], choice: Choice) -> Shared:
    left = {**network.refused, **{place.path: "the budget is met without it" for place in places}}
    return convert(network, choice.taken, left)


def _file_bytes(model: keras.Model) -> int:
    from keras_sharenets import mobile  # Needs TensorFlow.

    with tempfile.TemporaryDirectory() as folder:
        return mobile.export_tflite(model, pathlib.Path(folder) / "shared.tflite").file_bytes


def fit_tflite_bytes(network: Network, places: Sequence[Place], max_bytes: int) -> Shared:
    """The network whose float32 TFLite file has at most so many bytes.

    A weight takes four bytes, and the rest of the file is as large as that of the network was: this is an estimate, and
    each choice is written to a file to see. Where it is too large, more is shared.

    Raises:
        ValueError: there is no such choice; the least that was found is said.
        RuntimeError: Keras does not run on TensorFlow.
    """
    size = _file_bytes(network.model)
    choice, wanted = Choice(all_changes(network, places)), -(-(size - max_bytes) // _WEIGHT_BYTES)
    shared, least, possible, tries = convert(network, [], {}), size, True, 0
    while size > max_bytes:
        if not possible or tries == _FILES:
            raise ValueError(
                f"`max_tflite_bytes` (={max_bytes:,}) must be at least {least:,}: the file of '{network.model.name}' "
                "comes down to that by sharing alone."
            )
        possible, tries = choice.save(wanted), tries + 1
        shared = _converted(network, places, choice)
        size = _file_bytes(shared.model)
        least = min(least, size)
        wanted = choice.saved + max(1, -(-(size - max_bytes) // _WEIGHT_BYTES))
    return dataclasses.replace(shared, tflite_bytes=size)
