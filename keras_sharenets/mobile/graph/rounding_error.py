"""Quantization error: difference between a quantized graph and the float graph, in total and for each layer.

The graph is evaluated with the real numbers that its integers represent: kernels, scales and all values are rounded and
clipped as in the file. Further differences of a file are not due to rounding.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_sharenets.mobile.graph.inference_graph import (
    BATCH,
    PROBABILITIES,
    InferenceGraph,
    Operation,
    compute,
    run_all,
)
from keras_sharenets.mobile.graph.quantization import (
    DATA_MOVEMENT,
    QuantizedGraph,
    Range,
    affine_quantization,
    filter_limits,
    limited_values,
)


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """Relative quantization error.

    Attributes:
        scores: error of the scores of each output, with everything rounded.
        score_steps: quantization step of the scores, relative to their root mean square.
        layers: `{layer: error}`, error of a layer's output when only this layer, with all its operations, is rounded.
    """

    scores: tuple[float, ...]
    score_steps: tuple[float, ...]
    layers: dict[str, float]

    @property
    def worst_layer(self) -> str | None:
        """The layer with the largest error; `None` if there is none."""
        return max(self.layers, key=self.layers.__getitem__, default=None)


def rounding_error(quantized: QuantizedGraph, inputs: Sequence[np.ndarray]) -> RoundingError:
    """The `RoundingError` of a quantized graph on an array `(n, ...)` for each input."""
    graph, rounded = quantized.graph, _rounded_operations(quantized)
    scores = graph.scores()
    wanted, limited = {value.number for value in scores}, limited_values(graph)
    readers_of, sites = graph.consumers(), {operation.output.number: operation.site for operation in graph.operations}
    # Values that are read outside the call that computes them, except probabilities, whose scale is fixed, and values
    # that integers clip as the next operation does.
    leaving = {
        operation.output.number
        for operation in graph.operations
        if operation.kind not in PROBABILITIES and operation.output.number not in limited
        for reader in readers_of.get(operation.output.number, ())
        if reader.site != operation.site or reader.kind in PROBABILITIES
    }
    squares: dict[Any, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
    for start in range(0, len(inputs[0]), BATCH):
        exact = {
            value.number: ops.convert_to_tensor(np.asarray(array[start : start + BATCH], "float32"))
            for value, array in zip(graph.inputs, inputs, strict=True)
        }
        integer = {number: _rounded_value(quantized, number, batch) for number, batch in exact.items()}
        for number in wanted & exact.keys():  # For a network that returns the softmax of its input.
            squares[number] += _squares(integer[number], exact[number])
        # Result of each operation for exact inputs when only its own layer call is rounded.
        alone = dict(exact)
        remaining = {number: len(readers) for number, readers in readers_of.items()}
        for operation, same in zip(graph.operations, rounded, strict=True):
            number, before = operation.output.number, [value.number for value in operation.inputs]
            exact[number] = compute(operation, [exact[each] for each in before])
            integer[number] = _rounded_value(quantized, number, compute(same, [integer[each] for each in before]))
            within = [sites.get(each) == operation.site for each in before]
            own = compute(same, [(alone if inner else exact)[each] for each, inner in zip(before, within, strict=True)])
            moves = operation.kind in DATA_MOVEMENT
            alone[number] = own if moves else _rounded_value(quantized, number, own)
            if number in leaving and (any(within) or not moves):
                squares[operation.site, number] += _squares(alone[number], exact[number])
            if number in wanted:
                squares[number] += _squares(integer[number], exact[number])
            for each in before:
                remaining[each] -= 1
                if not remaining[each]:
                    del exact[each], integer[each], alone[each]
    layers: dict[str, float] = {}
    for key, sums in squares.items():
        if isinstance(key, tuple):
            (name, _), _ = key
            layers[name] = max(layers.get(name, 0.0), _relative(*sums))
    steps = []
    for value in scores:
        mean_square = squares[value.number][1] / (len(inputs[0]) * np.prod(value.shape))
        scale = float(quantized.values[value.number].scale)
        steps.append(scale / max(np.sqrt(mean_square), np.finfo("float32").tiny))
    return RoundingError(tuple(_relative(*squares[value.number]) for value in scores), tuple(steps), layers)


def kernel_rounding_error(
    graph: InferenceGraph,
    inputs: Sequence[np.ndarray],
    bits_of: Callable[[Operation], tuple[int, int] | None],
    *,
    ranges: Mapping[int, Range] | None = None,
) -> tuple[float, ...]:
    """The relative error of the scores of each output when kernels and their input values are rounded.

    Args:
        graph: `InferenceGraph`, in float.
        inputs: a float array `(n, ...)` for each input.
        bits_of: function from an operation to `(bits of its kernel, bits of its input values)`, or `None` if it stays
            in float. Kernels are rounded symmetrically around 0, up to the largest magnitude of a filter. Values are
            rounded as LiteRT does: 8 bits for the range from the smallest to the largest value of one image, which
            includes 0; others symmetrically.
        ranges: `{value number: (minimum, maximum)}` of values with a fixed range: magnitudes beyond both are clipped.
            `None` for none.

    Returns:
        The relative error of each output.
    """
    limits, kernels = ranges or {}, {}
    for kernel, users in graph.uses().items():
        bits = bits_of(users[0])
        if bits is not None:
            steps = 2 ** (bits[0] - 1) - 1
            scale = filter_limits(kernel.array, users[0].kind) / np.float32(steps)
            kernels[kernel] = _rounded_kernel(kernel, users[0].kind, scale, steps=steps)

    def step(operation, read):
        bits = bits_of(operation)
        result = compute(operation, read if bits is None else [_rounded_per_image(x, bits[1]) for x in read])
        return _clipped(result, limits.get(operation.output.number))

    exact = dataclasses.replace(graph, outputs=graph.scores())
    rounded, squares = exact.with_kernels(kernels), np.zeros((len(exact.outputs), 2))
    for start in range(0, len(inputs[0]), BATCH):
        batches = [np.asarray(array[start : start + BATCH], "float32") for array in inputs]
        given = [_clipped(batch, limits.get(value.number)) for value, batch in zip(graph.inputs, batches, strict=True)]
        squares += list(map(_squares, run_all(rounded, given, step=step), run_all(exact, batches)))
    return tuple(_relative(*sums) for sums in squares)


def _rounded_kernel(kernel, kind, scale, *, steps=127):
    """The kernel after rounding to at most `steps` steps on either side of 0, with a scale for each filter."""
    scale = scale.reshape(kernel.array.shape[2:]) if kind == "depthwise" else scale
    return np.clip(np.round(kernel.array / scale), -steps, steps) * scale


def _rounded_per_image(values, bits):
    """Values rounded in the steps of each image: 8 bits from its lowest to its highest value, others symmetrically."""
    axes = tuple(range(1, len(values.shape)))
    low = ops.minimum(ops.min(values, axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(values, axes, keepdims=True), 0.0)
    span, steps = (high - low, 2**8 - 1) if bits == 8 else (ops.maximum(high, -low), 2 ** (bits - 1) - 1)
    step = ops.maximum(span, 1e-12) / steps
    return ops.round(values / step) * step


def _clipped(values, limits):
    """Values clipped to the symmetric range that contains `limits`; unchanged if that is `None`."""
    if limits is None:
        return values
    furthest = max(map(abs, limits))
    return ops.clip(values, -furthest, furthest)


def _squares(rounded, exact):
    exact = np.asarray(exact, "float64")
    return np.array([np.sum((np.asarray(rounded) - exact) ** 2), np.sum(exact**2)])


def _relative(difference, size):
    return float(np.sqrt(difference / size)) if size else float(difference > 0)


def _rounded_value(quantized, number, numbers):
    quantization = quantized.values[number]
    scale, zero = float(quantization.scale), quantization.zero_point
    return (ops.clip(ops.round(numbers / scale) + zero, -128, 127) - zero) * scale


def _rounded_operations(quantized) -> list[Operation]:
    """The operations with rounded kernels and with rounded scales of affine operations."""
    kernels = {
        kernel: _rounded_kernel(kernel, users[0].kind, quantized.kernels[kernel].scale)
        for kernel, users in quantized.graph.uses().items()
    }
    operations = []
    for operation in quantized.graph.with_kernels(kernels).operations:
        if operation.kind == "affine":
            source = quantized.values[operation.inputs[0].number].scale
            integers, quantization = affine_quantization(operation.scale, operation.bias, source)
            operation = dataclasses.replace(operation, scale=(integers * quantization.scale).astype("float32"))
        operations.append(operation)
    return operations
