"""Residual networks of basic blocks for small images: those of the CIFARs, and ResNet-18 and -34 as used on them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.sharesnet import blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BLOCKS = {"conv_norm": blocks.basic, "norm_conv": blocks.preactivated_basic}


@checked
def BasicResNet(
    *,
    blocks_per_stage: Sequence[int] = (9, 9, 9),
    width: int = 16,
    order: str = "conv_norm",
    shortcut: str = "padded",
    stem_strides: int = 1,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network of blocks of two 3x3 convolutions, for small images: the stem is 3x3, and nothing is pooled.

    With `n` blocks in each of three stages it has depth `6n + 2`, and ResNet-56 is the default. ResNet-18
    and -34 for CIFAR are `blocks_per_stage` `(2, 2, 2, 2)` and `(3, 4, 6, 3)`, `width=64` and `shortcut="projection"`.

    Args:
        blocks_per_stage: sequence of ints, blocks of each stage. Each has twice the channels of the one before and
            half its height and width.
        width: int, channels of the stem and of the first stage.
        order: `"conv_norm"` (batch normalization and ReLU after each convolution, the last ReLU after the addition) or
            `"norm_conv"` (before it: preactivation; then both stand before the last pooling too).
        shortcut: what a block's input becomes where it must change its shape: `"padded"` (every second pixel, and
            channels of zeros: no weights) or `"projection"` (a 1x1 convolution; with `"conv_norm"` normalized).
        stem_strides: int, stride of the stem.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> BasicResNet(blocks_per_stage=(3, 3, 3)).count_params()  # ResNet-20, with 1,376 moving statistics
    271098

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. Preactivated:
    "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    _checks.sizes("blocks_per_stage", blocks_per_stage)
    _checks.one_of("order", order, tuple(_BLOCKS))
    _checks.one_of("shortcut", shortcut, ("padded", "projection"))
    frame = base.frame("basic_resnet", common)
    images = frame.images(total_stride=stem_strides * 2 ** (len(blocks_per_stage) - 1))
    x = blocks.conv(images, width, 3, strides=stem_strides, name="stem")
    if order == "conv_norm":
        x = base.norm_relu(x, "stem")
    x = blocks.stages(x, functools.partial(_BLOCKS[order], shortcut=shortcut), width, blocks_per_stage, "none")
    return frame.network(images, frame.head(base.norm_relu(x, "head") if order == "norm_conv" else x))
