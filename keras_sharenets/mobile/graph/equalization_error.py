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
# positions do not average it out. With 4, files of eight trained networks were as accurate as without equalization (sum
# of correct answers: 68,308 and 68,304 of 80,000), and up to 15 % smaller; with 8, as accurate (68,348), and larger.
_KERNEL_WEIGHT = 4
# The largest difference between numbers that count as the same, relative to the largest.
_SAME = 1e-6


@dataclasses.dataclass(frozen=True)
class Channels:
    """The lowest and highest number, at most and at least 0, and the mean square of each channel of a value."""

    low: np.ndarray
    high: np.ndarray
    mean_square: np.ndarray

    def divided(self, factors: np.ndarray) -> Channels:
        return Channels(self.low / factors, self.high / factors, self.mean_square / factors**2)


@dataclasses.dataclass(frozen=True)
class Reader:
    """An operation with a kernel that reads a value.

    Its kernel is `(groups, input channels of a group, filters of a group)`, of filters times their scales.

    Attributes:
        channels: the number of the factor of each input channel.
        squares: their mean squares.
        through: the sum of squares of the kernel over the positions and filters.
        peaks: the largest magnitudes of the kernel over the positions.
        positions: their number.
        one_scale: whether all filters have one scale.
    """

    channels: np.ndarray
    squares: np.ndarray
    through: np.ndarray
    peaks: np.ndarray
    positions: int
    one_scale: bool

    def rounding(self, factors: np.ndarray) -> float:
        """The squared error of the output from rounding the kernel multiplied by factors."""
        own = factors[self.channels]
        steps = (self.peaks * own[..., None]).max(1) / 127
        steps = np.full_like(steps, steps.max()) if self.one_scale else steps
        kernel = np.sum(np.square(steps).sum(1) * (self.squares / own**2).sum(1))
        return _KERNEL_WEIGHT * self.positions * float(kernel)


@dataclasses.dataclass(frozen=True)
class Writer:
    """An operation with a kernel that computes a value.

    Attributes:
        channels: the number of the factor of each filter.
        limits: the largest magnitudes of the filters times their scales.
        noise: the squared error behind the readers from rounding each filter to a step of 1.
        own: whether the integers of the kernel may change.
    """

    channels: np.ndarray
    limits: np.ndarray
    noise: np.ndarray
    own: bool

    def separate(self) -> float:
        """The squared error with a scale for each filter."""
        return float(np.square(self.limits / 127) @ self.noise)

    def together(self, factors: np.ndarray) -> float:
        """The squared error with one scale for all filters divided by factors; infinite if they cannot have one."""
        own = factors[self.channels]
        largest = (self.limits / own).max()
        allowed = self.own or self.scales(factors) == 1
        return float(np.square(own * largest / 127) @ self.noise) if allowed else np.inf

    def scales(self, factors: np.ndarray) -> int:
        """The number of scales of the filters divided by factors, unless they get one by rounding."""
        limits = self.limits / factors[self.channels]
        return 1 if np.ptp(limits) <= _SAME * limits.max() else len(limits)


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Values with one step size.

    Attributes:
        channels: the number of the factor of each channel.
        low: their lowest numbers.
        high: their highest numbers.
        weights: the squared error behind the readers from errors of 1 in the channels of each factor.
    """

    channels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    weights: np.ndarray

    def rounding(self, factors: np.ndarray) -> float:
        """The squared error from rounding the values divided by factors."""
        own = factors[self.channels]
        step = ((self.high / own).max() - (self.low / own).min()) / 255
        return float(np.square(step * factors) @ self.weights)


@dataclasses.dataclass(frozen=True)
class LinkedErrors:
    """The errors of linked values and of the kernels around them.

    Attributes:
        count: number of factors.
        reach: the largest magnitude of the channels of each factor.
        writers: `{output value: Writer}`.
        readers: list of `Reader`.
        rounded: list of `Rounded`.
    """

    count: int
    reach: np.ndarray
    writers: dict[int, Writer]
    readers: list[Reader]
    rounded: list[Rounded]

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
        read = [(operations[number], operations[number].source) for number in linked.readers]
        readers = [_reader(operation, linked.values[source], found[source]) for operation, source in read]
        weights = _weights(linked, [(reader, source) for reader, (_, source) in zip(readers, read, strict=True)])
        writers, reach = {}, np.zeros(linked.count)
        for number in linked.writers:
            source = found[operations[number].source]
            writers[number] = _writer(operations[number], linked.values[number], weights[number], source, number in own)
        for number, channels in linked.values.items():
            np.maximum.at(reach, channels, np.maximum(found[number].high, -found[number].low))
        return cls(linked.count, reach, writers, readers, list(_rounded(linked, found, groups, weights)))

    def fixed(self, factors: np.ndarray) -> float:
        """The squared error from rounding the values divided by factors, and the kernels that read them."""
        return sum(each.rounding(factors) for each in (*self.rounded, *self.readers))


def _reader(operation, channels, value):
    """The `Reader` of an operation, with the number of the factor of each channel that it reads."""
    array, groups = operation.kernel.array, operation.attributes.get("groups", 1)
    if operation.kind == "depthwise":
        rows = array.reshape(-1, array.shape[2], 1, array.shape[3])
    else:
        rows = array.reshape(-1, array.shape[-2], groups, array.shape[-1] // groups).swapaxes(1, 2)
    if operation.scale is not None:
        rows = rows * operation.scale.reshape(rows.shape[1], 1, -1)
    through = np.square(rows).sum((0, 3))
    squares = value.mean_square.reshape(through.shape)
    one = operation.attributes.get("one_scale", False)
    return Reader(channels.reshape(through.shape), squares, through, np.abs(rows).max(0), len(rows), one)


def _writer(operation, channels, weights, value, own):
    """The `Writer` of an operation: `weights` are those of its output channels, and `value` is what it reads."""
    array = operation.kernel.array
    size = array[..., 0, 0].size if operation.kind == "depthwise" else array[..., 0].size
    noise = _KERNEL_WEIGHT * size * value.mean_square.mean() * weights
    return Writer(channels, filter_strengths(array, operation.kind, operation.scale), noise, own)


def _weights(linked, readers):
    """`{value number: squared error behind the readers from an error of 1 in each channel}`."""
    weights = {number: np.zeros(len(channels)) for number, channels in linked.values.items()}
    for reader, source in readers:
        weights[source] += reader.through.ravel()
    for operation in reversed(linked.between):
        passed = weights[operation.output.number]
        passed = passed if operation.scale is None else passed * np.square(operation.scale)
        for value, (written, read) in zip(operation.inputs, sources(operation) or (), strict=True):
            np.add.at(weights[value.number], read, passed[written])
    return weights


def _rounded(linked, found, groups, weights):
    """A `Rounded` for each step size. Operations that only move numbers round none."""
    moved = {operation.output.number for operation in linked.between if operation.kind in DATA_MOVEMENT}
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for number, channels in linked.values.items():
        weight = np.zeros(linked.count)
        if number not in moved:
            np.add.at(weight, channels, weights[number])
        parts.setdefault(groups[number], []).append((channels, found[number].low, found[number].high, weight))
    for each in parts.values():
        channels, low, high, weight = zip(*each, strict=True)
        yield Rounded(np.concatenate(channels), np.concatenate(low), np.concatenate(high), np.sum(weight, 0))
