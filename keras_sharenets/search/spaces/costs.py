"""What the parts of a network store and compute, from their sizes alone: pairs of parameters and multiply-adds.

The counts are those of `keras_sharenets.profile`: trainable weights, each stored tensor once, and the products of
weights with activations for one image.
"""

from __future__ import annotations

from collections.abc import Sequence

Cost = tuple[int, int]


def conv(channels: int, filters: int, pixels: int, *, area: int = 1, groups: int = 1, copies: int = 1) -> Cost:
    """A convolution without bias; `pixels` of its output, `copies` uses of each stored filter inside it.

    >>> conv(64, 64, pixels=256, area=9, groups=16, copies=16)
    (144, 589824)
    """
    weights = area * (channels // groups) * filters
    return weights // copies, weights * pixels


def depthwise(channels: int, pixels: int) -> Cost:
    """A depthwise 3x3 convolution without bias."""
    return conv(channels, channels, pixels, area=9, groups=channels)


def again(cost: Cost) -> Cost:
    """One more call of a layer: it computes as much and stores nothing new."""
    return 0, cost[1]


def norm(channels: int) -> Cost:
    """Batch normalization: a scale and an offset; statistics are not trained."""
    return 2 * channels, 0


def dense(inputs: int, units: int) -> Cost:
    """A dense layer with bias."""
    return inputs * units + units, inputs * units


def halved(sides: Sequence[int]) -> tuple[int, ...]:
    """Height and width after a stride of 2 with symmetric padding."""
    return tuple((side + 1) // 2 for side in sides)


def pooled(sides: Sequence[int]) -> tuple[int, ...]:
    """Height and width after pooling by 2, an odd last row or column left out."""
    return tuple(side // 2 for side in sides)
