"""The network of HGCNet and SGCNet: stem, stages of modules and transitions between them, classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import (
    ChannelShuffle,
    HierarchicalGroupConv2D,
    SplitGroupConv2D,
    SqueezeExcite,
    StridedChannelShuffle,
)
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked

if TYPE_CHECKING:
    from typing_extensions import Unpack

STAGES = 3


def _shuffled(x: Tensor, groups: int, name: str) -> Tensor:
    """Every group of what follows gets channels from all over the concatenation: `g`, `g + groups` and so on."""
    channels = x.shape[-1]
    if groups == 1:
        return x
    if channels % groups:
        return StridedChannelShuffle(groups, name=f"{name}_shuffle")(x)
    return ChannelShuffle(channels // groups, name=f"{name}_shuffle")(x)


def _module(
    x: Tensor,
    convolution: Callable,
    groups: int,
    growth: int,
    bottleneck: int,
    squeeze_excite: int | None,
    name: str,
) -> Tensor:
    """The module of the paper's figure 3b; only its first 1x1 convolution has groups."""
    y = _shuffled(base.norm_relu(x, f"{name}_input"), groups, name)
    y = convolution(bottleneck * growth, groups=groups, name=f"{name}_group_pointwise")(y)
    y = base.norm(y, f"{name}_group_pointwise")
    if squeeze_excite is not None:
        y = SqueezeExcite(squeeze_excite, name=f"{name}_squeeze_excite")(y)
    y = base.norm(base.depthwise_conv2d(y, name=f"{name}_depthwise"), f"{name}_depthwise")
    y = base.conv2d(y, growth, name=f"{name}_pointwise")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, y])


def _transition(x: Tensor, compression: float, name: str) -> Tensor:
    """Between two stages: fewer channels or as many, half the height and width."""
    filters = int(compression * x.shape[-1])
    _checks.positive("compression * channels", filters)
    x = base.conv2d(base.norm_relu(x, f"{name}_input"), filters, name=f"{name}_pointwise")
    return keras.layers.AveragePooling2D(2, data_format="channels_last", name=f"{name}_pool")(x)


@checked
def HGCNet(
    *,
    groups: int = 4,
    hierarchical: bool = True,
    blocks_per_stage: int | Sequence[int] = (9, 5, 7),
    squeeze_excite: int | None = None,
    growth: int = 8,
    bottleneck: int = 6,
    stem_filters: int = 16,
    compression: float = 1.0,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A densely connected network of hierarchical group convolutions (HGCNet), or of split ones (SGCNet).

    A module normalizes and activates all channels so far, shuffles them, and adds `growth` channels: a 1x1 convolution
    in groups, a 3x3 depthwise and a dense 1x1 convolution, with batch normalization but no ReLU between. A transition
    is a dense 1x1 convolution and average pooling.

    Args:
        groups: int, groups of the first 1x1 convolution of a module (the paper's G); must divide
            `growth * bottleneck`.
        hierarchical: bool, whether that convolution is a `HierarchicalGroupConv2D` (HGCNet) or a `SplitGroupConv2D`
            (SGCNet).
        blocks_per_stage: int, or a sequence with one entry for each of the three stages: modules. Open in the paper.
        squeeze_excite: int, reduction of a `SqueezeExcite` after the first 1x1 convolution, or `None` for none. The
            reduction is open in the paper; its count agrees with 8.
        growth: int, channels that a module of the first stage adds, doubled in each later stage. Open in the paper.
        bottleneck: int, channels between the convolutions of a module divided by those that it adds. Open in the paper.
        stem_filters: int, channels of the stem. Open in the paper.
        compression: number above 0 and at most 1, channels after a transition divided by those before, rounded down.
            Open in the paper.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> model = HGCNet(blocks_per_stage=1, growth=4, stem_filters=8, input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, section 4
    and tables 1 to 3.
    """
    for argument, value in {"groups": groups, "growth": growth, "bottleneck": bottleneck}.items():
        _checks.positive(argument, value)
    _checks.positive("stem_filters", stem_filters)
    _checks.divides("groups", groups, "`growth` * `bottleneck`", growth * bottleneck)
    if squeeze_excite is not None:
        _checks.positive("squeeze_excite", squeeze_excite)
        _checks.divides("squeeze_excite", squeeze_excite, "`growth` * `bottleneck`", growth * bottleneck)
    _checks.above_zero("compression", compression)
    if compression > 1:
        raise ValueError(f"`compression` (={compression!r}) must be at most 1.")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, STAGES)
    convolution = HierarchicalGroupConv2D if hierarchical else SplitGroupConv2D
    frame = base.frame("hgcnet", common)
    images = frame.images(total_stride=2 ** (STAGES - 1))
    x = base.conv2d(images, stem_filters, 3, name="stem")
    for stage, count in enumerate(counts, start=1):
        if stage > 1:
            x = _transition(x, compression, f"transition{stage - 1}")
        for index in range(1, count + 1):
            stage_growth = growth * 2 ** (stage - 1)
            x = _module(x, convolution, groups, stage_growth, bottleneck, squeeze_excite, f"stage{stage}_module{index}")
    return frame.network(images, frame.head(base.norm_relu(x, "head")))
