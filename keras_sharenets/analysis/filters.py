"""The filters of a network's convolutions, and how their weights are distributed.

Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021, sections 2.3
and 4.7.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_sharenets.analysis.graph import calls
from keras_sharenets.layers.quantized_kernels import inner


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
    """The filters of one convolution, as they are applied and as they are stored.

    Attributes:
        name: str, of the layer; inside nested models their names before it.
        kernel: array `(height, width, inputs per group, filters)`, group-major: the effective kernel of a layer that
            shares filters, that of `keras.layers.Conv2D(groups=...)` otherwise.
        groups: int.
        stored: tuple of arrays, the kernels that are stored for it.
        arrangement: int array `(filters,)`: 0 for a filter that is stored as it is, 1 and above for its arranged copies
            (ASF).
    """

    name: str
    kernel: np.ndarray
    groups: int
    stored: tuple[np.ndarray, ...]
    arrangement: np.ndarray

    @property
    def l1_norms(self) -> np.ndarray:
        """The sum of the magnitudes of each filter's weights: an array `(filters,)`."""
        return np.abs(self.kernel).sum(axis=(0, 1, 2))


def is_convolution(operation: Any) -> bool:
    """Whether [`filters`] knows the filters of a layer."""
    return hasattr(inner(operation), "effective_kernel") or isinstance(
        inner(operation), (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    )


def filters(model: keras.Model) -> tuple[Filters, ...]:
    """The filters of all convolutions of a network, in the order of their first calls.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`; models inside it are opened.

    Returns:
        A tuple of `Filters`. A layer that is called several times comes once.

    >>> images = keras.Input((8, 8, 4))
    >>> (one,) = filters(keras.Model(images, keras.layers.Conv2D(6, 3, groups=2, name="mix")(images)))
    >>> one.name, one.kernel.shape, one.groups, one.l1_norms.shape
    ('mix', (3, 3, 2, 6), 2, (6,))
    """
    convolutions = {id(call.operation): call for call in reversed(calls(model)) if is_convolution(call.operation)}
    return tuple(_filters(call.path, inner(call.operation)) for call in reversed(convolutions.values()))


def _filters(name: str, layer: Any) -> Filters:
    stored = tuple(keras.ops.convert_to_numpy(weight) for weight in layer.weights if len(weight.shape) > 1)
    if hasattr(layer, "effective_kernel"):
        kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    else:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        height, width, groups, multiplier = kernel.shape
        kernel = kernel.reshape(height, width, 1, groups * multiplier)
    return Filters(name, kernel, groups, stored, arrangement_of(layer, kernel.shape[-1]))


def arrangement_of(layer: Any, channels: int) -> np.ndarray:
    """Which arranged copy each of a layer's output channels is from: an int array `(channels,)`, 0 for originals."""
    copies = getattr(layer, "arrangements", 1)
    per_group = channels // (getattr(layer, "groups", 1) if copies > 1 else 1)
    return np.arange(channels) % per_group // (per_group // copies)


def stored_weights(model: keras.Model) -> np.ndarray:
    """The weights of all kernels of convolutions as one array, each stored tensor once: the paper's figure 2 as data.

    Biases, dense layers and normalizations are left out. `model` as for [`filters`]; an array `(weights,)`.
    """
    return np.concatenate([kernel.ravel() for each in filters(model) for kernel in each.stored] or [np.zeros(0)])


def filter_norms(model: keras.Model) -> np.ndarray:
    """The l1 norms of the filters of all convolutions, those of shared filters as they are applied: figure 6 as data.

    A layer that is called several times counts once; a filter that is repeated or arranged within a layer counts as
    often as it is there. `model` as for [`filters`]; an array `(filters,)`.
    """
    return np.concatenate([each.l1_norms for each in filters(model)] or [np.zeros(0)])
