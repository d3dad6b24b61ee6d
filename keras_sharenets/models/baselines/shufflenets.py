"""ShuffleNet and ShuffleNetV2, for large and small images; strides as in `mobile_networks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import ChannelShuffle, ChannelSlice, PaddedMaxPooling2D, SqueezeExcite
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.baselines.mobile_networks import IMAGENET, strided_images

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Strides of the stem, of the max pooling, and of the first block of each stage, for large and small images.
GROUPED_STRIDES = (2, 2, 2, 2, 2), (1, 1, 1, 2, 2)
HALVING_STRIDES = (2, 2, 2, 2, 2), (1, 1, 2, 2, 2)


def _stem(images: Tensor, filters: int, strides: Sequence[int]) -> Tensor:
    """A 3x3 convolution and max pooling with the first two strides; no pooling at stride 1."""
    x = base.norm_relu(base.conv2d(images, filters, 3, strides=strides[0], name="stem"), "stem")
    return x if strides[1] == 1 else PaddedMaxPooling2D(3, strides=strides[1], name="stem_pool")(x)


def _pooled(x: Tensor, strides: int, name: str) -> Tensor:
    """3x3 average pooling with zero padding that counts as pixels; the identity at stride 1."""
    if strides == 1:
        return x
    x = keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")(x)
    return keras.layers.AveragePooling2D(3, strides, data_format="channels_last", name=f"{name}_pool")(x)


def _grouped_block(x: Tensor, filters: int, strides: int, groups: tuple[int, int], name: str) -> Tensor:
    """1x1 to a quarter, shuffle, 3x3 depthwise, 1x1. Added to the input, or concatenated if the block widens.

    `groups` are the groups of the first and the last convolution.
    """
    past = x.shape[-1]
    y = base.conv2d(x, filters // 4, groups=groups[0], name=f"{name}_pointwise1")
    y = ChannelShuffle(groups[1], name=f"{name}_shuffle")(base.norm_relu(y, f"{name}_pointwise1"))
    y = base.norm(base.depthwise_conv2d(y, strides=strides, name=f"{name}_depthwise"), f"{name}_depthwise")
    own = filters - past if past < filters else filters
    y = base.norm(base.conv2d(y, own, groups=groups[1], name=f"{name}_pointwise2"), f"{name}_pointwise2")
    if past < filters:
        y = keras.layers.Concatenate(name=f"{name}_concat")([_pooled(x, strides, f"{name}_shortcut"), y])
    else:
        y = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_relu")(y)


@checked
def ShuffleNet(
    *,
    width: int = 240,
    groups: int = 3,
    blocks_per_stage: int | Sequence[int] = (4, 8, 4),
    stem_filters: int = 24,
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """ShuffleNet v1: a network of grouped 1x1 convolutions with a channel shuffle between them.

    Args:
        width: int, number of channels of the first stage, doubled in each later one. The paper uses 144, 200, 240, 272
            and 384 with 1, 2, 3, 4 and 8 groups.
        groups: int, number of groups of all 1x1 convolutions except the first one of the network. Must divide
            `width // 4` and `width - stem_filters`.
        blocks_per_stage: int, or a sequence of three, number of blocks in each stage.
        stem_filters: int, number of channels of the stem.
        strides: sequence of five ints, strides of the stem, of the max pooling (1: no pooling) and of the first block
            of each stage. `None` selects 2 everywhere from 112x112 pixels on, and `(1, 1, 1, 2, 2)` for smaller images.
            Required if the height or width is `None`.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    HGC's table 2 prints 0.91 million parameters and 161 million multiply-adds. With 10 classes and 32x32 pixels, this
    network has 0.914 million parameters and, without strides before the second stage, 163.9 million multiply-adds; with
    8 groups, 0.913 and 161.7 million. The default is 3 groups because the error on CIFAR-100 in that table matches
    public code with 3 groups.

    >>> model = ShuffleNet(width=48, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("pool").input.shape
    (None, 8, 8, 192)

    Reference: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR
    2018, figure 2 and table 1.
    """
    _checks.divides("4 * groups", 4 * groups, "`width`", width)
    if width <= stem_filters:
        raise ValueError(f"`width` (={width}) must be above `stem_filters` (={stem_filters}).")
    _checks.divides("groups", groups, "`width - stem_filters`", width - stem_filters)
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, 3)
    frame = base.frame("shufflenet", common, **IMAGENET)
    images, strides = strided_images(frame, strides, *GROUPED_STRIDES)
    x = _stem(images, stem_filters, strides)
    for stage, count in enumerate(counts, start=1):
        for index in range(1, count + 1):
            # The first 1x1 convolution reads the few channels of the stem.
            first = 1 if (stage, index) == (1, 1) else groups
            block_strides = strides[stage + 1] if index == 1 else 1
            x = _grouped_block(
                x, width * 2 ** (stage - 1), block_strides, (first, groups), f"stage{stage}_block{index}"
            )
    return frame.network(images, frame.head(x))


def _depthwise_pointwise(x: Tensor, filters: int, strides: int, depthwise: str, pointwise: str) -> Tensor:
    x = base.norm(base.depthwise_conv2d(x, strides=strides, name=depthwise), depthwise)
    return base.norm_relu(base.conv2d(x, filters, name=pointwise), pointwise)


def _halving_block(
    x: Tensor, filters: int, strides: int, is_first: bool, squeeze_excite: int | None, name: str
) -> Tensor:
    """Two parallel branches with half the channels each, concatenated and shuffled; the second is 1x1, 3x3, 1x1."""
    half = filters // 2
    if is_first:
        past = _depthwise_pointwise(x, half, strides, f"{name}_shortcut_depthwise", f"{name}_shortcut_pointwise")
    else:
        past = ChannelSlice(0, half, name=f"{name}_past")(x)
        x = ChannelSlice(half, filters, name=f"{name}_convolved")(x)
    x = base.norm_relu(base.conv2d(x, half, name=f"{name}_pointwise1"), f"{name}_pointwise1")
    x = _depthwise_pointwise(x, half, strides, f"{name}_depthwise", f"{name}_pointwise2")
    if squeeze_excite is not None:
        x = SqueezeExcite(squeeze_excite, name=f"{name}_squeeze_excite")(x)
    x = keras.layers.Concatenate(name=f"{name}_concat")([past, x])
    return ChannelShuffle(2, name=f"{name}_shuffle")(x)


@checked
def ShuffleNetV2(
    *,
    width: Sequence[int] = (24, 244, 488, 976, 2048),
    blocks_per_stage: int | Sequence[int] = (4, 8, 4),
    squeeze_excite: int | None = None,
    strides: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """ShuffleNet v2: a network of blocks that convolve half of the channels, pass on the other half and shuffle both.

    Args:
        width: sequence of five ints, number of channels of the stem, the three stages (even) and the last convolution.
            The default is the 2.0x network of table 5; some implementations use `(24, 224, 488, 976, 2048)`.
        blocks_per_stage: int, or a sequence of three, number of blocks in each stage.
        squeeze_excite: int, reduction of a `SqueezeExcite` after the last convolution of each block, or `None` for no
            `SqueezeExcite`. Must divide half of each stage's width. The paper (figure 11b) does not specify it. With 2,
            the 2.0x network has 8.89 million parameters, close to the 8.8 million in HSC-Net's table 5.
        strides: sequence of five ints, strides of the stem, of the max pooling (1: no pooling) and of the first block
            of each stage. `None` selects 2 everywhere from 112x112 pixels on, and `(1, 1, 2, 2, 2)` for smaller images.
            Required if the height or width is `None`.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    >>> model = ShuffleNetV2(width=(8, 16, 32, 64, 128), blocks_per_stage=2, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 128)

    Reference: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, figure
    3c and 3d, table 5.
    """
    frame = base.frame("shufflenet_v2", common, **IMAGENET)
    stem_filters, *widths, last_filters = base.per_stage("width", width, 5)
    if any(stage_width % 2 for stage_width in widths):
        raise ValueError(f"`width` (={width!r}) must be even for each stage: a block convolves half of the channels.")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, len(widths))
    images, strides = strided_images(frame, strides, *HALVING_STRIDES)
    x = _stem(images, stem_filters, strides)
    for stage, (stage_width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for index in range(1, count + 1):
            block_strides = strides[stage + 1] if index == 1 else 1
            name = f"stage{stage}_block{index}"
            x = _halving_block(x, stage_width, block_strides, index == 1, squeeze_excite, name)
    x = base.norm_relu(base.conv2d(x, last_filters, name="last"), "last")
    return frame.network(images, frame.head(x))
