"""The residual networks of the ShaResNet paper, with or without sharing: two for CIFAR, one for ImageNet."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets.layers import PaddedMaxPooling2D
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.sharesnet import blocks, stage_blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BASIC = {34}


@checked
def PreActResNet(
    *,
    depth: int = 164,
    share: str = "none",
    order: str = "norm_conv",
    width: int = 16,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network with three stages of bottleneck blocks, for small images.

    A bottleneck block consists of a 1x1, a 3x3 and a 1x1 convolution. With sharing, the blocks of a stage use the same
    3x3 convolution layer (the paper's W_s), whose gradient is the sum over them. Batch normalization is never shared.

    Args:
        depth: int, `9n + 2` for n blocks in each stage.
        share: which blocks use the shared 3x3 convolution of their stage: `"none"`, `"rest"` (all except the first of
            the stage; matches the paper's counts), `"stride1"` (all except the first of a stage that halves the image)
            or `"all"`.
        order: `"norm_conv"` (batch normalization and ReLU before each convolution) or `"conv_norm"` (after it). The
            paper shows both and prints the same counts for both.
        width: int, number of channels of the stem and of the 3x3 convolutions of the first stage, doubled in each later
            one.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> PreActResNet(depth=20, width=4).count_params() - PreActResNet(depth=20, width=4, share="all").count_params()
    3024
    >>> 9 * (4**2 + 8**2 + 16**2)  # one kernel less per stage
    3024

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and tables 1 and 3.
    """
    counts = stage_blocks("preact_resnet", depth)
    _checks.one_of("share", share, blocks.POLICIES)
    _checks.one_of("order", order, ("norm_conv", "conv_norm"))
    _checks.positive("width", width)
    frame = base.frame("preact_resnet", common)
    images = frame.images(total_stride=4)
    x = blocks.conv(images, width, 3, name="stem")
    if order == "norm_conv":
        x = blocks.stages(x, blocks.preactivated_bottleneck, width, counts, share)
        x = base.norm_relu(x, "head")
    else:
        x = base.norm_relu(x, "stem")
        block = functools.partial(blocks.bottleneck, stride_on="reduce")
        x = blocks.stages(x, block, width, counts, share)
    return frame.network(images, frame.head(x))


@checked
def WideResNet(
    *,
    depth: int = 28,
    width_multiplier: int = 10,
    share: str = "none",
    dropout_rate: float = 0.0,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A wide residual network with three stages, for small images.

    A block consists of two 3x3 convolutions, each after batch normalization and ReLU. With sharing, the blocks of a
    stage use the same layer (the paper's W_s) as their second convolution; its gradient is the sum over them. Batch
    normalization is never shared.

    Args:
        depth: int, `6n + 4` for n blocks in each stage.
        width_multiplier: int, the first stage has 16 times this number of channels, doubled in each later one (the
            paper's k).
        share: which blocks use the shared second convolution of their stage: `"none"`, `"rest"` (all except the first
            of the stage; matches the paper's counts), `"stride1"` (all except the first of a stage that halves the
            image) or `"all"`.
        dropout_rate: float, dropout rate between the two convolutions. The paper uses dropout only on CIFAR-100 and
            does not state the rate.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> model = WideResNet(depth=16, width_multiplier=1, share="all", num_classes=100)
    >>> model.output_shape
    (None, 100)

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and tables 1 and 3.
    """
    counts = stage_blocks("wide_resnet", depth)
    _checks.positive("width_multiplier", width_multiplier)
    _checks.one_of("share", share, blocks.POLICIES)
    _checks.rate("dropout_rate", dropout_rate)
    frame = base.frame("wide_resnet", common)
    images = frame.images(total_stride=4)
    x = blocks.conv(images, 16, 3, name="stem")
    block = functools.partial(blocks.preactivated_basic, dropout_rate=dropout_rate)
    x = blocks.stages(x, block, 16 * width_multiplier, counts, share)
    return frame.network(images, frame.head(base.norm_relu(x, "head")))


def _check_share(share: str, depth: int) -> None:
    _checks.one_of("share", share, blocks.POLICIES)
    if share == "all" and depth not in _BASIC:
        raise ValueError(
            f"`share` (='all') must be 'none', 'rest' or 'stride1' at `depth` (={depth}): in a stage of bottlenecks "
            "that halves the image, only the first 3x3 convolution has stride 2."
        )


def _check_blocks(blocks_per_stage: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(blocks_per_stage, Sequence) or not blocks_per_stage:
        raise ValueError(f"`blocks_per_stage` (={blocks_per_stage!r}) must be a sequence with one number per stage.")
    return base.per_stage("blocks_per_stage", blocks_per_stage, len(blocks_per_stage))


@checked
def ResNet(
    *,
    depth: int = 50,
    share: str = "none",
    width: int = 64,
    blocks_per_stage: Sequence[int] | None = None,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network for large images: 7x7 convolution, max pooling, four stages of residual blocks.

    A block consists of two 3x3 convolutions (depth 34), or is a bottleneck of a 1x1, a 3x3 and a 1x1 convolution
    (depths 50, 101 and 152), each followed by batch normalization and ReLU. With sharing, the blocks of a stage use the
    same layer (the paper's W_s) as their last 3x3 convolution; its gradient is the sum over them. Batch normalization
    is never shared. Padding is symmetric, also at stride 2.

    Args:
        depth: int, 34, 50, 101 or 152.
        share: which blocks use the shared 3x3 convolution of their stage: `"none"`, `"rest"` (all except the first of
            the stage), `"stride1"` (all except the first of a stage that halves the image; matches the paper's counts
            at depths 50, 101 and 152) or `"all"` (matches its count at depth 34; not available for bottlenecks, whose
            first 3x3 convolution may be strided).
        width: int, number of channels of the stem and of the 3x3 convolutions of the first stage, doubled in each later
            one.
        blocks_per_stage: sequence of ints, number of blocks in each stage. Overrides the blocks of `depth`, which then
            only selects basic blocks or bottlenecks.
        **common: `keras_sharenets.models.CommonArguments`; by default, 224x224x3 images and 1000 classes.

    >>> model = ResNet(depth=34, share="all", width=8, blocks_per_stage=(2, 2), include_top=False)
    >>> model.output_shape
    (None, 28, 28, 16)

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and table 1.
    """
    counts = stage_blocks("resnet", depth)
    _check_share(share, depth)
    _checks.positive("width", width)
    if blocks_per_stage is not None:
        counts = _check_blocks(blocks_per_stage)
    frame = base.frame("resnet", common, input_shape=(224, 224, 3), num_classes=1000)
    images = frame.images(total_stride=4 * 2 ** (len(counts) - 1))
    x = base.norm_relu(blocks.conv(images, width, 7, strides=2, name="stem"), "stem")
    x = PaddedMaxPooling2D(3, strides=2, name="stem_pool")(x)
    block = blocks.basic if depth in _BASIC else functools.partial(blocks.bottleneck, stride_on="spatial")
    x = blocks.stages(x, block, width, counts, share)
    return frame.network(images, frame.head(x))
