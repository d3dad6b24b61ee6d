"""Measurements on sample images: the inputs of convolutions, and the statistics of normalizations."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets._types import Tensor
from keras_sharenets.analysis.graph import Call, Graph
from keras_sharenets.analysis.running import run_call, run_calls
from keras_sharenets.sharing.places import Place, normalizes_channels, numpy_of
from keras_sharenets.sharing.shared_kernels import one_thread

# Maximum number of sampled patches per call, and of numbers in a patch. Second moments of longer patches are not
# measured, because solving for the kernel would take minutes; its weights are approximated instead.
_MOST_PATCHES, _LONGEST_PATCH = 8192, 2500


@dataclasses.dataclass(frozen=True)
class Samples:
    """Statistics of a network on sample images.

    Attributes:
        moments: second moments of the patches that a convolution reads, by its path; centered if a normalization, whose
            statistics are re-estimated, removes the mean.
        statistics: mean and variance of the inputs of each batch normalization, by the identity of the layer.
    """

    moments: dict[str, np.ndarray]
    statistics: dict[int, tuple[np.ndarray, np.ndarray]]


def as_inputs(model: keras.Model, sample_images: Any) -> list[np.ndarray]:
    """Sample images as one array per input of a model.

    Raises:
        ValueError: they do not fit the inputs of the model.
    """
    given = sample_images if isinstance(sample_images, (tuple, list)) else [sample_images]
    arrays = [np.asarray(images) for images in given]
    wanted = [tuple(tensor.shape) for tensor in model.inputs]
    fits = len(arrays) == len(wanted) and all(
        array.ndim == len(shape) and all(side in (None, have) for side, have in zip(shape, array.shape, strict=True))
        for array, shape in zip(arrays, wanted, strict=True)
    )
    if not fits or not len(arrays[0]):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"`sample_images` (of shape {shapes}) must be at least one image for inputs of {wanted}.")
    if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        raise ValueError("`sample_images` must contain only finite numbers.")
    return arrays


def _watch(graph: Graph, inputs: Sequence[np.ndarray], look: Callable[[Call, list[Tensor]], None]) -> None:
    """Runs a network call by call, and passes each call with its inputs to `look` before it runs."""

    def run(call, given):
        look(call, given)
        return run_call(call, given)

    for _ in run_calls(graph, inputs, run):
        pass


def _statistics(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(keras.ops.convert_to_numpy(x), np.float64).reshape(-1, x.shape[-1])
    return rows.mean(axis=0), rows.var(axis=0)


def _patches(images: np.ndarray, layer: keras.layers.Conv2D, random: np.random.Generator) -> np.ndarray:
    """Patches that a convolution reads, one per row, in the order of its kernel: all or a random sample."""
    sides, padding = [], []
    for size, side, step, dilation in zip(
        images.shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        reach = (side - 1) * dilation + 1
        outputs = -(-size // step) if layer.padding == "same" else (size - reach) // step + 1
        missing = max((outputs - 1) * step + reach - size, 0) if layer.padding == "same" else 0
        sides.append((outputs, side, step, dilation))
        padding.append((missing // 2, missing - missing // 2))
    padded = np.pad(images, ((0, 0), *padding, (0, 0)))
    (rows, height, row_step, row_dilation), (columns, width, column_step, column_dilation) = sides
    total = len(images) * rows * columns
    picked = np.arange(total) if total <= _MOST_PATCHES else random.choice(total, _MOST_PATCHES, replace=False)
    image, row, column = np.unravel_index(picked, (len(images), rows, columns))
    row = row[:, None, None] * row_step + np.arange(height)[:, None] * row_dilation
    column = column[:, None, None] * column_step + np.arange(width) * column_dilation
    return padded[image[:, None, None], row, column].reshape(len(picked), -1)


@one_thread
def measure_samples(graph: Graph, places: Sequence[Place], inputs: Sequence[np.ndarray]) -> Samples:
    """Runs a network on sample images and collects the statistics for fitting shared kernels."""
    place_of = {id(call): place for place in places for call in place.calls}
    random = np.random.default_rng(0)
    sums: dict[str, list] = {}
    seen: dict[int, list] = collections.defaultdict(list)

    def look(call: Call, given: list[Tensor]) -> None:
        if normalizes_channels(call):
            seen[id(call.operation)].append(_statistics(given[0]))
        place = place_of.get(id(call))
        if place is None or place.layer.groups > 1:
            return
        if np.prod(place.layer.kernel.shape[:3]) > _LONGEST_PATCH:
            return
        rows = _patches(np.asarray(keras.ops.convert_to_numpy(given[0]), np.float32), place.layer, random)
        rows = rows.astype(np.float64)
        total = sums.setdefault(place.path, [0, 0.0, 0.0])
        for place_in_sum, part in enumerate((len(rows), rows.sum(axis=0), rows.T @ rows)):
            total[place_in_sum] = total[place_in_sum] + part

    _watch(graph, inputs, look)
    moments = {}
    for place in places:
        if place.path in sums:
            count, total, squares = sums[place.path]
            mean = total / count if place.norms else np.zeros_like(total)
            moments[place.path] = squares / count - np.outer(mean, mean)
    return Samples(moments, {number: _joined(parts) for number, parts in seen.items()})


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the union of several sets of equal size."""
    means, variances = (np.stack(column) for column in zip(*parts, strict=True))
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)


def measure_normalizations(
    graph: Graph, inputs: Sequence[np.ndarray], expected: dict[int, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Re-estimates the moving statistics of a network on sample images, one normalization after the other.

    `expected` maps the identity of each layer to the mean and variance of the images in the original network. The
    moving statistics change as the statistics of the images did, so that the normalized images stay the same: a few
    images show how the networks differ, but not the statistics of all training images. Where nothing has changed, the
    statistics stay the same.

    Layers that are called several times keep their statistics, which belong to all their calls.
    """
    calls = collections.Counter(id(call.operation) for call in graph.calls)

    def look(call: Call, given: list[Tensor]) -> None:
        norm = call.operation
        if id(norm) not in expected or calls[id(norm)] > 1:
            return
        mean, variance = _statistics(given[0])
        expected_mean, expected_variance = expected[id(norm)]
        growth = (variance + norm.epsilon) / (expected_variance + norm.epsilon)
        norm.moving_mean.assign(mean - (expected_mean - numpy_of(norm.moving_mean)) * np.sqrt(growth))
        norm.moving_variance.assign(
            np.maximum((numpy_of(norm.moving_variance) + norm.epsilon) * growth - norm.epsilon, 0)
        )

    _watch(graph, inputs, look)
