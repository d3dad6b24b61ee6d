"""HGCNet and SGCNet: stem, stages of modules with transitions between them, classifier."""

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
# Options before and after the depthwise convolution of a module.
AROUND = ("none", "norm", "norm_relu")
TRANSITIONS = ("conv_pool", "pool_conv", "pool")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options common to all modules of a network; the fields are arguments of `HGCNet`."""

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
            raise ValueError(f"`around_depthwise` (={self.around_depthwise!r}) must be a pair: before and after.")
        for place in self.around_depthwise:
            _checks.one_of("around_depthwise", place, AROUND)

    def convolution(self, filters: int, name: str) -> HierarchicalGroupConv2D | SplitGroupConv2D:
        """The 1x1 group convolution."""
        kind = HierarchicalGroupConv2D if self.hierarchical else SplitGroupConv2D
        return kind(filters, groups=self.groups, name=name)

    def squeezed(self, x: Tensor, after: str, name: str) -> Tensor:
        """Applies squeeze-and-excitation to `x` if this is the configured position."""
        if self.squeeze_excite is None or after != self.squeeze_excite_after:
            return x
        return SqueezeExcite(self.squeeze_excite, name=f"{name}_squeeze_excite")(x)


def _shuffled(x: Tensor, options: Options, name: str) -> Tensor:
    """Shuffles so that every group of the next convolution reads channels from all parts of the concatenation."""
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
    """The module of the paper's figure 3b; only its first 1x1 convolution is grouped."""
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
    """Transition between two stages: at most as many channels, half the height and width."""
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
    """A densely connected network of hierarchical group convolutions (HGCNet) or split group convolutions (SGCNet).

    A module normalizes, activates and shuffles all previous channels, and adds `growth` channels by a 1x1 group
    convolution, a 3x3 depthwise and a dense 1x1 convolution, with batch normalization but no ReLU between them. A
    transition is a dense 1x1 convolution followed by average pooling.

    Args:
        groups: int, number of groups of the first 1x1 convolution of a module (the paper's G); must divide
            `growth * bottleneck`.
        hierarchical: bool, whether that convolution is a `HierarchicalGroupConv2D` (HGCNet) or a `SplitGroupConv2D`
            (SGCNet).
        blocks_per_stage: int, or a sequence of three, number of modules in each stage. The paper does not specify it.
        squeeze_excite: int, reduction of a `SqueezeExcite` in each module, or `None` for no `SqueezeExcite`. The paper
            does not specify the reduction; 8 matches its count.
        squeeze_excite_after: the convolution that it follows: `"group_pointwise"`, `"depthwise"` or `"pointwise"` (the
            last one). The paper does not specify it; only the first two match its count.
        shuffle: order of the channels before the first 1x1 convolution: `"strided"` (a group reads every `groups`-th
            channel), `"shufflenet"` (the inverse; `groups` must divide the input channels of every module) or `"none"`.
            The paper has a shuffle but does not specify it.
        around_depthwise: pair, operations before and after the depthwise convolution: `"none"`, `"norm"` (batch
            normalization) or `"norm_relu"`. The paper excludes a ReLU before it and does not specify the rest.
        growth: int, number of channels that a module of the first stage adds, doubled in each later stage. The paper
            does not specify it.
        bottleneck: int, ratio of the inner channels of a module to the channels that it adds. The paper does not
            specify it.
        stem_filters: int, number of channels of the stem. The paper does not specify it.
        transition: `"conv_pool"` (batch normalization, ReLU, dense 1x1 convolution, average pooling), `"pool_conv"`
            (pooling before the convolution) or `"pool"` (pooling only). The paper does not specify it; the first
            matches its multiply-adds.
        compression: float above 0 and at most 1, ratio of the channels after a transition to those before, rounded
            down; must be 1 with `transition="pool"`. The paper does not specify it.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

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
