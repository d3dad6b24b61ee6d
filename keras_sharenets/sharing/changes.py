"""One step of sharing: which new layer, with which weights, stands for which convolutions, at which loss."""

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
        weights: its weights, in the order of `layer.get_weights()`.
        mixes: what each place has of its own: `None`, a vector of scales, or a matrix that blends outputs.
        description: what the places become, for the report.
        errors: squared error of each place's kernel as a share of its squares, as the normalization scales it.
        output_errors: the same of its outputs on sample images; `None` without.
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
        """Weights of the convolutions."""
        return sum(place.stored for place in self.places)

    @property
    def stored(self) -> int:
        """Weights of the new layer and of what each place has of its own, normalizations left out."""
        return sum(weight.size for weight in self.weights) + sum(self.own(place) for place in range(len(self.places)))

    def own(self, number: int) -> int:
        """Weights that the place of this number has of its own."""
        place, mix = self.places[number], self.mixes[number]
        if mix is None or (mix.ndim == 1 and place.norms):
            return 0
        biased = mix.ndim == 1 or place.layer.use_bias
        return mix.size + (place.layer.filters if biased else 0)

    @property
    def saved(self) -> int:
        """Weights that the change saves; negative where it adds some."""
        return self.stored_before - self.stored

    @property
    def loss(self) -> float:
        """The sum over the places of what is lost of their outputs, or of their kernels where no images were given."""
        pairs = zip(self.errors, self.output_errors, strict=True)
        return sum(error if output is None else output for error, output in pairs)


# Second moments of the inputs of places, by their paths; for a place that has none the weights alone count.
Moments = Mapping[str, np.ndarray]


def matrix(kernel: np.ndarray) -> np.ndarray:
    """A kernel as a matrix `(inputs of a patch, filters)`."""
    return kernel.reshape(-1, kernel.shape[-1])


def errors_of(
    places: Sequence[Place], kernels: Sequence[np.ndarray], moments: Moments
) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """`errors` and `output_errors` of a `Change` that gives the places these kernels, as matrices."""
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
    """Second moments that are sure to be positive: few images leave directions open, and there the weights count."""
    if gram is None:
        return None
    return gram + 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))


def inherited(place: Place) -> dict[str, Any]:
    """Arguments of the new layer that are the old one's."""
    layer = place.layer
    return {
        "kernel_regularizer": layer.kernel_regularizer,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
    }
