"""Estimated errors from rounding kernels and values to integers, as functions of the factors of their channels.

Errors of different numbers count as independent: squares add up. Kernels that read values pass their errors on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation
from keras_sharenets.mobile.graph.linked_channels import Linked, sources
from keras_sharenets.mobile.graph.quantization import DATA_MOVEMENT, filter_strengths

# Weight of the rounding of kernels beside that of values. It is the same at all positions, so that later sums over
# positions do not average it out. With 4, files of eight trained networks are as accurate as without equalization (sum
# of correct answers: 68,386 and 68,379 of 80,000), and 3 to 26 % smaller.
_KERNEL_WEIGHT = 4
# The largest difference between numbers that count as the same, relative to the largest.
_SAME = 1e-6
_TINY = np.finfo(float).tiny


@dataclasses.dataclass(frozen=True)
class Channels:
    """The lowest and highest number, at most and at least 0, and the mean square of each channel of a value."""

    low: np.ndarray
    high: np.ndarray
    mean_square: np.ndarray

    def divided(self, factors: np.ndarray) -> Channels:
        return Channels(self.low / factors, self.high / factors, self.mean_square / factors**2)


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Numbers that are rounded to steps as large as their largest one, while factors scale their channels.

    A step is the largest `reach * factors**power`. An error of 1 in a channel costs `weights * factors**(-2 * power)`.
    Both are convex in the logarithms of the factors, and so is the error.

    Attributes:
        channels: `(groups, channels)`, the number of the factor of each channel.
        reach: `(groups, steps, channels)`, the step that each channel asks for.
        weights: `(groups, channels)`.
        power: 1 if channels are multiplied by their factors, -1 if they are divided.
        one_step: whether the steps of a group add up to one; if not, each causes an error of its own.
    """

    channels: np.ndarray
    reach: np.ndarray
    weights: np.ndarray
    power: int
    one_step: bool = False

    def error(self, factors: np.ndarray) -> float:
        """The squared error behind the readers."""
        own = factors[self.channels] ** self.power
        steps = (self.reach * own[:, None]).max(-1)
        squares = np.square(steps.sum(-1)) if self.one_step else np.square(steps).sum(-1)
        return float(squares @ (self.weights / own**2).sum(-1))

    def smooth_error(self, logarithms: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        """The error and its gradient with a smooth maximum: a norm of that order, which is never lower.

        Args:
            logarithms: those of the factors.
            sharpness: the order of the norm.
        """
        own = np.exp(self.power * logarithms)[self.channels]
        reach = self.reach * own[:, None]
        largest = np.maximum(reach.max(-1, keepdims=True), _TINY)
        powers = (reach / largest) ** sharpness
        sums = np.maximum(powers.sum(-1, keepdims=True), _TINY)
        steps = largest * sums ** (1 / sharpness)
        slopes = steps * powers / sums
        total = steps.sum(1, keepdims=True) if self.one_step else steps
        squares = np.square(total).sum((1, 2))[:, None]
        costs = self.weights / own**2
        cost = costs.sum(-1, keepdims=True)
        change = 2 * self.power * ((total * slopes).sum(1) * cost - squares * costs)
        gradient = np.bincount(self.channels.ravel(), change.ravel(), len(logarithms))
        return float(np.sum(squares * cost)), gradient


@dataclasses.dataclass(frozen=True)
class Writer:
    """An operation with a kernel that computes a value.

    Attributes:
        limits: the largest magnitudes of the filters times their scales.
        rounding: the `Rounding` of the filters if they have one scale.
        own: whether the integers of the kernel may change.
    """

    limits: np.ndarray
    rounding: Rounding
    own: bool

    def separate(self) -> float:
        """The squared error with a scale for each filter."""
        return float(np.square(self.rounding.reach[0, 0]) @ self.rounding.weights[0])

    def together(self, factors: np.ndarray) -> float:
        """The squared error with one scale for all filters divided by factors; infinite if they cannot have one."""
        return self.rounding.error(factors) if self.own or self.scales(factors) == 1 else np.inf

    def scales(self, factors: np.ndarray) -> int:
        """The number of scales of the filters divided by factors, unless they get one by rounding."""
        limits = self.limits / factors[self.rounding.channels[0]]
        return 1 if np.ptp(limits) <= _SAME * limits.max() else len(limits)


@dataclasses.dataclass(frozen=True)
class LinkedErrors:
    """The errors of linked values and of the kernels around them.

    Attributes:
        count: number of factors.
        writers: `{output value: Writer}`.
        always: the `Rounding` of the kernels that read the values, and of the values.
    """

    count: int
    writers: dict[int, Writer]
    always: list[Rounding]

    @classmethod
    def of(
        cls,
        linked: Linked,
        operations: Mapping[int, Operation],
        found: Mapping[int, Channels],
        groups: Mapping[int, int],
        own: Collection[int],
    ) -> LinkedErrors:
        """The errors before any factor.

        Args:
            linked: values, and the kernels around them.
            operations: `{output value: operation}`.
            found: `{value number: Channels}`.
            groups: as returned by `quantization.tied_values`.
            own: output values of the operations whose kernels may change.
        """
        read = {number: _filters(operations[number]) for number in linked.readers}
        weights = _weights(linked, {number: operations[number].source for number in read}, read)
        writers, always = {}, []
        for number in linked.writers:
            source = found[operations[number].source]
            writers[number] = _writer(operations[number], linked.values[number], weights[number], source, number in own)
        for number, filters in read.items():
            source = operations[number].source
            one_scale = operations[number].attributes.get("one_scale", False)
            always.append(_reader(filters, linked.values[source], found[source], one_scale))
        return cls(linked.count, writers, [*always, *_rounded(linked, found, groups, weights)])

    def fixed(self, factors: np.ndarray) -> float:
        """The squared error from rounding the values divided by factors, and the kernels that read them."""
        return sum(each.error(factors) for each in self.always)


def _filters(operation):
    """The filters times their scales: `(positions, groups, channels of a group, filters of a group)`."""
    array, groups = operation.kernel.array, operation.attributes.get("groups", 1)
    if operation.kind == "depthwise":
        rows = array.reshape(-1, array.shape[2], 1, array.shape[3])
    else:
        rows = array.reshape(-1, array.shape[-2], groups, array.shape[-1] // groups).swapaxes(1, 2)
    return rows if operation.scale is None else rows * operation.scale.reshape(rows.shape[1], 1, -1)


def _reader(filters, channels, value, one_scale):
    """The `Rounding` of filters, with the number of the factor of each channel that they read."""
    positions, groups, _, count = filters.shape
    reach = np.abs(filters).max(0).swapaxes(1, 2) / 127
    channels, weights = (
        each.reshape(groups, -1) for each in (channels, _KERNEL_WEIGHT * positions * value.mean_square)
    )
    if one_scale:
        return Rounding(channels.reshape(1, -1), reach.max(1).reshape(1, 1, -1), count * weights.reshape(1, -1), 1)
    return Rounding(channels, reach, weights, 1)


def _writer(operation, channels, weights, value, own):
    """The `Writer` of an operation: `weights` are those of its output channels, and `value` is what it reads."""
    array = operation.kernel.array
    size = array[..., 0, 0].size if operation.kind == "depthwise" else array[..., 0].size
    noise = _KERNEL_WEIGHT * size * value.mean_square.mean() * weights
    limits = filter_strengths(array, operation.kind, operation.scale)
    return Writer(limits, Rounding(channels[None], limits[None, None] / 127, noise[None], -1), own)


def _weights(linked, sources_of_readers, filters):
    """`{value number: squared error behind the readers from an error of 1 in each channel}`."""
    weights = {number: np.zeros(len(channels)) for number, channels in linked.values.items()}
    for number, source in sources_of_readers.items():
        weights[source] += np.square(filters[number]).sum((0, 3)).ravel()
    for operation in reversed(linked.between):
        passed = weights[operation.output.number]
        passed = passed if operation.scale is None else passed * np.square(operation.scale)
        for value, (written, read) in zip(operation.inputs, sources(operation) or (), strict=True):
            np.add.at(weights[value.number], read, passed[written])
    return weights


def _rounded(linked, found, groups, weights):
    """The `Rounding` of the values of each step size. Operations that only move numbers round none."""
    moved = {operation.output.number for operation in linked.between if operation.kind in DATA_MOVEMENT}
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for number, channels in linked.values.items():
        weight = np.zeros(len(channels)) if number in moved else weights[number]
        parts.setdefault(groups[number], []).append((channels, found[number].low, found[number].high, weight))
    for each in parts.values():
        channels, low, high, weight = (np.concatenate(arrays)[None] for arrays in zip(*each, strict=True))
        yield Rounding(channels, np.stack([high, -low], axis=1) / 255, weight, -1, one_step=True)
