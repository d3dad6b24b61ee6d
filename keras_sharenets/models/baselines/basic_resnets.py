"""Residual networks of basic blocks for small images: the CIFAR ResNets, and ResNet-18 and ResNet-34 for CIFAR."""

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

_POLICIES = (*blocks.POLICIES, "both")
_BLOCKS = {"conv_norm": blocks.basic, "norm_conv": blocks.preactivated_basic}


@checked
def BasicResNet(
    *,
    blocks_per_stage: Sequence[int] = (9, 9, 9),
    width: int = 16,
    share: str = "none",
    order: str = "conv_norm",
    shortcut: str = "padded",
    stem_strides: int = 1,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network for small images, with blocks of two 3x3 convolutions, a 3x3 stem and no max pooling.

    With `n` blocks in each of three stages, the depth is `6n + 2`; the default is ResNet-56. For ResNet-18 and
    ResNet-34 for CIFAR, set `blocks_per_stage` to `(2, 2, 2, 2)` or `(3, 4, 6, 3)`, `width=64` and
    `shortcut="projection"`.

    Args:
        blocks_per_stage: sequence of ints, number of blocks in each stage. Each stage doubles the number of channels
            and halves the height and width.
        width: int, number of channels of the stem and the first stage.
        share: which 3x3 convolutions of a stage are one layer: `"none"`; the second convolutions of the blocks, with
            `"rest"` (all blocks except the first of the stage), `"stride1"` (all except the first of a stage that
            halves the image) or `"all"`; or `"both"` convolutions of all blocks, except those that change the shape.
        order: `"conv_norm"` (batch normalization and ReLU after each convolution, the last ReLU after the addition) or
            `"norm_conv"` (preactivation: before each convolution, and also before the final pooling).
        shortcut: shortcut of a block that changes the shape: `"padded"` (every second pixel and zero channels, without
            weights) or `"projection"` (a 1x1 convolution, with batch normalization for `"conv_norm"`).
        stem_strides: int, strides of the stem.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> BasicResNet(blocks_per_stage=(3, 3, 3)).count_params()  # ResNet-20, with 1,376 moving statistics
    271098
    >>> BasicResNet(blocks_per_stage=(3, 3, 3), share="both").count_params()  # one kernel left of 6, 5 and 5
    75258

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. Preactivated:
    "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """
    _checks.sizes("blocks_per_stage", blocks_per_stage)
    _checks.one_of("share", share, _POLICIES)
    _checks.one_of("order", order, tuple(_BLOCKS))
    _checks.one_of("shortcut", shortcut, ("padded", "projection"))
    frame = base.frame("basic_resnet", common)
    images = frame.images(total_stride=stem_strides * 2 ** (len(blocks_per_stage) - 1))
    x = blocks.conv(images, width, 3, strides=stem_strides, name="stem")
    if order == "conv_norm":
        x = base.norm_relu(x, "stem")
    both = share == "both"
    block = functools.partial(_BLOCKS[order], shortcut=shortcut, share_first=both)
    x = blocks.stages(x, block, width, blocks_per_stage, "all" if both else share)
    return frame.network(images, frame.head(base.norm_relu(x, "head") if order == "norm_conv" else x))
