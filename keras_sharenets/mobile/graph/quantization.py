"""Integers for an inference graph: which scale every value and every kernel gets.

A real number is `scale * (integer - zero point)`. The integers of a kernel are fixed once, before any use; what a batch
normalization makes of them at one use goes into the scales of that use. So they cannot differ between uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import BATCH, Constant, InferenceGraph, Operation, Value, run_all

Range = tuple[float, float]

# Operations that only move numbers: the integers stay what they are, so all their values have one scale.
DATA_MOVEMENT = ("average_pool", "concat", "crop", "max", "max_pool", "maximum", "minimum", "pad", "permute", "reshape")
DATA_MOVEMENT += ("resize", "slice", "stack", "transpose")
# Bicubic resizing gives pixel values a little outside of 0 to 255.
_PIXELS = (-32.0, 288.0)
# What XNNPACK multiplies a sum of products with has to be below 256.
_LARGEST_FACTOR = 128
# A kernel with so many weights for each magnitude, or more, counts as clustered.
_WEIGHTS_PER_CLUSTER = 8
# The sum of products and bias has 32 bits; a bias may take a quarter of that.
_LARGEST_BIAS = 2**29


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How integers stand for real numbers: single numbers for values, a scale for each filter of a kernel."""

    scale: np.ndarray | np.floating
    zero_point: int = 0

    def integers(self, numbers: np.ndarray, *, low: int = -128, high: int = 127) -> np.ndarray:
        """The nearest integers."""
        return np.clip(np.round(numbers / self.scale) + self.zero_point, low, high)


# What runtimes demand of the outputs of some kinds, whatever their range; a hard sigmoid ends where its integers do.
FIXED = {kind: Quantization(np.float32(1 / 256), -128) for kind in ("softmax", "sigmoid")}
FIXED.update(dict.fromkeys(("tanh", "l2_normalize"), Quantization(np.float32(1 / 128), 0)))
FIXED["hard_sigmoid"] = Quantization(np.float32(1 / 255), -128)


@dataclasses.dataclass(frozen=True)
class QuantizedGraph:
    """An inference graph with the quantization of its values, by their numbers, and of its kernels.

    Attributes:
        graph: `InferenceGraph`.
        values: `{number: Quantization}`.
        kernels: `{Constant: Quantization}`, one scale a filter.
    """

    graph: InferenceGraph
    values: dict[int, Quantization]
    kernels: dict[Constant, Quantization]


def quantize(
    graph: InferenceGraph, representative_data: Sequence[np.ndarray], *, whole_pixels: bool = False
) -> QuantizedGraph:
    """Chooses all scales and zero points.

    Args:
        graph: `InferenceGraph` as `scales.prepare_int8` gives it.
        representative_data: a float array `(n, ...)` for each input: the range of every value that `graph.ranges` does
            not have is measured on them.
        whole_pixels: whether an input of pixel values has one step for each of 0 to 255, whatever the images hold.

    Returns:
        A `QuantizedGraph`.
    """
    kernels = {kernel: kernel_quantization(kernel.array, users[0].kind) for kernel, users in graph.uses().items()}
    learned = {number: _as_trained(*limits) for number, limits in _tied(graph, graph.ranges).items()}
    ranges = {**_tied(graph, measured_ranges(graph, representative_data)), **learned}
    for value in graph.inputs:
        low, high = ranges[value.number]
        if whole_pixels and _PIXELS[0] < low and 127 < high < _PIXELS[1]:
            ranges[value.number] = 0.0, 255.0
    for operation in graph.operations:
        if operation.attributes.get("whole"):
            number = operation.output.number
            ranges[number] = _with_whole_steps(*ranges[number])
    kernels = _bias_fits(graph, ranges, kernels)
    ranges = _tied(graph, _wide_enough(graph, ranges, kernels))
    values = {number: _value_quantization(*limits) for number, limits in ranges.items()}
    for operation in graph.operations:
        if operation.kind in FIXED:
            values[operation.output.number] = FIXED[operation.kind]
    return QuantizedGraph(graph, values, kernels)


def _bias_fits(graph, ranges, kernels):
    """The kernels' scales, those larger beside which a bias would overflow, as of a filter that has all but died."""
    fitting = dict(kernels)
    for operation in graph.operations:
        if operation.kernel is None or operation.bias is None:
            continue
        step = _value_quantization(*ranges[operation.inputs[0].number]).scale
        step = step * (1.0 if operation.scale is None else operation.scale)
        least = np.abs(operation.bias) / (np.asarray(step, "float64") * _LARGEST_BIAS)
        scale = fitting[operation.kernel].scale
        # Repeated filters have a scale each, and more biases.
        least = least.reshape(-1, len(scale)).max(axis=0)
        with np.errstate(over="ignore"):  # The writer refuses what became infinite, and names the layer.
            fitting[operation.kernel] = Quantization(np.maximum(scale, least).astype("float32"))
    return fitting


def requantize_fixed(graph: InferenceGraph) -> InferenceGraph:
    """Values of a fixed scale, as probabilities, that are moved get one that can be shared: moving changes none."""
    number, replaced, operations = graph.next_number(), {}, []
    moved = {value.number for o in graph.operations if o.kind in DATA_MOVEMENT for value in o.inputs}
    for operation in graph.operations:
        if operation.kind in DATA_MOVEMENT:
            inputs = tuple(replaced.get(value.number, value) for value in operation.inputs)
            operation = dataclasses.replace(operation, inputs=inputs)
        operations.append(operation)
        if operation.kind in FIXED and operation.output.number in moved:
            again = replaced[operation.output.number] = Value(number, operation.output.shape)
            number += 1
            vectors = {"scale": np.ones(again.shape[-1], "float32"), "bias": np.zeros(again.shape[-1], "float32")}
            fields = {"use": operation.use, **vectors}
            operations.append(Operation("affine", operation.name, (operation.output,), again, **fields))
    return graph.with_operations(operations)


def measured_ranges(graph: InferenceGraph, inputs: Sequence[np.ndarray]) -> dict[int, Range]:
    """`{value number: (smallest, largest)}` over all examples, a float array `(n, ...)` for each input."""
    ranges: dict[int, Range] = {}

    def watch(value, array):
        array = np.asarray(array)
        low, high = ranges.get(value.number, (np.inf, -np.inf))
        ranges[value.number] = min(low, float(array.min())), max(high, float(array.max()))

    for start in range(0, len(inputs[0]), BATCH):
        run_all(graph, [array[start : start + BATCH] for array in inputs], watch=watch)
    return ranges


def tied_values(graph: InferenceGraph) -> dict[int, int]:
    """`{value number: number}`: values that must have one scale have the same number."""
    group = {value.number: value.number for value in graph.inputs}
    group.update({operation.output.number: operation.output.number for operation in graph.operations})

    def root(number):
        while group[number] != number:
            number = group[number]
        return number

    for operation in graph.operations:
        if operation.kind in DATA_MOVEMENT:
            for value in operation.inputs:
                group[root(value.number)] = root(operation.output.number)
    return {number: root(number) for number in group}


def _tied(graph, ranges):
    """Ranges for all values that have one or are tied to one that has: as wide as the widest of those."""
    group, wide = tied_values(graph), {}
    for number, (low, high) in ranges.items():
        if number in group:
            before = wide.get(group[number], (0.0, 0.0))
            wide[group[number]] = min(low, before[0]), max(high, before[1])
    return {number: wide[root] for number, root in group.items() if root in wide}


def _wide_enough(graph, ranges, kernels):
    """The ranges, those wider that are so small beside what is summed up that a runtime could not scale to them.

    That happens to a value that is 0 on all images, such as what a squeeze leaves of a ReLU.
    """
    ranges = dict(ranges)
    for operation in graph.operations:
        widths = [np.subtract(*ranges[value.number][::-1]) for value in operation.inputs]
        if operation.kernel is not None:
            scales = kernels[operation.kernel].scale * (1 if operation.scale is None else operation.scale)
            factor = widths[0] * float(scales.max())
        elif operation.kind == "affine":
            factor = widths[0] * float(np.abs(operation.scale).max()) / 127
        elif operation.kind == "multiply":
            factor = widths[0] * widths[1] / 255
        elif operation.kind in ("add", "subtract", "mean", "identity", "leaky_relu", "prelu"):
            factor = max(widths)
        else:
            continue
        low, high = ranges[operation.output.number]
        ranges[operation.output.number] = low, max(high, low + factor / _LARGEST_FACTOR)
    return ranges


def _with_whole_steps(low, high):
    """The range of 256 integers that a smaller one is in: then its own are exact, and an index is its integer."""
    fitting = (limits for limits in ((0.0, 255.0), (-128.0, 127.0)) if limits[0] <= low and high <= limits[1])
    return next(fitting, (low, high))


def _as_trained(low, high):
    """The 255 steps of quantization-aware training, which are moved so that 0 is one of them."""
    scale = (high - low) / 255
    below = np.round(-low / scale)
    return -below * scale, (255 - below) * scale


def _value_quantization(low, high):
    """255 steps, of which 0, which padding and ReLU need, is one exactly, just wide enough to reach `low` and `high`.

    Steps of `(high - low) / 255` would leave out up to half of one at an end. And every pixel value that is rescaled to
    numbers from -1 to 1 would lie halfway between two of them: each would be rounded as wrongly as can be.
    """
    zero = np.clip(-128 - 255 * low / max(high - low, 1e-6), -128, 127)
    steps = [
        (max(-low / max(128 + point, 1e-9), high / max(127 - point, 1e-9), 1e-6 / 255), int(point))
        for point in (np.floor(zero), np.ceil(zero))
    ]
    scale, point = min(steps)
    return Quantization(np.float32(scale), point)


def filter_limits(array: np.ndarray, kind: str) -> np.ndarray:
    """The largest magnitude of each filter of a kernel; for one that is 0 throughout, that of all of them.

    A kernel of few distinct magnitudes, each of them used often, has been clustered: the largest of all for each filter
    keeps its integers as few.

    Args:
        array: the kernel, as Keras lays it out.
        kind: kind of the operation; in a `"depthwise"` kernel filters are counted along the last two axes, else along
            the last.
    """
    filters = 2 if kind == "depthwise" else 1
    limits = np.abs(array).max(tuple(range(array.ndim - filters))).ravel()
    largest = limits.max() or 1.0
    clustered = np.unique(np.abs(array)).size * _WEIGHTS_PER_CLUSTER <= array.size
    return np.where((limits == 0) | clustered, largest, limits).astype("float32")


def is_clustered(operation: Operation) -> bool:
    """Whether an operation has a kernel with one limit for all its filters, as only clustered kernels have."""
    if operation.kernel is None:
        return False
    limits = filter_limits(operation.kernel.array, operation.kind)
    return len(limits) > 1 and np.ptp(limits) == 0


def rewritable_kernels(graph: InferenceGraph) -> frozenset[Constant]:
    """The kernels whose numbers a pass may change: those with one use that have not been clustered."""
    users = ((kernel, used) for kernel, used in graph.uses().items() if len(used) == 1)
    return frozenset(kernel for kernel, (user,) in users if not is_clustered(user))


def kernel_quantization(array: np.ndarray, kind: str) -> Quantization:
    """A scale for each filter: its largest number becomes 127."""
    return Quantization(filter_limits(array, kind) / np.float32(127))


def affine_quantization(
    scale: np.ndarray, bias: np.ndarray | None, input_scale: np.ndarray | np.floating
) -> tuple[np.ndarray, Quantization]:
    """Integers and their scales for a scale that stands alone.

    One scale for all where that is exact, as `scales.prepare_int8` sees to; else one for each, with the integers 127
    or -127. They are larger where the bias would overflow.

    Returns:
        `(integers, Quantization)`.
    """
    least = 0.0 if bias is None else np.abs(bias) / (input_scale * _LARGEST_BIAS)
    step = np.float32(np.abs(scale).max() / 127)
    if step >= max(np.max(least), 1e-12) and np.allclose(scale / step, np.round(scale / step), rtol=0, atol=1e-3):
        return np.round(scale / step), Quantization(step)
    quantization = Quantization(np.maximum(np.maximum(np.abs(scale) / 127, least), 1e-12).astype("float32"))
    return quantization.integers(scale), quantization
