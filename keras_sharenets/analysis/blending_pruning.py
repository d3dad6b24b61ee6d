"""What remains of a ShardNet when the smallest weights of its blending layers are set to 0.

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
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.graph import copy_network

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RANKINGS = ("global", "per_layer")


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How much of a network has been set to 0.

    Attributes:
        zeroed: int, weights of blending layers that were set to 0.
        total: int, weights of all blending layers; biases are none of them.
        convolutions: int, parameters of all convolutions with their biases, zeroed ones included (the paper's
            |W_conv|).
        baseline: int, those of a network to compare with, or `None`.
    """

    zeroed: int
    total: int
    convolutions: int
    baseline: int | None = None

    @property
    def remaining(self) -> int:
        """Parameters of all convolutions that were not set to 0."""
        return self.convolutions - self.zeroed

    @property
    def compression(self) -> float | None:
        """Parameters of the baseline for each remaining one (the paper's C); `None` without a baseline."""
        return None if self.baseline is None else self.baseline / self.remaining


@dataclasses.dataclass(frozen=True)
class CurveRow:
    """A pruned network on test images.

    Attributes:
        fraction: float, the part of the blending weights that was to be set to 0.
        zeroed, remaining, compression: as in `Pruning`.
        accuracy: float, the share of images that are classified right.
    """

    fraction: float
    zeroed: int
    remaining: int
    compression: float | None
    accuracy: float


class _Pruner:
    """A copy of a network, and its blending weights in the order in which they are set to 0."""

    def __init__(self, model: keras.Model, layers: Sequence[str] | None, ranking: str, baseline: int | None):
        _checks.one_of("ranking", ranking, RANKINGS)
        if baseline is not None:
            _checks.positive("baseline", baseline)
        blending = blending_layers(model, layers)
        self.kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in blending.values()]
        pools = [self.kernels] if ranking == "global" else [[kernel] for kernel in self.kernels]
        self.pools = [np.concatenate([kernel.ravel() for kernel in pool]) for pool in pools]
        # A stable sort: of equal weights the earlier one goes first.
        self.orders = [np.argsort(np.abs(weights), kind="stable") for weights in self.pools]
        self.convolutions = count_parameters(model, "conv_kernels_and_biases")
        self.baseline = baseline
        self.model = copy_network(model)
        self.layers = list(blending_layers(self.model, list(blending)).values())

    def prune(self, fraction: float) -> Pruning:
        """Sets the smallest weights of the copy to 0, the others to those of the model; returns a `Pruning`."""
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
    """A copy of a network in which the smallest weights of the blending layers are 0. Nothing is retrained.

    Args:
        model, layers: as for [`keras_sharenets.analysis.blending.blending_layers`]; `model` stays as it is.
        fraction: number from 0 up to, not including, 1: `floor(fraction * number of weights)` become 0, those of least
            magnitude. Of equal ones the earlier become 0: earlier in the network, then in the kernel. Biases are left
            alone.
        ranking: `"global"` ranks the weights of all blending layers together, `"per_layer"` takes the fraction from
            each layer. The paper does not say which it does.
        baseline: int, parameters of the convolutions of a network to compare with, or `None`.

    Returns:
        `(pruned, report)`: a `keras.Model` whose layers are shared as those of `model`, and a `Pruning`.

    Raises:
        ValueError: an argument breaks a rule above, or there are no blending layers.

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
    """The accuracy of a classifier against the part of its blending weights that is 0: the paper's figure 5 as data.

    Every fraction starts from the weights of `model`, which stays as it is, also when this is interrupted.

    Args:
        model, layers, ranking, baseline: as for [`prune_blending`].
        images: array of images, or whatever else `model.predict` takes.
        labels: int array `(images,)`, the right classes.
        fractions: sequence of numbers from 0 up to, not including, 1.
        batch_size: as for `model.predict`.
        on_row: function that is called with each row as soon as it is known, to show or keep it; or `None`.

    Returns:
        A list of `CurveRow`, one for each fraction.

    Raises:
        ValueError: an argument breaks a rule above; there are no blending layers; or there is not one label per image.
    """
    for fraction in fractions:
        _checks.rate("fractions", fraction)
    labels = _checks.class_labels("labels", labels)
    pruner = _Pruner(model, layers, ranking, baseline)
    rows = []
    for fraction in fractions:
        report = pruner.prune(fraction)
        scores = np.asarray(pruner.model.predict(images, batch_size=batch_size, verbose=0))
        if scores.ndim != 2 or len(scores) != len(labels):
            raise ValueError(
                f"`labels` (={len(labels)} of them) must be as many as `model` gives rows (={scores.shape})."
            )
        accuracy = float((scores.argmax(axis=1) == labels).mean())
        row = CurveRow(float(fraction), report.zeroed, report.remaining, report.compression, accuracy)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows
