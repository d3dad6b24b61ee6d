"""Quantization of an inference graph: the scales of all values and kernels.

A real number is `scale * (integer - zero point)`. The integers of a kernel are determined once; the factors of a batch
normalization at one use go into the scales of that use. The integers are therefore the same for all uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import BATCH, Constant, InferenceGraph, Operation, Value, run_all

Range = tuple[float, float]

# Operations that only move numbers: the integers do not change, so all their values have one scale.
DATA_MOVEMENT = ("average_pool", "concat", "crop", "gather", "join", "max", "max_pool", "maximum", "min", "minimum")
DATA_MOVEMENT += ("pad", "permute", "reshape", "resize", "slice", "stack", "transpose", "where")
# Bicubic resizing gives some pixel values slightly outside 0 to 255.
PIXELS = (-32.0, 288.0)
_OUTSIDE = 0.1
# XNNPACK's multiplier of a sum of products must be below 256.
_LARGEST_FACTOR = 128
# A kernel with at least this many weights per distinct magnitude above 0 counts as clustered.
_WEIGHTS_PER_CLUSTER = 8
# The sum of products and bias has 32 bits; a bias may use a quarter of that range.
_LARGEST_BIAS = 2**29


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Quantization parameters: single numbers for values, a scale per filter for kernels."""

    scale: np.ndarray | np.floating
    zero_point: int = 0

    def integers(self, numbers: np.ndarray, *, low: int = -128, high: int = 127) -> np.ndarray:
        """The nearest integers."""
        return np.clip(np.round(numbers / self.scale) + self.zero_point, low, high)


# Output quantization that runtimes require for some kinds; the range of a hard sigmoid is exactly that of its integers.
FIXED = {kind: Quantization(np.float32(1 / 256), -128) for kind in ("softmax", "sigmoid")}
FIXED.update(dict.fromkeys(("tanh", "l2_normalize"), Quantization(np.float32(1 / 128), 0)))
FIXED["hard_sigmoid"] = Quantization(np.float32(1 / 255), -128)


@dataclasses.dataclass(frozen=True)
class QuantizedGraph:
    """An inference graph with the quantization of its values and kernels.

    Attributes:
        graph: `InferenceGraph`.
        values: `{value number: Quantization}`.
        kernels: `{Constant: Quantization}`, with one scale per filter.
    """

    graph: InferenceGraph
    values: dict[int, Quantization]
    kernels: dict[Constant, Quantization]


def quantize(
    graph: InferenceGraph, representative_data: Sequence[np.ndarray], *, whole_pixels: bool = False
) -> QuantizedGraph:
    """Determines all scales and zero points.

    Args:
        graph: `InferenceGraph` as returned by `scales.prepare_int8`.
        representative_data: a float array `(n, ...)` for each input, for measuring all ranges that are not in
            `graph.ranges`.
        whole_pixels: whether an input of pixel values has one step for each of 0 to 255, whatever the images contain.

    Returns:
        A `QuantizedGraph`.
    """
    kernels = {kernel: kernel_quantization(kernel.array, users[0].kind) for kernel, users in graph.uses().items()}
    learned = {number: _as_trained(*limits) for number, limits in _tied(graph, graph.ranges).items()}
    measured = measured_ranges(graph, representative_data)
    for number in limited_values(graph):
        del measured[number]
    ranges = {**_tied(graph, measured), **learned}
    for value, array in zip(graph.inputs, representative_data, strict=True):
        low, high = ranges[value.number]
        if whole_pixels and len(value.shape) == 4 and are_pixels(low, high, array):
            ranges[value.number] = 0.0, 255.0
    for number, (_, most) in integers_of(graph).items():
        low, high = ranges[number]
        ranges[number] = _with_whole_steps(low, max(high, most))
    _add_room_for_masks(graph, ranges)
    kernels = _with_one_scale(graph, _bias_fits(graph, ranges, kernels))
    ranges = _tied(graph, _wide_enough(graph, ranges, kernels))
    values = {number: _value_quantization(*limits) for number, limits in ranges.items()}
    for operation in graph.operations:
        if operation.kind in FIXED:
            values[operation.output.number] = FIXED[operation.kind]
    return QuantizedGraph(graph, values, kernels)


def _add_room_for_masks(graph, ranges):
    """Extends the ranges of masked scores, so that the softmax of the lowest integer, for the others, is near 0.

    All of them together get at most half a step of the result.
    """
    masked = (operation.inputs[0] for operation in graph.operations if "mask" in operation.attributes)
    for number, length in {value.number: value.shape[-1] for value in masked}.items():
        low, high = ranges[number]
        ranges[number] = low - float(np.log(512 * length)), high


def are_pixels(low: float, high: float, images: np.ndarray) -> bool:
    """Whether images in this range are pixel values from 0 to 255, and not, for example, temperatures."""
    near = PIXELS[0] < low and 127 < high < PIXELS[1]
    return near and bool(np.mean((images < 0) | (images > 255)) < _OUTSIDE)


def integers_of(graph: InferenceGraph) -> dict[int, tuple[str, float]]:
    """`{value number: (layer, largest possible value)}` of the integers, such as indices, of converted layers."""
    found: dict[int, tuple[str, float]] = {}
    for operation in graph.operations:
        if operation.attributes.get("whole"):
            found[operation.output.number] = operation.name, operation.attributes.get("most", 0)
        for place in operation.attributes.get("whole_inputs", ()):
            found.setdefault(operation.inputs[place].number, (operation.name, 0))
    return found


def _bias_fits(graph, ranges, kernels):
    """The kernels' scales, enlarged where a bias would overflow, for example for a filter of nearly 0."""
    fitting = dict(kernels)
    for operation in graph.operations:
        if operation.kernel is None or operation.bias is None:
            continue
        step = _value_quantization(*ranges[operation.inputs[0].number]).scale
        step = step * (1.0 if operation.scale is None else operation.scale)
        least = np.abs(operation.bias) / (np.asarray(step, "float64") * _LARGEST_BIAS)
        scale = fitting[operation.kernel].scale
        # Repeated filters have one scale each, but several biases.
        least = least.reshape(-1, len(scale)).max(axis=0)
        with np.errstate(over="ignore"):  # The writer raises an error for infinite scales that names the layer.
            fitting[operation.kernel] = Quantization(np.maximum(scale, least).astype("float32"))
    return fitting


def _with_one_scale(graph, kernels):
    """The kernels' scales, with the largest in place of all where the filters were equalized."""
    alike = [kernel for kernel, users in graph.uses().items() if users[0].attributes.get("one_scale")]
    return kernels | {
        kernel: Quantization(np.full_like(kernels[kernel].scale, kernels[kernel].scale.max())) for kernel in alike
    }


def requantize_fixed(graph: InferenceGraph) -> InferenceGraph:
    """Requantizes values with a fixed scale, such as probabilities, before operations that only move numbers.

    Operations with one input share the result. One with several, which have one scale, has its own. So has a softmax
    with a mask, unless its input has a scale of its own: the mask needs a wider range.
    """
    number, again, operations = graph.next_number(), {}, []
    made, readers = {operation.output.number: operation for operation in graph.operations}, graph.consumers()

    def is_fixed(value):
        return value.number in made and made[value.number].kind in FIXED

    def is_shared(value):
        maker = made.get(value.number)
        return maker is None or maker.kind in (*DATA_MOVEMENT, *FIXED) or len(readers[value.number]) > 1

    for operation in graph.operations:
        masks = "mask" in operation.attributes
        if masks or operation.kind in DATA_MOVEMENT:
            reader, inputs = (operation if masks or len(operation.inputs) > 1 else None), []
            for value in operation.inputs:
                if (is_shared if masks else is_fixed)(value) and (value, reader) not in again:
                    site, ones = made.get(value.number, operation), np.ones(value.shape[-1], "float32")
                    fields = {"use": site.use, "scale": ones, "bias": 0 * ones}
                    again[value, reader] = Value(number, value.shape)
                    operations.append(Operation("affine", site.name, (value,), again[value, reader], **fields))
                    number += 1
                inputs.append(again.get((value, reader), value))
            operation = dataclasses.replace(operation, inputs=tuple(inputs))
        operations.append(operation)
    return graph.with_operations(operations)


def measured_ranges(graph: InferenceGraph, inputs: Sequence[np.ndarray]) -> dict[int, Range]:
    """`{value number: (minimum, maximum)}` over all examples, from a float array `(n, ...)` for each input."""
    ranges: dict[int, Range] = {}

    def watch(value, array):
        array = np.asarray(array)
        low, high = ranges.get(value.number, (np.inf, -np.inf))
        ranges[value.number] = min(low, float(array.min())), max(high, float(array.max()))

    for start in range(0, len(inputs[0]), BATCH):
        run_all(graph, [array[start : start + BATCH] for array in inputs], watch=watch)
    return ranges


def tied_values(graph: InferenceGraph) -> dict[int, int]:
    """`{value number: group}`: values that must share a scale have the same group."""
    from scipy.cluster.hierarchy import DisjointSet  # Slow to import.

    tied = DisjointSet(value.number for value in graph.values())
    for operation in graph.operations:
        if operation.kind in DATA_MOVEMENT:
            for value in operation.inputs:
                tied.merge(operation.output.number, value.number)
    return {number: tied[number] for number in tied}


def _tied(graph, ranges):
    """Ranges of all values whose group has one: the union of the ranges in the group."""
    group, wide = tied_values(graph), {}
    for number, (low, high) in ranges.items():
        if number in group:
            before = wide.get(group[number], (0.0, 0.0))
            wide[group[number]] = min(low, before[0]), max(high, before[1])
    return {number: wide[root] for number, root in group.items() if root in wide}


def limited_values(graph: InferenceGraph) -> set[int]:
    """The constant bounds of values, and values that only such a bound reads: integers clip both to the result's range.

    Otherwise a bound far outside the values, or a value far outside its bounds, would determine the scale of all.
    """
    readers, limited = graph.consumers(), set[int]()
    made = {operation.output.number: operation for operation in graph.operations}
    for operation in graph.operations:
        sources = [made.get(value.number) for value in operation.inputs]
        bounds = [source for source in sources if source is not None and source.kind == "constant"]
        if operation.kind in ("maximum", "minimum") and bounds:
            limited.update(s.output.number for s in sources if s is not None and len(readers[s.output.number]) == 1)
    return limited


def _wide_enough(graph, ranges, kernels):
    """Widens ranges that are so small relative to the summed products that a runtime could not rescale to them.

    This happens for a value that is 0 on all images, such as the output of a squeeze after a ReLU.
    """
    ranges = dict(ranges)
    for operation in graph.operations:
        widths = [np.subtract(*ranges[value.number][::-1]) for value in operation.inputs]
        if operation.kernel is not None:
            scales = kernels[operation.kernel].scale * (1 if operation.scale is None else operation.scale)
            factor = widths[0] * float(scales.max())
        elif operation.kind == "affine":
            factor = widths[0] * float(np.abs(operation.scale).max()) / 127
        elif operation.kind in ("multiply", "matmul"):
            factor = widths[0] * widths[1] / 255
        elif operation.kind in ("add", "subtract", "mean", "identity", "leaky_relu", "prelu"):
            factor = max(widths)
        else:
            continue
        low, high = ranges[operation.output.number]
        ranges[operation.output.number] = low, max(high, low + factor / _LARGEST_FACTOR)
    return ranges


def _with_whole_steps(low, high):
    """A range of 256 integers that contains the given one, so that integers, such as indices, are exact."""
    fitting = (limits for limits in ((0.0, 255.0), (-128.0, 127.0)) if limits[0] <= low and high <= limits[1])
    return next(fitting, (low, high))


def _as_trained(low, high):
    """The 255 steps of quantization-aware training, shifted so that 0 is one of them."""
    scale = (high - low) / 255
    below = np.round(-low / scale)
    return -below * scale, (255 - below) * scale


def _value_quantization(low, high):
    """255 steps, just wide enough to reach `low` and `high`, with 0, which padding and ReLU need, exactly on a step.

    With steps of `(high - low) / 255`, up to half a step would be missing at one end, and every pixel value rescaled to
    -1 to 1 would lie halfway between two steps, with the largest possible rounding error.
    """
    zero = np.clip(-128 - 255 * low / max(high - low, 1e-6), -128, 127)
    steps = [
        (max(-low / max(128 + point, 1e-9), high / max(127 - point, 1e-9), 1e-6 / 255), int(point))
        for point in (np.floor(zero), np.ceil(zero))
    ]
    scale, point = min(steps)
    return Quantization(np.float32(scale), point)


def filter_limits(array: np.ndarray, kind: str) -> np.ndarray:
    """The largest magnitude of each filter of a kernel; for a filter of zeros, that of all filters.

    A kernel with few distinct magnitudes above 0 that occur often has been clustered: one limit for all filters keeps
    the number of distinct integers as small.

    Args:
        array: the kernel in Keras layout.
        kind: kind of the operation; the filters of a `"depthwise"` kernel are along the last two axes, those of other
            kernels along the last.
    """
    filters = 2 if kind == "depthwise" else 1
    magnitudes = np.abs(array)
    limits = magnitudes.max(tuple(range(array.ndim - filters))).ravel()
    largest = limits.max() or 1.0
    kept = magnitudes[magnitudes > 0]  # A pruned kernel has many zeros.
    clustered = np.unique(kept).size * _WEIGHTS_PER_CLUSTER <= kept.size
    return np.where((limits == 0) | clustered, largest, limits).astype("float32")


def filter_strengths(array: np.ndarray, kind: str, scale: np.ndarray | None) -> np.ndarray:
    """The largest magnitude of each filter of a kernel at a use, with the magnitude of its scale there."""
    limits = filter_limits(array, kind).astype("float64")
    return limits if scale is None else limits * np.abs(scale)


def is_clustered(operation: Operation) -> bool:
    """Whether the kernel of an operation has one limit for all its filters, as only clustered kernels have."""
    if operation.kernel is None:
        return False
    limits = filter_limits(operation.kernel.array, operation.kind)
    return len(limits) > 1 and np.ptp(limits) == 0


def rewritable_kernels(graph: InferenceGraph) -> frozenset[Constant]:
    """The kernels that a pass may change: those with one use that are not clustered."""
    users = ((kernel, used) for kernel, used in graph.uses().items() if len(used) == 1)
    return frozenset(kernel for kernel, (user,) in users if not is_clustered(user))


def kernel_quantization(array: np.ndarray, kind: str) -> Quantization:
    """A scale for each filter that maps its largest magnitude to 127."""
    return Quantization(filter_limits(array, kind) / np.float32(127))


def affine_quantization(
    scale: np.ndarray, bias: np.ndarray | None, input_scale: np.ndarray | np.floating
) -> tuple[np.ndarray, Quantization]:
    """Quantization of the scale of an affine operation.

    If it is exact, all integers have one scale, as `scales.prepare_int8` arranges; otherwise each has its own, with the
    integers 127 or -127. The scales are larger where the bias would overflow.

    Returns:
        `(integers, Quantization)`.
    """
    least = 0.0 if bias is None else np.abs(bias) / (input_scale * _LARGEST_BIAS)
    step = np.float32(np.abs(scale).max() / 127)
    if step >= max(np.max(least), 1e-12) and np.allclose(scale / step, np.round(scale / step), rtol=0, atol=1e-3):
        return np.round(scale / step), Quantization(step)
    quantization = Quantization(np.maximum(np.maximum(np.abs(scale) / 127, least), 1e-12).astype("float32"))
    return quantization.integers(scale), quantization
