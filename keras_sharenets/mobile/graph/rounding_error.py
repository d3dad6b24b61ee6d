"""What integers cost: how far a quantized graph is from the same graph in float, in all and layer by layer.

The graph is computed with the numbers that its integers stand for: kernels, scales and every value are rounded and
clipped as they are in the file. What a file differs by beyond that is no rounding.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_sharenets.mobile.graph.inference_graph import PROBABILITIES, Constant, Operation, compute
from keras_sharenets.mobile.graph.quantization import DATA_MOVEMENT, QuantizedGraph, affine_quantization

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class RoundingError:
    """The error that integers make, as a share of the length of the numbers in float.

    Attributes:
        scores: that of the scores, with everything rounded.
        score_step: the step between two scores that integers can stand for, as a share of their root mean square.
        layers: `{layer: error}`: that of a layer's output where this layer alone is rounded.
    """

    scores: float
    score_step: float
    layers: dict[str, float]

    @property
    def worst_layer(self) -> str | None:
        """The layer that loses most; `None` if none does."""
        return max(self.layers, key=self.layers.__getitem__, default=None)


def rounding_error(quantized: QuantizedGraph, images: np.ndarray) -> RoundingError:
    """The `RoundingError` of a quantized graph on images, an array `(n, height, width, channels)`."""
    graph, rounded = quantized.graph, _rounded_operations(quantized)
    wanted = graph.scores().number
    squares: dict[Any, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
    for start in range(0, len(images), _BATCH):
        batch = ops.convert_to_tensor(np.asarray(images[start : start + _BATCH], "float32"))
        exact = {graph.input.number: batch}
        integer = {graph.input.number: _rounded_value(quantized, graph.input.number, batch)}
        remaining = {number: len(readers) for number, readers in graph.consumers().items()}
        for operation, same in zip(graph.operations, rounded, strict=True):
            number = operation.output.number
            inputs = [exact[value.number] for value in operation.inputs]
            exact[number] = compute(operation, inputs)
            integer[number] = _rounded_value(
                quantized, number, compute(same, [integer[value.number] for value in operation.inputs])
            )
            if operation.kind not in (*DATA_MOVEMENT, *PROBABILITIES):
                alone = _rounded_value(quantized, number, compute(same, inputs))
                squares[operation.site, number] += _squares(alone, exact[number])
            if number == wanted:
                squares["scores"] += _squares(integer[number], exact[number])
            for value in operation.inputs:
                remaining[value.number] -= 1
                if not remaining[value.number] and value.number != wanted:
                    del exact[value.number], integer[value.number]
    layers: dict[str, float] = {}
    for key, sums in squares.items():
        if key != "scores":
            (name, _), _ = key
            layers[name] = max(layers.get(name, 0.0), _relative(*sums))
    difference, size = squares["scores"]
    count = len(images) * np.prod(graph.scores().shape)
    step = float(quantized.values[wanted].scale) / max(np.sqrt(size / count), np.finfo("float32").tiny)
    return RoundingError(_relative(difference, size), step, layers)


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
    """The operations with the kernels, and the scales that stand alone, that their integers stand for."""
    kernels = {}
    for kernel, users in quantized.graph.uses().items():
        scale = quantized.kernels[kernel].scale
        scale = scale.reshape(kernel.array.shape[2:]) if users[0].kind == "depthwise" else scale
        array = np.clip(np.round(kernel.array / scale), -127, 127) * scale
        kernels[kernel] = Constant(kernel.name, array.astype("float32"))
    operations = []
    for operation in quantized.graph.operations:
        if operation.kernel is not None:
            operation = dataclasses.replace(operation, kernel=kernels[operation.kernel])
        elif operation.kind == "affine":
            source = quantized.values[operation.inputs[0].number].scale
            integers, quantization = affine_quantization(operation.scale, operation.bias, source)
            operation = dataclasses.replace(operation, scale=(integers * quantization.scale).astype("float32"))
        operations.append(operation)
    return operations
