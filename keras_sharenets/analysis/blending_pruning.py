"""Magnitude pruning of the blending layers of a ShardNet.

Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 5.2, figure 5.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.analysis.blending import blending_layers
from keras_sharenets.analysis.copying import copy_network
from keras_sharenets.analysis.counting import count_parameters

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RANKINGS = ("global", "per_layer")


@dataclasses.dataclass(frozen=True)
class Pruning:
    """The number of pruned weights of a network.

    Attributes:
        zeroed: int, number of blending weights that were set to 0.
        total: int, number of weights of all blending layers, without biases.
        convolutions: int, number of parameters of all convolutions, including biases and zeroed weights (the paper's
            |W_conv|).
        baseline: int, number of parameters of the convolutions of a baseline network, or `None`.
    """

    zeroed: int
    total: int
    convolutions: int
    baseline: int | None = None

    @property
    def remaining(self) -> int:
        """Number of parameters of all convolutions that were not set to 0."""
        return self.convolutions - self.zeroed

    @property
    def compression(self) -> float | None:
        """Ratio of the baseline's parameters to the remaining ones (the paper's C); `None` without a baseline."""
        return None if self.baseline is None else self.baseline / self.remaining


@dataclasses.dataclass(frozen=True)
class CurveRow:
    """The accuracy of a pruned network.

    Attributes:
        fraction: float, requested fraction of blending weights to set to 0.
        zeroed, remaining, compression: as in `Pruning`.
        accuracy: float, accuracy from 0 to 1.
    """

    fraction: float
    zeroed: int
    remaining: int
    compression: float | None
    accuracy: float


class _Pruner:
    """A copy of a network, and its blending weights in pruning order."""

    def __init__(self, model: keras.Model, layers: Sequence[str] | None, ranking: str, baseline: int | None):
        _checks.one_of("ranking", ranking, RANKINGS)
        if baseline is not None:
            _checks.positive("baseline", baseline)
        blending = blending_layers(model, layers)
        self.kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in blending.values()]
        pools = [self.kernels] if ranking == "global" else [[kernel] for kernel in self.kernels]
        self.pools = [np.concatenate([kernel.ravel() for kernel in pool]) for pool in pools]
        # A stable sort: among equal weights, the earlier one is pruned first.
        self.orders = [np.argsort(np.abs(weights), kind="stable") for weights in self.pools]
        self.convolutions = count_parameters(model, "conv_kernels_and_biases")
        self.baseline = baseline
        self.model = copy_network(model)
        self.layers = list(blending_layers(self.model, list(blending)).values())

    def prune(self, fraction: float) -> Pruning:
        """Sets the smallest weights of the copy to 0 and restores the others; returns a `Pruning`."""
        zeroed, pools = 0, []
        for weights, order in zip(self.pools, self.orders, strict=True):
            count = math.floor(fraction * weights.size)
            weights = weights.copy()
            weights[order[:count]] = 0
            pools.append(weights)
            zeroed += count
        weights, start = np.concatenate(pools), 0
        for layer, kernel in zip(self.layers, self.kernels, strict=True):
            layer.kernel.assign(weights[start : start + kernel.size].reshape(kernel.shape))
            start += kernel.size
        return Pruning(zeroed, weights.size, self.convolutions, self.baseline)


def prune_blending(
    model: keras.Model,
    fraction: float,
    *,
    layers: Sequence[str] | None = None,
    ranking: str = "global",
    baseline: int | None = None,
) -> tuple[keras.Model, Pruning]:
    """Copies a network and sets the smallest weights of its blending layers to 0, without retraining.

    Args:
        model, layers: as for [`keras_sharenets.analysis.blending.blending_layers`]. `model` is not changed.
        fraction: float, at least 0 and below 1. The `floor(fraction * number of weights)` weights with the smallest
            magnitude are set to 0. Among equal weights, those earlier in the network, and then in the kernel, come
            first. Biases are not pruned.
        ranking: `"global"` ranks the weights of all blending layers together, `"per_layer"` prunes the fraction in each
            layer. The paper does not specify it.
        baseline: int, number of parameters of the convolutions of a baseline network, or `None`.

    Returns:
        `(pruned, report)`: a `keras.Model` that shares layers like `model`, and a `Pruning`.

    Raises:
        ValueError: an argument violates one of these rules, or there are no blending layers.

    >>> images = keras.Input((8, 8, 4))
    >>> model = keras.Model(images, keras.layers.Conv2D(4, 1, name="blend1")(images))
    >>> pruned, report = prune_blending(model, 0.6, baseline=110)
    >>> report.zeroed, report.total, report.remaining, report.compression
    (9, 16, 11, 10.0)
    """
    _checks.rate("fraction", fraction)
    pruner = _Pruner(model, layers, ranking, baseline)
    report = pruner.prune(fraction)
    return pruner.model, report


def pruning_curve(
    model: keras.Model,
    images: Any,
    labels: Any,
    fractions: Sequence[float] = FRACTIONS,
    *,
    layers: Sequence[str] | None = None,
    ranking: str = "global",
    baseline: int | None = None,
    batch_size: int | None = None,
    on_row: Callable[[CurveRow], None] | None = None,
) -> list[CurveRow]:
    """Computes the accuracy of a classifier for several fractions of pruned blending weights: the paper's figure 5.

    Every fraction starts from the weights of `model`, which is not changed, even if the function is interrupted.

    Args:
        model, layers, ranking, baseline: as for [`prune_blending`].
        images: array of images, or any other input of `model.predict`.
        labels: int array `(images,)`, class indices; 0 and 1 for a network that ends in one sigmoid.
        fractions: sequence of floats, each at least 0 and below 1.
        batch_size: as for `model.predict`.
        on_row: function called with each row as soon as it is available, or `None`.

    Returns:
        A list of `CurveRow`, one per fraction.

    Raises:
        ValueError: an argument violates one of these rules, there are no blending layers, `model` is not a classifier,
            or the number of labels is not the number of images.
    """
    for fraction in fractions:
        _checks.rate("fractions", fraction)
    from keras_sharenets.heads import head_of  # At the top, the two modules would import each other.

    labels = _checks.class_labels("labels", labels)
    pruner = _Pruner(model, layers, ranking, baseline)
    head, rows = head_of(model), []
    if not head.classes:
        raise ValueError(f"`model` (='{model.name}') must be a classifier: its output is one number without a sigmoid.")
    for fraction in fractions:
        report = pruner.prune(fraction)
        scores = np.asarray(pruner.model.predict(images, batch_size=batch_size, verbose=0))
        if scores.ndim != 2 or len(scores) != len(labels):
            raise ValueError(
                f"The number of `labels` (={len(labels)}) must be the number of rows of `model`'s output "
                f"(={scores.shape})."
            )
        accuracy = float(head.correct(scores, labels).mean())
        row = CurveRow(float(fraction), report.zeroed, report.remaining, report.compression, accuracy)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows
