"""Selection of changes that fit a network to a budget with the least loss per saved weight."""

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

# Schemes that are tried for each convolution.
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
# Bytes of a stored weight in a float32 file; the overhead of the file is measured on a written one.
_WEIGHT_BYTES = 4
# Maximum number of files written for a byte budget.
_FILES = 6


def all_changes(network: Network, places: Sequence[Place]) -> list[Change]:
    """All changes by all candidates at these places that save weights."""
    found = [change for scheme in CANDIDATES for change in propose(scheme, places, network.samples.moments)[0]]
    return [change for change in found if change.saved > 0]


class Choice:
    """A growing set of disjoint changes; each step adds the one with the least loss per saved weight."""

    def __init__(self, changes: Sequence[Change]):
        self._changes = list(changes)
        self._of_place: dict[int, Change] = {}

    @property
    def taken(self) -> list[Change]:
        """The selected changes."""
        return list(dict.fromkeys(self._of_place.values()))

    @property
    def saved(self) -> int:
        """Number of weights that the selected changes save."""
        return sum(change.saved for change in self.taken)

    def step(self) -> bool:
        """Adds a change in place of those that it excludes, or splits one; `False` if neither saves more."""
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
        """Replaces a change of several places by separate changes, if these save more in total."""
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
        """Adds a change in place of those that it excludes."""
        for other in self._excluded(change):
            self.drop(other)
        self._of_place.update((id(place), change) for place in change.places)

    def _excluded(self, change: Change) -> list[Change]:
        met = (self._of_place.get(id(place)) for place in change.places)
        return list(dict.fromkeys(other for other in met if other is not None))

    def drop(self, change: Change) -> None:
        """Removes a change."""
        self._of_place = {place: other for place, other in self._of_place.items() if other is not change}

    def save(self, wanted: int) -> bool:
        """Adds changes until they save `wanted` weights, then removes unneeded ones, those with the largest loss first.

        Returns:
            Whether that many weights can be saved.
        """
        while self.saved < wanted:
            if not self.step():
                return False
        for change in sorted(self.taken, key=lambda change: -change.loss):
            if self.saved - change.saved >= wanted:
                self.drop(change)
        return True


def fit_parameters(network: Network, places: Sequence[Place], max_parameters: int) -> Shared:
    """Shares until the network has at most `max_parameters` trainable parameters.

    Raises:
        ValueError: the budget cannot be met; the message gives the minimum that was found.
    """
    choice = Choice(all_changes(network, places))
    if not choice.save(network.parameters - max_parameters):
        raise ValueError(
            f"`max_parameters` (={max_parameters:,}) must be at least {network.parameters - choice.saved:,}: sharing "
            f"cannot reduce the {network.parameters:,} parameters of '{network.model.name}' further."
        )
    return _converted(network, places, choice)


def _converted(network: Network, places: Sequence[Place], choice: Choice) -> Shared:
    left = {**network.refused, **{place.path: "not needed for the budget" for place in places}}
    return convert(network, choice.taken, left)


def _file_bytes(model: keras.Model) -> int:
    from keras_sharenets import mobile  # Needs TensorFlow.

    with tempfile.TemporaryDirectory() as folder:
        return mobile.export_tflite(model, pathlib.Path(folder) / "shared.tflite").file_bytes


def fit_tflite_bytes(network: Network, places: Sequence[Place], max_bytes: int) -> Shared:
    """Shares until the float32 TFLite file of the network has at most `max_bytes` bytes.

    The size is estimated: a weight takes four bytes, and the rest of the file keeps its size. Each selection is then
    written to a file; if the file is too large, more is shared.

    Raises:
        ValueError: the budget cannot be met; the message gives the minimum that was found.
        RuntimeError: the Keras backend is not TensorFlow.
    """
    size = _file_bytes(network.model)
    choice, wanted = Choice(all_changes(network, places)), -(-(size - max_bytes) // _WEIGHT_BYTES)
    shared, least, possible, tries = _converted(network, places, choice), size, True, 0
    while size > max_bytes:
        if not possible or tries == _FILES:
            raise ValueError(
                f"`max_tflite_bytes` (={max_bytes:,}) must be at least {least:,}: sharing cannot reduce the file of "
                f"'{network.model.name}' further."
            )
        possible, tries = choice.save(wanted), tries + 1
        shared = _converted(network, places, choice)
        size = _file_bytes(shared.model)
        least = min(least, size)
        wanted = choice.saved + max(1, -(-(size - max_bytes) // _WEIGHT_BYTES))
    return dataclasses.replace(shared, tflite_bytes=size)
