"""A unit of sharing: a new layer and its weights, the convolutions that it replaces, and the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets.sharing import shared_kernels
from keras_sharenets.sharing.places import Place


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One new layer in place of one or several convolutions.

    Attributes:
        places: the convolutions.
        make: function of a name that returns the new layer, not built.
        weights: weights of the new layer, in the order of `layer.get_weights()`.
        mixes: parameters that each place keeps: `None`, a vector of scales, or a matrix that blends outputs.
        description: description of the new layer for the report.
        errors: relative squared error of each place's kernel, scaled as by the normalization.
        output_errors: relative squared error of its outputs on sample images; `None` without images.
    """

    places: tuple[Place, ...]
    make: Callable[[str], keras.layers.Layer]
    weights: tuple[np.ndarray, ...]
    mixes: tuple[np.ndarray | None, ...]
    description: str
    errors: tuple[float, ...]
    output_errors: tuple[float | None, ...]

    @property
    def stored_before(self) -> int:
        """Number of weights of the convolutions."""
        return sum(place.stored for place in self.places)

    @property
    def stored(self) -> int:
        """Number of weights of the new layer and of the parameters that each place keeps, without normalizations."""
        return sum(weight.size for weight in self.weights) + sum(self.own(place) for place in range(len(self.places)))

    def own(self, number: int) -> int:
        """Number of weights that only this place has."""
        place, mix = self.places[number], self.mixes[number]
        if mix is None or (mix.ndim == 1 and place.norms):
            return 0
        biased = mix.ndim == 1 or place.layer.use_bias
        return mix.size + (place.layer.filters if biased else 0)

    @property
    def saved(self) -> int:
        """Number of weights that the change saves; negative if it adds some."""
        return self.stored_before - self.stored

    @property
    def loss(self) -> float:
        """Sum of the output errors of the places, or of their kernel errors without images."""
        pairs = zip(self.errors, self.output_errors, strict=True)
        return sum(error if output is None else output for error, output in pairs)


# Second moments of the inputs of places, by path; for a place without them, the weights are approximated.
Moments = Mapping[str, np.ndarray]


def matrix(kernel: np.ndarray) -> np.ndarray:
    """A kernel as a matrix `(inputs of a patch, filters)`."""
    return kernel.reshape(-1, kernel.shape[-1])


def errors_of(
    places: Sequence[Place], kernels: Sequence[np.ndarray], moments: Moments
) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """`errors` and `output_errors` of a `Change` with these new kernels, as matrices."""
    errors, output_errors = [], []
    for place, kernel in zip(places, kernels, strict=True):
        scale = place.importance()
        target, new = matrix(place.kernel) * scale, kernel * scale
        gram = moments.get(place.path)
        errors.append(shared_kernels.squared_error([target], [new], [None]))
        measured = None if gram is None else shared_kernels.squared_error([target], [new], [gram])
        output_errors.append(measured)
    return tuple(errors), tuple(output_errors)


def regularized(gram: np.ndarray | None) -> np.ndarray | None:
    """Second moments made positive definite: in directions that few images leave open, the weights count."""
    if gram is None:
        return None
    return gram + 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))


def inherited(place: Place) -> dict[str, Any]:
    """Arguments that the new layer inherits from the old one."""
    layer = place.layer
    return {
        "kernel_regularizer": layer.kernel_regularizer,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
    }


def bias_arguments(place: Place) -> dict[str, Any]:
    """Arguments of the layer that stores the bias of the old one."""
    layer = place.layer
    return {
        "use_bias": layer.use_bias,
        "bias_regularizer": layer.bias_regularizer,
        "bias_constraint": layer.bias_constraint,
    }
