"""Where a mobile network makes the image smaller: as in its paper, or only later for small images."""

import math
from collections.abc import Sequence

from keras_sharenets import _checks
from keras_sharenets.models import parts

LARGE_PICTURE = 112  # Pixels a side from which on the strides of the papers leave a map worth pooling.


def strided_input(strides, for_large, for_small, input_tensor, input_shape):
    """The tensor that a network is built on, and its strides.

    Args:
        strides: sequence of ints as long as `for_large`; `None` to choose by the image.
        for_large, for_small: the strides for images of at least 112x112, and for smaller ones.
        input_tensor, input_shape: as in every factory.

    Returns:
        `(inputs, strides)`.

    Raises:
        ValueError: `strides` is too long, too short or not of integers; or is `None` and a side is unknown; or the
            image is smaller than the product of the strides.
    """
    if strides is not None:
        if not isinstance(strides, Sequence) or len(strides) != len(for_large):
            raise ValueError(f"`strides` (={strides!r}) must be a sequence of {len(for_large)} numbers, or `None`.")
        for entry in strides:
            _checks.positive("strides", entry)
        return parts.input_for(input_tensor, input_shape, math.prod(strides)), tuple(strides)
    inputs = parts.input_for(input_tensor, input_shape, math.prod(for_small))
    height, width = inputs.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            f"`strides` (=None) must be given for images of open height or width (={tuple(inputs.shape[1:])})."
        )
    return inputs, for_large if min(height, width) >= LARGE_PICTURE else for_small
