"""The filters of a network's convolutions, and the distribution of their weights.

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
    """The effective and stored filters of a convolution.

    Attributes:
        name: str, name of the layer, prefixed with the names of nested models.
        kernel: array `(height, width, inputs per group, filters)`, group-major: the effective kernel of a layer that
            shares filters, otherwise the kernel as in `keras.layers.Conv2D(groups=...)`.
        groups: int.
        stored: tuple of arrays, the stored kernels.
        arrangement: int array `(filters,)`: 0 for a stored filter, 1 and above for its arranged copies (ASF).
    """

    name: str
    kernel: np.ndarray
    groups: int
    stored: tuple[np.ndarray, ...]
    arrangement: np.ndarray

    @property
    def l1_norms(self) -> np.ndarray:
        """The L1 norm of each filter: an array `(filters,)`."""
        return np.abs(self.kernel).sum(axis=(0, 1, 2))


def is_convolution(operation: Any) -> bool:
    """Whether [`filters`] supports a layer."""
    return hasattr(inner(operation), "effective_kernel") or isinstance(
        inner(operation), (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    )


def filters(model: keras.Model) -> tuple[Filters, ...]:
    """Returns the filters of all convolutions of a network, in the order of their first calls.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. Nested models are expanded.

    Returns:
        A tuple of `Filters`. A layer that is called several times occurs once.

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
    """The index of the arranged copy of each output channel of a layer: an int array `(channels,)`, 0 for originals."""
    copies = getattr(layer, "arrangements", 1)
    per_group = channels // (getattr(layer, "groups", 1) if copies > 1 else 1)
    return np.arange(channels) % per_group // (per_group // copies)


def stored_weights(model: keras.Model) -> np.ndarray:
    """The weights of all convolution kernels, each stored tensor once: the data of the paper's figure 2.

    Excludes biases, dense layers and normalizations.

    Args:
        model: as for [`filters`].

    Returns:
        An array `(weights,)`.
    """
    return np.concatenate([kernel.ravel() for each in filters(model) for kernel in each.stored] or [np.zeros(0)])


def filter_norms(model: keras.Model) -> np.ndarray:
    """The L1 norms of the effective filters of all convolutions: the data of the paper's figure 6.

    A layer that is called several times counts once. A filter that is repeated or arranged within a layer counts every
    time.

    Args:
        model: as for [`filters`].

    Returns:
        An array `(filters,)`.
    """
    return np.concatenate([each.l1_norms for each in filters(model)] or [np.zeros(0)])
