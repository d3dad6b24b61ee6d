"""The blending layers of ShardNet, and the channels that they use.

In a network that shares one convolution between all places, unshared 1x1 convolutions blend the channels in between.
Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 5.1.
"""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.analysis.graph import calls


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """The inputs that the outputs of a blending layer use least and most.

    Attributes:
        name: str, name of the layer.
        matrix: int8 array `(output channels, input channels)`: -1 (blue in figures) for the `each` weights of a row
            with the smallest magnitude, 1 (red) for the `each` largest, 0 for the others.
        each: int, number of smallest and of largest weights per row.
    """

    name: str
    matrix: np.ndarray
    each: int

    @property
    def blue_share(self) -> np.ndarray:
        """The share of rows in which each input channel is blue: an array `(input channels,)`."""
        return (self.matrix == -1).mean(axis=0)

    @property
    def chance(self) -> float:
        """The mean of `blue_share`, and its expected value for every channel if inputs were selected at random."""
        return self.each / self.matrix.shape[1]


def _is_pointwise(operation: keras.Operation) -> bool:
    is_convolution = isinstance(operation, keras.layers.Conv2D)
    return is_convolution and tuple(operation.kernel_size) == (1, 1) and operation.groups == 1


def blending_layers(model: keras.Model, layers: Sequence[str] | None = None) -> dict[str, keras.layers.Conv2D]:
    """Returns the blending layers of a network, in the order of their first calls.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. Nested models are expanded.
        layers: sequence of layer names, prefixed with the names of nested models (`"outer/inner"`). By default, all 1x1
            convolutions whose names begin with `blend`.

    Returns:
        A dict from names to `keras.layers.Conv2D`. A layer that is called several times occurs once.

    Raises:
        ValueError: there are no such layers, or a name is not that of a 1x1 convolution without groups.

    >>> x = images = keras.Input((8, 8, 4))
    >>> for name in ("blend0", "mix", "blend1"):
    ...     x = keras.layers.Conv2D(4, 1, name=name)(x)
    >>> list(blending_layers(keras.Model(images, x)))
    ['blend0', 'blend1']
    """
    operations = {call.path: call.operation for call in calls(model) if call.index == 0}
    known = {path: operation for path, operation in operations.items() if _is_pointwise(operation)}
    if layers is None:
        chosen = {path: layer for path, layer in known.items() if layer.name.startswith("blend")}
        if not chosen:
            raise ValueError(
                f"`model` (='{model.name}') must have 1x1 convolutions whose names begin with 'blend', "
                "or `layers` must specify others."
            )
        return chosen
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise ValueError(
            f"`layers` (={layers!r}) must be names of 1x1 convolutions without groups of '{model.name}'; "
            f"available: {', '.join(known) or 'none'}."
        )
    return {path: layer for path, layer in known.items() if path in layers}


def blending_patterns(
    model: keras.Model, strongest: int = 32, *, layers: Sequence[str] | None = None
) -> tuple[Pattern, ...]:
    """Finds the inputs that each output of the blending layers uses least and most: the paper's figures 4, 7 and 8.

    An input channel that is blue in far more rows than expected by chance is hardly used by the layer.

    Args:
        model, layers: as for [`blending_layers`].
        strongest: int, number of weights per row that are marked as smallest and as largest; half the number of inputs
            if there are fewer than `2 * strongest`. Among weights of equal magnitude, an earlier one counts as smaller.

    Returns:
        A tuple of `Pattern`, one per layer, in the order of the network.

    Raises:
        ValueError: there are no blending layers, or `strongest` is not a positive integer.

    >>> images = keras.Input((8, 8, 4))
    >>> (pattern,) = blending_patterns(keras.Model(images, keras.layers.Conv2D(3, 1, name="blend1")(images)))
    >>> pattern.matrix.shape, pattern.each, pattern.chance
    ((3, 4), 2, 0.5)
    """
    _checks.positive("strongest", strongest)
    return tuple(_pattern(name, layer, strongest) for name, layer in blending_layers(model, layers).items())


def _pattern(name: str, layer: keras.layers.Conv2D, strongest: int) -> Pattern:
    magnitudes = np.abs(keras.ops.convert_to_numpy(layer.kernel)[0, 0]).T
    inputs = magnitudes.shape[1]
    each = min(strongest, inputs // 2)
    smallest_first = np.argsort(magnitudes, axis=1, kind="stable")
    matrix = np.zeros(magnitudes.shape, "int8")
    np.put_along_axis(matrix, smallest_first[:, :each], -1, axis=1)
    np.put_along_axis(matrix, smallest_first[:, inputs - each :], 1, axis=1)
    return Pattern(name, matrix, each)
