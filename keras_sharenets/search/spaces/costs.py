"""Costs of the parts of a network, computed from their sizes: pairs of parameters and multiply-adds.

The counts are those of `keras_sharenets.profile`: trainable weights, each stored tensor once, and products of weights
and activations for one image.
"""

from __future__ import annotations

from collections.abc import Sequence

Cost = tuple[int, int]


def conv(channels: int, filters: int, pixels: int, *, area: int = 1, groups: int = 1, copies: int = 1) -> Cost:
    """A convolution without bias.

    `pixels` is the number of output pixels, `copies` the number of uses of each stored filter within the layer.

    >>> conv(64, 64, pixels=256, area=9, groups=16, copies=16)
    (144, 589824)
    """
    weights = area * (channels // groups) * filters
    return weights // copies, weights * pixels


def depthwise(channels: int, pixels: int) -> Cost:
    """A depthwise 3x3 convolution without bias."""
    return conv(channels, channels, pixels, area=9, groups=channels)


def again(cost: Cost) -> Cost:
    """Another call of a layer: the same multiply-adds, no new parameters."""
    return 0, cost[1]


def norm(channels: int) -> Cost:
    """Batch normalization: scale and offset; the statistics are not trainable."""
    return 2 * channels, 0


def dense(inputs: int, units: int) -> Cost:
    """A dense layer with bias."""
    return inputs * units + units, inputs * units


def halved(sides: Sequence[int]) -> tuple[int, ...]:
    """Height and width after a stride of 2 with symmetric padding."""
    return tuple((side + 1) // 2 for side in sides)


def pooled(sides: Sequence[int]) -> tuple[int, ...]:
    """Height and width after pooling by 2, which drops an odd last row or column."""
    return tuple(side // 2 for side in sides)
