"""The network of HGCNet and SGCNet: stem, stages of modules and transitions between them, classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
# What may stand before the depthwise convolution of a module, and after it.
AROUND = ("none", "norm", "norm_relu")
TRANSITIONS = ("conv_pool", "pool_conv", "pool")


@dataclasses.dataclass(frozen=True)
class Options:
    """What all modules of one network have in common; the fields are the keywords of `HGCNet`."""

    groups: int
    hierarchical: bool
    growth: int
    bottleneck: int
    squeeze_excite: int | None
    squeeze_excite_after: str
    shuffle: str
    around_depthwise: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("groups", "growth", "bottleneck"):
            _checks.positive(name, getattr(self, name))
        wide = self.growth * self.bottleneck
        _checks.divides("groups", self.groups, "`growth` * `bottleneck`", wide)
        _checks.one_of("squeeze_excite_after", self.squeeze_excite_after, ("group_pointwise", "depthwise", "pointwise"))
        if self.squeeze_excite is not None:
            _checks.positive("squeeze_excite", self.squeeze_excite)
            if self.squeeze_excite_after == "pointwise":
                _checks.divides("squeeze_excite", self.squeeze_excite, "`growth`", self.growth)
            _checks.divides("squeeze_excite", self.squeeze_excite, "`growth` * `bottleneck`", wide)
        _checks.one_of("shuffle", self.shuffle, ("strided", "shufflenet", "none"))
        if len(self.around_depthwise) != 2:
            raise ValueError(f"`around_depthwise` (={self.around_depthwise!r}) must be a pair: before it and after it.")
        for place in self.around_depthwise:
            _checks.one_of("around_depthwise", place, AROUND)

    def convolution(self, filters: int, name: str) -> HierarchicalGroupConv2D | SplitGroupConv2D:
        """The 1x1 convolution in groups."""
        kind = HierarchicalGroupConv2D if self.hierarchical else SplitGroupConv2D
        return kind(filters, groups=self.groups, name=name)

    def squeezed(self, x: Tensor, after: str, name: str) -> Tensor:
        """`x`, its channels weighed if this is the place for it."""
        if self.squeeze_excite is None or after != self.squeeze_excite_after:
            return x
        return SqueezeExcite(self.squeeze_excite, name=f"{name}_squeeze_excite")(x)


def _shuffled(x: Tensor, options: Options, name: str) -> Tensor:
    """Every group of what follows gets channels from all over the concatenation: `g`, `g + groups` and so on."""
    channels, groups, name = x.shape[-1], options.groups, f"{name}_shuffle"
    if groups == 1 or options.shuffle == "none":
        return x
    if options.shuffle == "shufflenet":
        _checks.divides("groups", groups, "the channels that `shuffle` (='shufflenet') reads", channels)
        return ChannelShuffle(groups, name=name)(x)
    if channels % groups:
        return StridedChannelShuffle(groups, name=name)(x)
    return ChannelShuffle(channels // groups, name=name)(x)


def _normalized(x: Tensor, how: str, name: str) -> Tensor:
    return x if how == "none" else {"norm": base.norm, "norm_relu": base.norm_relu}[how](x, name)


def module(x: Tensor, growth: int, options: Options, name: str) -> Tensor:
    """The module of the paper's figure 3b; only its first 1x1 convolution has groups."""
    before, after = options.around_depthwise
    y = _shuffled(base.norm_relu(x, f"{name}_input"), options, name)
    y = options.convolution(options.bottleneck * growth, f"{name}_group_pointwise")(y)
    y = _normalized(y, before, f"{name}_group_pointwise")
    y = options.squeezed(y, "group_pointwise", name)
    y = _normalized(base.depthwise_conv2d(y, name=f"{name}_depthwise"), after, f"{name}_depthwise")
    y = options.squeezed(y, "depthwise", name)
    y = base.conv2d(y, growth, name=f"{name}_pointwise")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, options.squeezed(y, "pointwise", name)])


def _transition(x: Tensor, kind: str, compression: float, name: str) -> Tensor:
    """Between two stages: fewer channels or as many, half the height and width."""
    pool = keras.layers.AveragePooling2D(2, data_format="channels_last", name=f"{name}_pool")
    if kind == "pool":
        return pool(x)
    filters = int(compression * x.shape[-1])
    _checks.positive("compression * channels", filters)
    x = base.norm_relu(x, f"{name}_input")
    if kind == "pool_conv":
        return base.conv2d(pool(x), filters, name=f"{name}_pointwise")
    return pool(base.conv2d(x, filters, name=f"{name}_pointwise"))


@checked
def HGCNet(
    *,
    groups: int = 4,
    hierarchical: bool = True,
    blocks_per_stage: int | Sequence[int] = (9, 5, 7),
    squeeze_excite: int | None = None,
    squeeze_excite_after: str = "group_pointwise",
    shuffle: str = "strided",
    around_depthwise: Sequence[str] = ("norm", "norm"),
    growth: int = 8,
    bottleneck: int = 6,
    stem_filters: int = 16,
    transition: str = "conv_pool",
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
        squeeze_excite: int, reduction of a `SqueezeExcite` in every module, or `None` for none. The reduction is open
            in the paper; its count agrees with 8.
        squeeze_excite_after: where that is: after the `"group_pointwise"`, the `"depthwise"` or the last convolution,
            `"pointwise"`. Open in the paper; only the first two agree with its count.
        shuffle: order of the channels before the first 1x1 convolution: `"strided"` (a group reads every `groups`-th
            channel), `"shufflenet"` (the inverse; `groups` must divide what every module reads) or `"none"`. Open in
            the paper, but that there is one.
        around_depthwise: pair, what is before the depthwise convolution and after it: `"none"`, `"norm"` (batch
            normalization) or `"norm_relu"`. The paper bans the ReLU before it and leaves the rest open.
        growth: int, channels that a module of the first stage adds, doubled in each later stage. Open in the paper.
        bottleneck: int, channels between the convolutions of a module divided by those that it adds. Open in the paper.
        stem_filters: int, channels of the stem. Open in the paper.
        transition: `"conv_pool"` (batch normalization, ReLU, dense 1x1 convolution, average pooling), `"pool_conv"`
            (the pooling before the convolution) or `"pool"` (nothing else). Open in the paper; the first agrees with
            its multiply-adds.
        compression: number above 0 and at most 1, channels after a transition divided by those before, rounded down;
            1 with `transition="pool"`. Open in the paper.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> model = HGCNet(blocks_per_stage=1, growth=4, stem_filters=8, input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, section 4
    and tables 1 to 3.
    """
    options = Options(
        groups=groups,
        hierarchical=hierarchical,
        growth=growth,
        bottleneck=bottleneck,
        squeeze_excite=squeeze_excite,
        squeeze_excite_after=squeeze_excite_after,
        shuffle=shuffle,
        around_depthwise=tuple(around_depthwise),
    )
    _checks.positive("stem_filters", stem_filters)
    _checks.one_of("transition", transition, TRANSITIONS)
    _checks.above_zero("compression", compression)
    if compression > 1:
        raise ValueError(f"`compression` (={compression!r}) must be at most 1.")
    if transition == "pool" and compression != 1:
        raise ValueError(f"`compression` (={compression!r}) must be 1 with `transition` (='pool').")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, STAGES)
    frame = base.frame("hgcnet", common)
    images = frame.images(total_stride=2 ** (STAGES - 1))
    x = base.conv2d(images, stem_filters, 3, name="stem")
    for stage, count in enumerate(counts, start=1):
        if stage > 1:
            x = _transition(x, transition, compression, f"transition{stage - 1}")
        for index in range(1, count + 1):
            x = module(x, growth * 2 ** (stage - 1), options, f"stage{stage}_module{index}")
    return frame.network(images, frame.head(base.norm_relu(x, "head")))
