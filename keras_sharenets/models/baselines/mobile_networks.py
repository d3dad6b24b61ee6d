"""MobileNetV1, MobileNetV2 and IGCV3, for large images and small ones.

Strides are those of the papers from 112x112 pixels on, and for smaller images those that are usual on CIFAR. They do
not change the count of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import ChannelShuffle
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked

if TYPE_CHECKING:
    from typing_extensions import Unpack

LARGE_IMAGE = 112  # Pixels a side from which on the strides of the papers leave a map worth pooling.
IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}

# MobileNetV2 and IGCV3. For every stage: channels inside a block for one of its input, and channels of its output.
STAGES = ((1, 16), (6, 24), (6, 32), (6, 64), (6, 96), (6, 160), (6, 320))
# Of the stem and of the first block of every stage, for large images and for small ones.
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1), (1, 1, 1, 2, 2, 1, 2, 1)
# Groups of IGCV3's 1x1 convolutions.
GROUPS = 2
# MobileNetV1: channels of each stage, and strides as above.
PLAIN_STAGES = (64, 128, 256, 512, 1024)
PLAIN_STRIDES = (2, 1, 2, 2, 2, 2), (1, 1, 2, 2, 2, 2)


def strided_images(
    frame: base.Frame, strides: Sequence[int] | None, for_large: tuple[int, ...], for_small: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor that a network is built on, and its strides; those of `None` are chosen by the image."""
    if strides is not None:
        if len(strides) != len(for_large):
            raise ValueError(f"`strides` (={strides!r}) must be a sequence of {len(for_large)} numbers, or `None`.")
        return frame.images(math.prod(strides)), tuple(strides)
    images = frame.images(math.prod(for_small))
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            f"`strides` (=None) must be given for images of open height or width (={tuple(images.shape[1:])})."
        )
    return images, for_large if min(height, width) >= LARGE_IMAGE else for_small


def rounded_width(channels: float) -> int:
    """The nearest multiple of 8, at least 8; the next one up if the nearest loses more than a tenth.

    >>> [rounded_width(channels) for channels in (3, 20, 22.4, 24 * 1.25)]
    [8, 24, 24, 32]
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _norm_relu6(x: Tensor, name: str) -> Tensor:
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(base.norm(x, name))


def _inverted_residuals(
    frame: base.Frame,
    block: Callable[[Tensor, int, int, int, str], Tensor],
    width_multiplier: float,
    blocks_per_stage: int | Sequence[int],
    strides: Sequence[int] | None,
) -> keras.Model:
    """A stem, seven stages of inverted residuals, a last 1x1 convolution.

    `block(x, hidden, filters, strides, name)` gives a block without its shortcut; `hidden` and `filters` are the
    channels inside it and of its output. Widths are multiplied; that of the last convolution only if above 1.
    """
    _checks.above_zero("width_multiplier", width_multiplier)
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, len(STAGES))
    images, strides = strided_images(frame, strides, *STRIDES)
    x = base.conv2d(images, rounded_width(32 * width_multiplier), 3, strides=strides[0], name="stem")
    x = _norm_relu6(x, "stem")
    for stage, ((expansion, filters), count) in enumerate(zip(STAGES, counts, strict=True), start=1):
        filters = rounded_width(filters * width_multiplier)
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            block_strides = strides[stage] if index == 1 else 1
            y = block(x, expansion * x.shape[-1], filters, block_strides, name)
            if block_strides == 1 and x.shape[-1] == filters:
                y = keras.layers.Add(name=f"{name}_add")([x, y])
            x = y
    x = base.conv2d(x, rounded_width(1280 * max(width_multiplier, 1)), name="last")
    return frame.network(images, frame.head(_norm_relu6(x, "last")))


def _mobilenet_block(x: Tensor, hidden: int, filters: int, strides: int, name: str) -> Tensor:
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; the last without ReLU. Nothing to widen, no first 1x1."""
    if hidden != x.shape[-1]:
        x = _norm_relu6(base.conv2d(x, hidden, name=f"{name}_expand"), f"{name}_expand")
    x = _norm_relu6(base.depthwise_conv2d(x, strides=strides, name=f"{name}_depthwise"), f"{name}_depthwise")
    return base.norm(base.conv2d(x, filters, name=f"{name}_project"), f"{name}_project")


@checked
def MobileNetV2(
    *,
    width_multiplier: float = 1.0,
    blocks_per_stage: int | Sequence[int] = (1, 2, 3, 4, 3, 3, 1),
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A network of inverted residuals: blocks that are narrow outside, wide and depthwise inside.

    It has the layers and weights of `keras.applications.MobileNetV2`. Results differ in the constants of batch
    normalization, and, where a convolution of stride 2 reads an even side, by the padding: here it is symmetric.

    Args:
        width_multiplier: number above 0 that all widths are multiplied by (Keras's alpha); products are rounded to
            multiples of 8.
        blocks_per_stage: int, or a sequence with one entry for each of the seven stages.
        strides: sequence of eight ints, those of the stem and of the first block of every stage. `None` for
            `(2, 1, 2, 2, 2, 1, 2, 1)` from 112x112 pixels on, and `(1, 1, 1, 2, 2, 1, 2, 1)` for smaller images.
            Height and width may be `None` only if it is given.
        **common: `keras_sharenets.models.CommonArguments`; images are 224x224x3 and classes 1000 by default.

    >>> model = MobileNetV2(width_multiplier=0.35, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, tables 1 and 2.
    """
    frame = base.frame("mobilenet_v2", common, **IMAGENET)
    return _inverted_residuals(frame, _mobilenet_block, width_multiplier, blocks_per_stage, strides)


def _igcv3_block(x: Tensor, hidden: int, filters: int, strides: int, name: str) -> Tensor:
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; both 1x1 in groups. Only the depthwise one has a ReLU.

    The first shuffle gives each group of the second 1x1 channels of both groups of the first, the second shuffle does
    so for the next block.
    """
    x = base.conv2d(x, hidden, groups=GROUPS, name=f"{name}_expand")
    x = ChannelShuffle(GROUPS, name=f"{name}_expand_shuffle")(base.norm(x, f"{name}_expand"))
    x = _norm_relu6(base.depthwise_conv2d(x, strides=strides, name=f"{name}_depthwise"), f"{name}_depthwise")
    x = base.conv2d(x, filters, groups=GROUPS, name=f"{name}_project")
    return ChannelShuffle(filters // GROUPS, name=f"{name}_project_shuffle")(base.norm(x, f"{name}_project"))


@checked
def IGCV3(
    *,
    width_multiplier: float = 1.0,
    blocks_per_stage: int | Sequence[int] = (1, 4, 6, 8, 6, 6, 1),
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """MobileNetV2 with its 1x1 convolutions in two groups, and twice as many blocks for as many parameters.

    Args:
        width_multiplier, blocks_per_stage, strides: as in `MobileNetV2`. The default is the deep network, IGCV3-D.
        **common: `keras_sharenets.models.CommonArguments`; images are 224x224x3 and classes 1000 by default.

    >>> model = IGCV3(width_multiplier=0.25, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sun et al., "IGCV3: Interleaved Low-Rank Group Convolutions for Efficient Deep Neural Networks", BMVC
    2018. Shuffles and ReLUs are where its authors' code has them.
    """
    frame = base.frame("igcv3", common, **IMAGENET)
    return _inverted_residuals(frame, _igcv3_block, width_multiplier, blocks_per_stage, strides)


@checked
def MobileNetV1(
    *,
    width_multiplier: float = 1.0,
    blocks_per_stage: int | Sequence[int] = (1, 2, 2, 6, 2),
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A network of depthwise 3x3 and dense 1x1 convolutions in turn, batch normalization and ReLU after each.

    It has the weights of `keras.applications.MobileNet`, whose classifier is a 1x1 convolution. Results differ: that
    one has ReLU6, and zeros on the far side alone where a convolution of stride 2 reads an even side.

    Args:
        width_multiplier: number above 0 that all widths are multiplied by (the paper's alpha); products are rounded to
            multiples of 8.
        blocks_per_stage: int, or a sequence with one entry for each of the five stages: pairs of convolutions.
        strides: sequence of six ints, those of the stem and of the first block of every stage. `None` for
            `(2, 1, 2, 2, 2, 2)` from 112x112 pixels on, and `(1, 1, 2, 2, 2, 2)` for smaller images. Height and width
            may be `None` only if it is given.
        **common: `keras_sharenets.models.CommonArguments`; images are 224x224x3 and classes 1000 by default.

    >>> model = MobileNetV1(width_multiplier=0.25, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("pool").input.shape
    (None, 2, 2, 256)

    Reference: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    arXiv 1704.04861, section 3 and table 1, whose stride of 2 in the last block is read as 1: its output is 7x7.
    """
    _checks.above_zero("width_multiplier", width_multiplier)
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, len(PLAIN_STAGES))
    frame = base.frame("mobilenet_v1", common, **IMAGENET)
    images, strides = strided_images(frame, strides, *PLAIN_STRIDES)
    x = base.conv2d(images, rounded_width(32 * width_multiplier), 3, strides=strides[0], name="stem")
    x = base.norm_relu(x, "stem")
    for stage, (filters, count) in enumerate(zip(PLAIN_STAGES, counts, strict=True), start=1):
        for index in range(1, count + 1):
            name, block_strides = f"stage{stage}_block{index}", strides[stage] if index == 1 else 1
            x = base.depthwise_conv2d(x, strides=block_strides, name=f"{name}_depthwise")
            x = base.norm_relu(x, f"{name}_depthwise")
            x = base.conv2d(x, rounded_width(filters * width_multiplier), name=f"{name}_pointwise")
            x = base.norm_relu(x, f"{name}_pointwise")
    return frame.network(images, frame.head(x))
