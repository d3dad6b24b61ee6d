"""Whether images are such as a network was trained on: int8 files that were calibrated with others lose their accuracy.

Comparing the file with Keras on the very images it was calibrated with cannot show it. What a network says about the
images that it takes can: the rescaling or normalization that it begins with, the moving statistics of its first batch
normalizations, the input range that quantization-aware training has learned, and how its scores vary.
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
from keras_sharenets.heads import end_of
from keras_sharenets.mobile.export.reference import keras_calls, run_keras
from keras_sharenets.mobile.export.representative_data import spread, synthetic_images

_IMAGES, _BATCH = 32, 8
_NORMALIZATIONS = 3
# The largest natural logarithm of the ratio of two variances, as the median over channels, and the largest distance of
# two means in standard deviations, at 90 % of the channels. CIFAR-10 networks had at most 0.9 and 1.1 on single images,
# images of one class, gray ones and such with red and blue exchanged; 2.4 to 5.6 and 2.0 on images scaled to 0..1, 2.0
# on images without their mean.
_VARIANCE_RATIO, _MEAN_DISTANCE = 1.5, 1.5
# The share of that up to which statistics agree; and the standard deviation of the logarithms of moving variances up to
# which they say nothing.
_AGREEMENT, _SPREAD_OF_UNTRAINED = 0.5, 0.1
# What a layer that normalizes or rescales makes of images that are meant for it: standard deviation, mean and range.
_SPREAD, _MEAN, _RANGE = (0.1, 5.0), 4.0, (0.05, 8.0)
# Bicubic resizing gives values a little outside of 0 to 255.
_PIXELS = (-32.0, 288.0)
# Standard deviations, over images, of probabilities that do not depend on the image, and of such that do: those of
# trained networks had 0.09 and more on images of the right range and less than 0.004 on such scaled to 0..1. Scores of
# networks trained on 0..1 had more than 100 on pixel values.
_FEW, _VARIATION, _SCORES_OF_TRAINED = 8, (0.005, 0.1), 10.0
_ADVICE = "Give a few hundred of the images that it was trained on, just as they were given to it."


@dataclasses.dataclass(frozen=True)
class Doubt:
    """Why images are not such as a network takes, and whether that is certain."""

    reason: str
    certain: bool = False


def check_images(
    model: keras.Model, images: np.ndarray, *, quantization: precisions.Quantization, graph: Graph | None = None
) -> None:
    """Refuses or warns of `representative_data` that is not what a network was trained on.

    Args:
        model: functional or sequential `keras.Model`, built.
        images: array `(n, height, width, channels)`.
        quantization: where [`precisions.needs_ranges`], as with `"int8"`, the images are what the file is calibrated
            with; else they only verify it.
        graph: the model as [`keras_sharenets.analysis.graph.trace`] gives it, where that is known already.

    Raises:
        ValueError: they are certainly not, and the file is calibrated with them.
    """
    for doubt in doubts(model, images, graph):
        message = f"`representative_data` {doubt.reason} {_ADVICE}"
        if doubt.certain and precisions.needs_ranges(quantization):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)  # That of who calls the export.


def doubts(model: keras.Model, images: np.ndarray, graph: Graph | None = None) -> list[Doubt]:
    """What speaks against images; arguments as in [`check_images`]. The first alone may be certain."""
    low, high = float(images.min()), float(images.max())
    if low == high:
        return [Doubt(f"holds the value {low:g} alone: no range can be measured on it.", certain=True)]
    found = []
    if all(np.array_equal(image, images[0]) for image in images[1:]):
        count = f"{len(images)} times the same image" if len(images) > 1 else "a single image"
        found.append(Doubt(f"is {count}: other images have values outside the ranges that are measured on it."))
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
                f"{values}, and `model` gives the same probabilities to all of its images, but not to images of pixel"
                " values from 0 to 255."
            )
        )
    learned = _learned_range(beginning, chosen)
    return [*found, Doubt(learned)] if learned else found


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """Whether something is `known` about the images, whether they `agree` with it, and the `reason` if they do not."""

    known: bool = False
    agree: bool = False
    reason: str = ""


def _beginning(graph: Graph) -> list[Call]:
    """The calls that prepare the input, one after the other."""
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
    # Augmentation does nothing in inference. Its layers have no public class in common.
    return isinstance(operation, kinds) or type(operation).__name__.startswith("Random")


def _prepared(beginning: list[Call], images: np.ndarray) -> np.ndarray:
    for call in beginning:
        if isinstance(call.operation, (keras.layers.Rescaling, keras.layers.Normalization)):
            images = np.asarray(call.operation(images), "float32")
    return images


def _preparation(beginning: list[Call], images: np.ndarray) -> _Evidence:
    """What the first layers make of the images, which is the same for all networks: numbers of a size of about 1."""
    layers = [call.operation for call in beginning if not isinstance(call.operation, ours.FakeQuantize)]
    prepared = _prepared(beginning, images)
    if np.allclose(prepared, images):
        return _Evidence()
    name = layers[-1].name
    ends = _prepared(beginning, np.stack([np.zeros_like(images[0]), np.full_like(images[0], 255)]))
    outside = images.min() < _PIXELS[0] or images.max() > _PIXELS[1]
    if isinstance(layers[-1], keras.layers.Normalization) and not layers[-1].invert:
        numbers = prepared.reshape(-1, prepared.shape[-1]).astype("float64")
        spread, mean = float(np.sqrt(numbers.var(axis=0).mean())), float(np.abs(numbers.mean(axis=0)).mean())
        if _SPREAD[0] <= spread <= _SPREAD[1] and mean <= _MEAN:
            if outside and np.abs(ends).max() <= _MEAN and np.ptp(ends, axis=0).max() >= 1:
                return _Evidence(known=True, reason=f"layer '{name}' of `model` normalizes pixel values from 0 to 255.")
            return _Evidence(known=True)
        return _Evidence(
            known=True,
            reason=f"layer '{name}' of `model`, which normalizes to mean 0 and standard deviation 1, makes a mean of"
            f" {mean:.2g} and a standard deviation of {spread:.2g} of them: their scale is not that of its statistics.",
        )
    low, high = float(prepared.min()), float(prepared.max())
    pixels = np.abs(ends).max() <= 2.01 and np.abs(ends[1] - ends[0]).max() >= 0.5
    takes = "it takes pixel values from 0 to 255" if pixels else "their scale is not the one that it takes"
    if high - low >= _RANGE[0] and max(high, -low) <= _RANGE[1] and not (pixels and outside):
        return _Evidence(known=True)
    return _Evidence(known=True, reason=f"layer '{name}' of `model` rescales them to {low:.2g} to {high:.2g}: {takes}.")


def _statistics(graph: Graph, images: np.ndarray) -> _Evidence:
    """Compares the moving statistics of the first batch normalizations with what the images cause there.

    A moving variance begins at 1 and a moving mean at 0, and a share of that beginning is still in them after a short
    training: at most the smallest variance. If there is a share with which the images explain the statistics, nothing
    speaks against them; so an untrained network agrees with everything, and nothing is known of it.
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
    if not np.isfinite(distance).all():  # Whatever is wrong with such a network, it says nothing of the images.
        return _Evidence(known=True)
    if max(distance) <= 1:
        return _Evidence(known=True, agree=max(distance) <= _AGREEMENT)
    if any(_explained(first, seen, share) for share in np.linspace(0, max(largest, 0), 17)[1:]):
        return _Evidence()
    what = "another variance" if distance[0] > 1 else "another mean"
    return _Evidence(
        known=True,
        reason=f"they cause {what} at layer '{first[0].path}' and those behind it than those that `model` has seen in"
        " training: they are scaled or chosen differently.",
    )


def _normalizes_channels(call: Call) -> bool:
    return call.operation.axis in (-1, len(call.inputs[0].shape) - 1)


def _array(values) -> np.ndarray:
    return np.asarray(values, "float64")


def _measured(graph: Graph, wanted: list[Call], images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each channel that the wanted calls read.

    Of images, the middle half of rows and columns is measured: the zeros of padding vary even where nothing else does.
    """
    totals = [[0, 0.0, 0.0] for _ in wanted]
    for start in range(0, len(images), _BATCH):
        waiting = list(wanted)
        for call, inputs, _ in keras_calls(graph, (images[start : start + _BATCH],)):
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
    """How far statistics are apart, as shares of what is allowed: of variances, and of means in the first layer."""
    layer, mean = calls[0].operation, seen[0][0]
    with np.errstate(all="ignore"):
        ratios = [_variance_ratios(call, share, *found) for call, found in zip(calls, seen, strict=True)]
        means = np.abs(_array(layer.moving_mean) - (1 - share) * mean)
        means /= np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    ratio = max(float(np.median(np.abs(each))) for each in ratios)
    return ratio / _VARIANCE_RATIO, float(np.percentile(means, 90)) / _MEAN_DISTANCE


def _variance_ratios(call: Call, share: float, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Logarithms of expected by moving variances, channel by channel."""
    floor = 1e-3 * call.operation.epsilon
    return np.log((share + (1 - share) * variance + floor) / (_array(call.operation.moving_variance) + floor))


def _explained(calls: list[Call], seen: list[tuple[np.ndarray, np.ndarray]], share: float) -> bool:
    """Whether statistics with a share of their beginning in them are those of the images, channel by channel."""
    if max(_distance(calls, seen, share)) > 1:
        return False
    spread = np.log(_array(calls[0].operation.moving_variance)).std()
    return spread < _SPREAD_OF_UNTRAINED or _variance_ratios(calls[0], share, *seen[0]).std() < spread / 2


def _constant_scores(model: keras.Model, graph: Graph, images: np.ndarray) -> bool:
    """Whether a classifier says the same of all these images, and not of synthetic ones of pixel values from 0 to 255.

    So does an untrained network of small values, but its biases are 0, or its scores are large where values are.
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
    """What speaks against images beside the ranges that quantization-aware training has learned at the beginning."""
    for index, call in enumerate(beginning):
        if isinstance(call.operation, ours.FakeQuantize):
            # That of the input, then one of what each layer makes of it.
            values = _prepared(beginning[:index], images)
            low, high = float(values.min()), float(values.max())
            start, end = map(float, call.operation.range())
            if end > start and not 0.1 < (max(high, 0.0) - min(low, 0.0)) / (end - start) < 10:
                return (
                    f"has values from {low:g} to {high:g}, but quantization-aware training has seen values from"
                    f" {start:g} to {end:g}."
                )
    return ""
