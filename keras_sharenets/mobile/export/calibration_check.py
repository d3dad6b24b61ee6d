"""Checks of whether images are like the training images: int8 files calibrated with other images lose accuracy.

Comparing the file with Keras on the calibration images cannot detect this. The network itself can: its initial
rescaling or normalization, the moving statistics of its first batch normalizations, the input range learned in
quantization-aware training, and the variation of its scores.
"""

from __future__ import annotations

import collections
import dataclasses
import warnings

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets import precisions
from keras_sharenets.analysis.graph import Call, Graph, trace
from keras_sharenets.analysis.running import run_calls
from keras_sharenets.heads import end_of
from keras_sharenets.mobile.export.reference import run_keras
from keras_sharenets.mobile.export.representative_data import spread, synthetic_images
from keras_sharenets.mobile.graph.quantization import PIXELS, are_pixels

_IMAGES, _BATCH = 32, 8
_NORMALIZATIONS = 3
# Limits of the natural logarithm of the ratio of two variances (median over channels) and of the distance of two means
# in standard deviations (90th percentile of the channels). CIFAR-10 networks had at most 0.9 and 1.1 on single images,
# images of one class, grayscale images and images with red and blue swapped; 2.4 to 5.6 and 2.0 on images scaled to
# 0..1, and 2.0 on images without their mean.
_VARIANCE_RATIO, _MEAN_DISTANCE = 1.5, 1.5
# The fraction of these limits up to which statistics agree; and the standard deviation of the logarithms of moving
# variances below which they provide no evidence.
_AGREEMENT, _SPREAD_OF_UNTRAINED = 0.5, 0.1
# Results of a normalization or rescaling layer for suitable images: standard deviation, mean and range.
_SPREAD, _MEAN, _RANGE = (0.1, 5.0), 4.0, (0.05, 8.0)
# Standard deviations over images: of probabilities that do not depend on the image, of probabilities that do, and of
# scores. Trained networks had at least 0.09 on images of the right range and less than 0.004 on images scaled to 0..1.
# Scores of networks trained on 0..1 had more than 100 on pixel values.
_FEW, _VARIATION, _SCORES_OF_TRAINED = 8, (0.005, 0.1), 10.0
_ADVICE = "Pass a few hundred of its training images, preprocessed as in training."


@dataclasses.dataclass(frozen=True)
class Doubt:
    """Reason why images do not suit a network, and whether it is certain."""

    reason: str
    certain: bool = False


def check_images(
    model: keras.Model, images: np.ndarray, *, quantization: precisions.Quantization, graph: Graph | None = None
) -> None:
    """Raises an error or warns if `representative_data` is not like the training images of a network.

    Args:
        model: built functional or sequential `keras.Model`.
        images: array `(n, height, width, channels)`.
        quantization: precision of the file; if [`precisions.needs_ranges`], as for `"int8"`, the images calibrate the
            file, otherwise they only verify it.
        graph: trace of the model by [`keras_sharenets.analysis.graph.trace`], if available.

    Raises:
        ValueError: the images are certainly unsuitable, and calibrate the file.
    """
    for doubt in doubts(model, images, graph):
        message = f"`representative_data` {doubt.reason} {_ADVICE}"
        if doubt.certain and precisions.needs_ranges(quantization):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)  # Points to the caller of the export.


def doubts(model: keras.Model, images: np.ndarray, graph: Graph | None = None) -> list[Doubt]:
    """Doubts about images; arguments as in [`check_images`]. Only the first may be certain."""
    low, high = float(images.min()), float(images.max())
    if low == high:
        return [Doubt(f"contains only the value {low:g}: no range can be measured on it.", certain=True)]
    found = []
    if all(np.array_equal(image, images[0]) for image in images[1:]):
        count = f"{len(images)} times the same image" if len(images) > 1 else "a single image"
        found.append(Doubt(f"is {count}: other images have values outside the ranges measured on it."))
    chosen = spread(images, _IMAGES).astype("float32")
    graph = graph or trace(model)
    beginning = _beginning(graph)
    values = f"has values from {low:g} to {high:g}"
    prepared = _preparation(beginning, chosen)
    statistics = _statistics(graph, chosen)
    if prepared.reason and not statistics.agree:
        found.insert(0, Doubt(f"{values}, but {prepared.reason}", certain=bool(statistics.reason)))
    elif statistics.reason:
        found.insert(0, Doubt(f"{values}, but {statistics.reason}"))
    elif not (prepared.known or statistics.known or found) and _constant_scores(model, graph, chosen):
        found.append(
            Doubt(
                f"{values}, and `model` gives the same probabilities for all of its images, but not for images with"
                " pixel values from 0 to 255."
            )
        )
    learned = _learned_range(beginning, chosen)
    return [*found, Doubt(learned)] if learned else found


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """Whether there is evidence (`known`), whether the images `agree` with it, and the `reason` if they do not."""

    known: bool = False
    agree: bool = False
    reason: str = ""


def _beginning(graph: Graph) -> list[Call]:
    """The calls that preprocess the input, in order."""
    found: list[Call] = []
    tensor = graph.inputs[0]
    while True:
        readers = [call for call in graph.calls if tensor in call.inputs]
        if len(readers) != 1 or not _prepares(readers[0].operation):
            return found
        found.append(readers[0])
        (tensor,) = readers[0].outputs


def _prepares(operation: keras.Operation) -> bool:
    kinds = (keras.layers.Rescaling, keras.layers.Normalization, ours.FakeQuantize, keras.layers.Identity)
    # Augmentation does nothing in inference. Its layers have no public base class.
    return isinstance(operation, kinds) or type(operation).__name__.startswith("Random")


def _prepared(beginning: list[Call], images: np.ndarray) -> np.ndarray:
    for call in beginning:
        if isinstance(call.operation, (keras.layers.Rescaling, keras.layers.Normalization)):
            images = np.asarray(call.operation(images), "float32")
    return images


def _prepared_ends(beginning: list[Call], shape: tuple[int, ...]) -> np.ndarray:
    """The preprocessed images of only zeros and of only 255."""
    return _prepared(beginning, np.stack([np.zeros(shape, "float32"), np.full(shape, 255, "float32")]))


def takes_pixels(graph: Graph, images: np.ndarray | None = None) -> bool:
    """Whether a network is known to take pixel values from 0 to 255, by its first layers or by images for it."""
    _, *shape = graph.inputs[0].shape
    ends = _prepared_ends(_beginning(graph), tuple(shape))
    if np.abs(ends).max() <= _MEAN and np.ptp(ends) > 0:
        return True
    return images is not None and are_pixels(images.min(), images.max(), images)


def _preparation(beginning: list[Call], images: np.ndarray) -> _Evidence:
    """Checks the preprocessed images, which have a magnitude of about 1 in all networks."""
    layers = [call.operation for call in beginning if not isinstance(call.operation, ours.FakeQuantize)]
    prepared = _prepared(beginning, images)
    if np.allclose(prepared, images):
        return _Evidence()
    name = layers[-1].name
    ends = _prepared_ends(beginning, images.shape[1:])
    outside = images.min() < PIXELS[0] or images.max() > PIXELS[1]
    if isinstance(layers[-1], keras.layers.Normalization) and not layers[-1].invert:
        numbers = prepared.reshape(-1, prepared.shape[-1]).astype("float64")
        spread, mean = float(np.sqrt(numbers.var(axis=0).mean())), float(np.abs(numbers.mean(axis=0)).mean())
        if _SPREAD[0] <= spread <= _SPREAD[1] and mean <= _MEAN:
            if outside and np.abs(ends).max() <= _MEAN and np.ptp(ends, axis=0).max() >= 1:
                return _Evidence(known=True, reason=f"layer '{name}' of `model` normalizes pixel values from 0 to 255.")
            return _Evidence(known=True)
        return _Evidence(
            known=True,
            reason=f"layer '{name}' of `model`, which normalizes to mean 0 and standard deviation 1, gives them a mean"
            f" of {mean:.2g} and a standard deviation of {spread:.2g}: their scale does not match its statistics.",
        )
    low, high = float(prepared.min()), float(prepared.max())
    pixels = np.abs(ends).max() <= 2.01 and np.abs(ends[1] - ends[0]).max() >= 0.5
    takes = "it takes pixel values from 0 to 255" if pixels else "it takes images of another scale"
    if high - low >= _RANGE[0] and max(high, -low) <= _RANGE[1] and not (pixels and outside):
        return _Evidence(known=True)
    return _Evidence(known=True, reason=f"layer '{name}' of `model` rescales them to {low:.2g} to {high:.2g}: {takes}.")


def _statistics(graph: Graph, images: np.ndarray) -> _Evidence:
    """Compares the moving statistics of the first batch normalizations with those of the images.

    A moving variance is initialized to 1 and a moving mean to 0. After short training, a fraction of this initial value
    remains, at most the smallest variance. If the images explain the statistics with some such fraction, there is no
    evidence against them; an untrained network is therefore compatible with all images and provides no evidence.
    """
    calls = [call for call in graph.calls if isinstance(call.operation, keras.layers.BatchNormalization)]
    uses = collections.Counter(id(call.operation) for call in calls)
    calls = [call for call in calls if uses[id(call.operation)] == 1 and _normalizes_channels(call)]
    if not calls:
        return _Evidence()
    largest = min(1.0, *(float(np.min(_array(call.operation.moving_variance))) for call in calls))
    first = calls[:_NORMALIZATIONS]
    seen = _measured(graph, first, images)
    distance = _distance(first, seen, 0.0)
    if not np.isfinite(distance).all():  # The network is broken, which is no evidence about the images.
        return _Evidence(known=True)
    if max(distance) <= 1:
        return _Evidence(known=True, agree=max(distance) <= _AGREEMENT)
    if any(_explained(first, seen, share) for share in np.linspace(0, max(largest, 0), 17)[1:]):
        return _Evidence()
    what = "variance" if distance[0] > 1 else "mean"
    return _Evidence(
        known=True,
        reason=f"their {what} at layer '{first[0].path}' and the next ones differs from the training statistics of"
        " `model`: they are scaled or selected differently.",
    )


def _normalizes_channels(call: Call) -> bool:
    return call.operation.axis in (-1, len(call.inputs[0].shape) - 1)


def _array(values) -> np.ndarray:
    return np.asarray(values, "float64")


def _measured(graph: Graph, wanted: list[Call], images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each input channel of the given calls.

    For images, only the middle half of rows and columns is measured, because zero padding adds variance.
    """
    totals = [[0, 0.0, 0.0] for _ in wanted]
    for start in range(0, len(images), _BATCH):
        waiting = list(wanted)
        for call, inputs, _ in run_calls(graph, (images[start : start + _BATCH],)):
            if call in waiting:
                numbers, total = _middle(_array(inputs[0])), totals[wanted.index(call)]
                total[0] += len(numbers)
                total[1] += numbers.sum(axis=0)
                total[2] += np.square(numbers).sum(axis=0)
                waiting.remove(call)
            if not waiting:
                break
    means = [(total / count, squares / count) for count, total, squares in totals]
    return [(mean, np.maximum(square - mean**2, 0)) for mean, square in means]


def _middle(values: np.ndarray) -> np.ndarray:
    if values.ndim == 4:
        rows, columns = (side // 4 for side in values.shape[1:3])
        values = values[:, rows : values.shape[1] - rows, columns : values.shape[2] - columns]
    return values.reshape(-1, values.shape[-1])


def _distance(calls: list[Call], seen: list[tuple[np.ndarray, np.ndarray]], share: float) -> tuple[float, float]:
    """Distances of the statistics relative to the limits: of variances, and of means in the first layer."""
    layer, mean = calls[0].operation, seen[0][0]
    with np.errstate(all="ignore"):
        ratios = [_variance_ratios(call, share, *found) for call, found in zip(calls, seen, strict=True)]
        means = np.abs(_array(layer.moving_mean) - (1 - share) * mean)
        means /= np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    ratio = max(float(np.median(np.abs(each))) for each in ratios)
    return ratio / _VARIANCE_RATIO, float(np.percentile(means, 90)) / _MEAN_DISTANCE


def _variance_ratios(call: Call, share: float, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Logarithms of the ratios of expected to moving variances, for each channel."""
    floor = 1e-3 * call.operation.epsilon
    return np.log((share + (1 - share) * variance + floor) / (_array(call.operation.moving_variance) + floor))


def _explained(calls: list[Call], seen: list[tuple[np.ndarray, np.ndarray]], share: float) -> bool:
    """Whether the images explain the statistics, given the remaining fraction of their initial values."""
    if max(_distance(calls, seen, share)) > 1:
        return False
    spread = np.log(_array(calls[0].operation.moving_variance)).std()
    return spread < _SPREAD_OF_UNTRAINED or _variance_ratios(calls[0], share, *seen[0]).std() < spread / 2


def _constant_scores(model: keras.Model, graph: Graph, images: np.ndarray) -> bool:
    """Whether a classifier gives the same output for all these images, but not for synthetic ones from 0 to 255.

    An untrained network does the same for small values, but its biases are 0, or its scores are large for large values.
    """
    biases = [np.asarray(weight) for weight in model.trainable_weights if len(weight.shape) == 1]
    if len(images) < _FEW or len(graph.outputs) > 1 or not any(bias.any() for bias in biases):
        return False
    given, other = (run_keras(model, each) for each in (images, synthetic_images(images.shape[1:])))
    if end_of(graph):
        scores = np.log(np.maximum(other, np.finfo("float32").tiny))
    else:
        scores = other
        given, other = (np.asarray(keras.ops.softmax(each)) for each in (given, other))
    given, other = (each.std(axis=0).max() for each in (given, other))
    return scores.std(axis=0).max() <= _SCORES_OF_TRAINED and given < _VARIATION[0] and other > _VARIATION[1]


def _learned_range(beginning: list[Call], images: np.ndarray) -> str:
    """Evidence against images from the ranges that quantization-aware training has learned for the first layers."""
    for index, call in enumerate(beginning):
        if isinstance(call.operation, ours.FakeQuantize):
            # The range of the input, then the range after each layer.
            values = _prepared(beginning[:index], images)
            low, high = float(values.min()), float(values.max())
            start, end = map(float, call.operation.range())
            if end > start and not 0.1 < (max(high, 0.0) - min(low, 0.0)) / (end - start) < 10:
                return (
                    f"has values from {low:g} to {high:g}, but quantization-aware training saw values from"
                    f" {start:g} to {end:g}."
                )
    return ""
