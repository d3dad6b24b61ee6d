"""Cross-layer equalization: the filters of a kernel get one scale in an integer file instead of one each.

Each scale takes 8 bytes, 4 for the kernel and 4 for the bias, which is up to a quarter of the file of a small network.
If the channels of a value are divided by factors, and the kernels that read it multiply their input channels by them,
also after a ReLU or pooling, the network computes the same. With the scales of its filters as factors, a kernel needs
only one. Smaller factors for channels with small filters but large values cost such filters some of their integers.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), choose such factors for
accuracy. Here they make the file smaller, and are used where the estimated rounding error does not grow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import (
    BATCH,
    Constant,
    InferenceGraph,
    Operation,
    reduced_axes,
    run_all,
)
from keras_sharenets.mobile.graph.quantization import filter_limits, kernel_quantization, rewritable_kernels

# Images on which the values of each channel are measured.
_IMAGES = 64
# Weight of the rounding of kernels beside that of values. It is the same at all positions, so that later sums over
# positions do not average it out. With 4, files of eight trained networks were as accurate as without equalization (sum
# of correct answers: 68,308 and 68,304 of 80,000), and up to 15 % smaller; with 8, as accurate (68,348), and larger.
_KERNEL_WEIGHT = 4
# Estimated error up to which filters get one scale, in proportion to that with a scale for each.
_MOST_ERROR = 1.0
# Number of factors to choose from.
_CHOICES = 12
# Kinds with a kernel whose filters or input channels can be multiplied.
_KERNELS = ("conv", "depthwise", "dense")
# Operations that keep the channels of their input apart.
_CHANNELWISE = ("average_pool", "identity", "max_pool", "mean", "pad", "permute", "reshape")


@dataclasses.dataclass(frozen=True)
class _Channels:
    """The lowest and highest number, at most and at least 0, and the mean square of each channel of a value."""

    low: np.ndarray
    high: np.ndarray
    mean_square: np.ndarray

    def divided(self, factors: np.ndarray) -> _Channels:
        return _Channels(self.low / factors, self.high / factors, self.mean_square / factors**2)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """An operation that reads a value, with the channel of the value that each of its input channels is.

    Its kernel is `(groups, input channels of a group, filters of a group)`: `through` is the sum of squares over the
    positions and filters, without the last axis; `peaks` are the largest magnitudes over the positions. Both are of
    filters times their scales.
    """

    channels: np.ndarray
    through: np.ndarray
    peaks: np.ndarray
    positions: int

    @classmethod
    def of(cls, operation, channels: np.ndarray) -> _Reader:
        array, groups = operation.kernel.array, operation.attributes.get("groups", 1)
        if operation.kind == "depthwise":
            rows = array.reshape(-1, array.shape[2], 1, array.shape[3])
        else:
            rows = array.reshape(-1, array.shape[-2], groups, array.shape[-1] // groups).swapaxes(1, 2)
        if operation.scale is not None:
            rows = rows * operation.scale.reshape(rows.shape[1], 1, -1)
        return cls(channels, np.square(rows).sum((0, 3)), np.abs(rows).max(0), len(rows))

    def error(self, noise: np.ndarray, factors: np.ndarray, value: _Channels) -> float:
        """The squared error of the output from noise in the value and from rounding a kernel multiplied by factors."""
        own = {"noise": noise, "factors": factors, "squares": value.mean_square / factors**2}
        own = {name: array[self.channels].reshape(self.through.shape) for name, array in own.items()}
        steps = (self.peaks * own["factors"][..., None]).max(1) / 127
        kernel = self.positions * np.sum(np.square(steps).sum(1) * own["squares"].sum(1))
        return float(np.sum(self.through * own["noise"]) + _KERNEL_WEIGHT * kernel)


def equalize(graph: InferenceGraph, representative_data: Sequence[np.ndarray]) -> InferenceGraph:
    """Gives the filters of kernels one scale where the kernels that read their output can take up the factors.

    Args:
        graph: `InferenceGraph` as returned by `scales.prepare_int8`.
        representative_data: a float array `(n, ...)` for each input.

    Returns:
        An equivalent graph. A kernel with several uses keeps its integers; only its scales at one use change. Values
        with a range from quantization-aware training do not change.
    """
    found = _measure(graph, [array[:_IMAGES] for array in representative_data])
    kernels, readers = _own_kernels(graph), graph.consumers()
    changed = {operation.output.number: operation for operation in graph.operations}
    own = {number for number, operation in changed.items() if operation.kernel in kernels}
    for number, operation in changed.copy().items():
        reached = _reached(graph, operation, readers, own)
        if reached is None or operation.inputs[0].number not in found:
            continue
        passed, read = reached
        operation = changed[number]
        if number not in own and operation.scale is None:
            continue  # Its scales are stored for another use.
        limits = _limits(operation)
        ends = [_Reader.of(changed[each], channels) for each, channels in read.items()]
        noise = _kernel_noise(operation, found[operation.inputs[0].number])
        factors = _best_factors(limits, found[number], noise, ends, exact=number not in own)
        if factors is None:
            continue
        changed[number] = _divided(operation, factors, own_kernel=number in own)
        for each, channels in read.items():
            changed[each] = _multiplied(changed[each], factors[channels])
        for each, channels in passed.items():
            found[each] = found[each].divided(factors[channels])
    return graph.with_operations(changed.values())


def _own_kernels(graph) -> set[Constant]:
    """The kernels that a pass may change without storing one more: no other kernel has the same integers.

    Copies of a shared kernel with different scales of their filters have the same integers, and are stored once.
    """
    found: dict[tuple, list[Constant]] = {}
    for kernel, users in graph.uses().items():
        quantization = kernel_quantization(kernel.array, users[0].kind)
        shape = kernel.array.shape[2:] if users[0].kind == "depthwise" else (-1,)
        integers = np.round(kernel.array / quantization.scale.reshape(shape)).astype("int8")
        found.setdefault((integers.shape, integers.tobytes()), []).append(kernel)
    return {kernels[0] for kernels in found.values() if len(kernels) == 1} & rewritable_kernels(graph)


def _measure(graph, inputs) -> dict[int, _Channels]:
    """`{value number: _Channels}` of all values with channels."""
    found: dict[int, list] = {}

    def watch(value, array):
        array = np.asarray(array)
        if array.ndim > 1:
            images = array.reshape(len(array), -1, array.shape[-1])
            squares = [np.square(image).mean(0) for image in images]  # One by one: those of all take much memory.
            limits = images.min((0, 1)), images.max((0, 1))
            found.setdefault(value.number, []).append((*limits, np.mean(squares, 0), len(images)))

    for start in range(0, len(inputs[0]), BATCH):
        run_all(graph, [array[start : start + BATCH] for array in inputs], watch=watch)
    channels = {}
    for number, parts in found.items():
        lows, highs, squares, counts = zip(*parts, strict=True)
        channels[number] = _Channels(
            np.minimum(np.min(lows, 0), 0), np.maximum(np.max(highs, 0), 0), np.average(squares, 0, counts)
        )
    return channels


def _reached(
    graph: InferenceGraph, operation: Operation, readers: Mapping[int, Sequence[Operation]], own: set[int]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]] | None:
    """The values that keep the channels of the operation's output apart, and the operations with a kernel behind them.

    Both by value number, with the channel that each of theirs is. `None` if an operation can not take up factors.
    """
    if operation.kind not in _KERNELS or operation.activation == "relu6":
        return None
    passed, read = {operation.output.number: np.arange(operation.output.shape[-1])}, {}
    waiting = [operation.output]
    while waiting:
        value = waiting.pop()
        channels = passed[value.number]
        for reader in readers.get(value.number, ()):
            if value.number in graph.ranges:
                return None
            if reader.kind in _KERNELS and reader.output.number in own:
                read[reader.output.number] = channels
            elif _keeps_apart(reader):
                order = reader.attributes["indices"] if reader.kind == "permute" else slice(None)
                passed[reader.output.number] = channels[order]
                waiting.append(reader.output)
            else:
                return None
    return (passed, read) if read else None


def _keeps_apart(operation):
    """Whether each channel of the output depends on one channel of the input, and is multiplied by what that is."""
    if operation.kind not in _CHANNELWISE or operation.activation == "relu6":
        return False
    (value,) = operation.inputs
    if operation.kind == "mean" and len(value.shape) - 1 in reduced_axes(operation):
        return False
    return operation.output.shape[-1] == value.shape[-1]


def _limits(operation):
    """The largest magnitude of each filter times its scale."""
    limits = filter_limits(operation.kernel.array, operation.kind).astype("float64")
    return limits if operation.scale is None else limits * operation.scale


def _kernel_noise(operation, value):
    """The squared error of an output from rounding the kernel to a step of 1."""
    array = operation.kernel.array
    weights = array[..., 0, 0].size if operation.kind == "depthwise" else array[..., 0].size
    return _KERNEL_WEIGHT * weights * value.mean_square.mean()


def _best_factors(limits, value, noise, readers, *, exact) -> np.ndarray | None:
    """The factors with the lowest estimated error; `None` if that is above the error with a scale for each filter.

    Args:
        limits: the largest magnitude of each filter.
        value: the `_Channels` of the output.
        noise: as returned by [`_kernel_noise`].
        readers: list of `_Reader`.
        exact: whether all filters must keep their integers, and so the factors be in proportion to `limits`.
    """
    if np.ptp(limits) <= 1e-6 * limits.max():
        return None

    def error(steps, factors):
        width = (value.high / factors).max() - (value.low / factors).min()
        total = np.square(steps) * noise + np.square(width / 255 * factors)
        return sum(reader.error(total, factors, value) for reader in readers)

    choices = [factors / factors.max() for factors in _choices(limits, np.maximum(value.high, -value.low), exact)]
    errors = [error((limits / factors).max() / 127 * factors, factors) for factors in choices]
    least = int(np.argmin(errors))
    return choices[least] if errors[least] <= _MOST_ERROR * error(limits / 127, np.ones_like(limits)) else None


def _choices(limits, reach, exact) -> Iterator[np.ndarray]:
    """Factors from those that keep all integers of the kernel to those that give all channels the same reach."""
    yield limits
    reach = np.maximum(reach, 1e-6 * reach.max())
    if not exact and reach.max():
        for bound in np.quantile(limits / reach, np.linspace(0, 1, _CHOICES)):
            yield np.maximum(limits, bound * reach)


def _divided(operation, factors, own_kernel):
    """The operation with its output divided by factors."""
    scale = (1 / factors if operation.scale is None else operation.scale / factors).astype("float32")
    bias = None if operation.bias is None else (operation.bias / factors).astype("float32")
    if not own_kernel:
        return dataclasses.replace(operation, scale=scale, bias=bias)
    array = operation.kernel.array
    scale = scale.reshape(array.shape[2:]) if operation.kind == "depthwise" else scale
    attributes = {**operation.attributes, "one_scale": True}
    kernel = Constant(operation.kernel.name, array * scale)
    return dataclasses.replace(operation, kernel=kernel, scale=None, bias=bias, attributes=attributes)


def _multiplied(operation, factors):
    """The operation for an input that has been divided by factors."""
    array, groups = operation.kernel.array, operation.attributes.get("groups", 1)
    if operation.kind != "depthwise":
        factors = np.repeat(factors.reshape(groups, -1).T, array.shape[-1] // groups, axis=1)
    else:
        factors = factors[:, None]
    return dataclasses.replace(operation, kernel=Constant(operation.kernel.name, (array * factors).astype("float32")))
