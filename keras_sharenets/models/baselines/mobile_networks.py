"""MobileNetV1, MobileNetV2 and IGCV3, for large and small images.

From 112x112 pixels on, strides are those of the papers; smaller images use the usual strides for CIFAR. Strides do not
affect the number of parameters.
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

LARGE_IMAGE = 112  # Image side in pixels from which the papers' strides leave a feature map large enough to pool.
IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}

# MobileNetV2 and IGCV3: expansion factor and number of output channels of each stage.
STAGES = ((1, 16), (6, 24), (6, 32), (6, 64), (6, 96), (6, 160), (6, 320))
# Strides of the stem and of the first block of each stage, for large and small images.
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1), (1, 1, 1, 2, 2, 1, 2, 1)
# Groups of IGCV3's 1x1 convolutions.
GROUPS = 2
# MobileNetV1: channels of each stage, and strides as above.
PLAIN_STAGES = (64, 128, 256, 512, 1024)
PLAIN_STRIDES = (2, 1, 2, 2, 2, 2), (1, 1, 2, 2, 2, 2)


def strided_images(
    frame: base.Frame, strides: Sequence[int] | None, for_large: tuple[int, ...], for_small: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The input tensor of a network, and its strides; `strides=None` selects them by the image size."""
    if strides is not None:
        if len(strides) != len(for_large):
            raise ValueError(f"`strides` (={strides!r}) must be a sequence of {len(for_large)} numbers, or `None`.")
        return frame.images(math.prod(strides)), tuple(strides)
    images = frame.images(math.prod(for_small))
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            f"`strides` (=None) must be given for images of unknown height or width (={tuple(images.shape[1:])})."
        )
    return images, for_large if min(height, width) >= LARGE_IMAGE else for_small


def rounded_width(channels: float) -> int:
    """Rounds to the nearest multiple of 8, at least 8; rounds up if rounding down would lose more than a tenth.

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
    last_filters: int | None,
) -> keras.Model:
    """A stem, seven stages of inverted residuals and a final 1x1 convolution.

    `block(x, hidden, filters, strides, name)` applies a block without its shortcut; `hidden` and `filters` are the
    numbers of inner and output channels. All widths are multiplied by `width_multiplier`, except `last_filters`; the
    paper's last one only if the multiplier is above 1.
    """
    _checks.above_zero("width_multiplier", width_multiplier)
    if last_filters is None:
        last_filters = rounded_width(1280 * max(width_multiplier, 1))
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
    x = base.conv2d(x, last_filters, name="last")
    return frame.network(images, frame.head(_norm_relu6(x, "last")))


def _mobilenet_block(x: Tensor, hidden: int, filters: int, strides: int, name: str) -> Tensor:
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; the last without ReLU. Without expansion, no first 1x1."""
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
    last_filters: int | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """MobileNetV2: a network of inverted residual blocks, with narrow ends and a wide depthwise convolution inside.

    The network has the layers and weights of `keras.applications.MobileNetV2`. Results differ because of the batch
    normalization constants, and because padding is symmetric for a convolution with stride 2 and an even input size.

    Args:
        width_multiplier: float above 0, factor of all widths (alpha in Keras); products are rounded to multiples of 8.
        blocks_per_stage: int, or a sequence of seven, number of blocks in each stage.
        strides: sequence of eight ints, strides of the stem and of the first block of each stage. `None` selects
            `(2, 1, 2, 2, 2, 1, 2, 1)` from 112x112 pixels on, and `(1, 1, 1, 2, 2, 1, 2, 1)` for smaller images.
            Required if the height or width is `None`.
        last_filters: int, number of channels of the last convolution, independent of `width_multiplier`. `None` is the
            paper's 1280, times the multiplier if above 1. A small network needs fewer: with a multiplier of 0.25 and
            one block per stage, the last convolution and the classifier hold two thirds of the weights.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    >>> model = MobileNetV2(width_multiplier=0.35, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, tables 1 and 2.
    """
    frame = base.frame("mobilenet_v2", common, **IMAGENET)
    return _inverted_residuals(frame, _mobilenet_block, width_multiplier, blocks_per_stage, strides, last_filters)


def _igcv3_block(x: Tensor, hidden: int, filters: int, strides: int, name: str) -> Tensor:
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; both 1x1 in groups. Only the depthwise one has a ReLU.

    The first shuffle gives each group of the second 1x1 convolution channels from both groups of the first one. The
    second shuffle does the same for the next block.
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
    last_filters: int | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """IGCV3: MobileNetV2 with 1x1 convolutions in two groups, and twice as many blocks for as many parameters.

    Args:
        width_multiplier, blocks_per_stage, strides, last_filters: as in `MobileNetV2`. The default is the deep network,
            IGCV3-D.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    >>> model = IGCV3(width_multiplier=0.25, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sun et al., "IGCV3: Interleaved Low-Rank Group Convolutions for Efficient Deep Neural Networks", BMVC
    2018. The placement of shuffles and ReLUs follows the authors' code.
    """
    frame = base.frame("igcv3", common, **IMAGENET)
    return _inverted_residuals(frame, _igcv3_block, width_multiplier, blocks_per_stage, strides, last_filters)


@checked
def MobileNetV1(
    *,
    width_multiplier: float = 1.0,
    blocks_per_stage: int | Sequence[int] = (1, 2, 2, 6, 2),
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """MobileNetV1: alternating depthwise 3x3 and dense 1x1 convolutions, each with batch normalization and ReLU.

    The network has the weights of `keras.applications.MobileNet`, whose classifier is a 1x1 convolution. Results
    differ: the latter uses ReLU6, and pads only the bottom and right for a convolution with stride 2 and an even input
    size.

    Args:
        width_multiplier: float above 0, factor of all widths (the paper's alpha); products are rounded to multiples of
            8.
        blocks_per_stage: int, or a sequence of five, number of pairs of convolutions in each stage.
        strides: sequence of six ints, strides of the stem and of the first block of each stage. `None` selects
            `(2, 1, 2, 2, 2, 2)` from 112x112 pixels on, and `(1, 1, 2, 2, 2, 2)` for smaller images. Required if the
            height or width is `None`.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    >>> model = MobileNetV1(width_multiplier=0.25, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("pool").input.shape
    (None, 2, 2, 256)

    Reference: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    arXiv 1704.04861, section 3 and table 1. The table prints stride 2 for the last block; its 7x7 output implies 1.
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
