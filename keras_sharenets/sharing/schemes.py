"""Sharing schemes with the parameters of their papers, as plain data for [`keras_sharenets.share`]."""

from __future__ import annotations

import dataclasses

from keras_sharenets import _checks
from keras_sharenets.ops import permutations

POLICIES = ("stage", "block", "all", "none")


@dataclasses.dataclass(frozen=True)
class ShareDepth:
    """Replaces convolutions of equal shape by calls of one layer, each with its own normalization.

    Every call keeps its own batch normalization. If the convolution has none, a scale and an offset for each output
    channel replace it (a depthwise 1x1 convolution).

    Attributes:
        policy: which convolutions with equal kernel shape, strides, padding, dilation and groups share: `"stage"`,
            those whose outputs have equal height and width; `"block"`, those of a stage between two merges such as the
            `Add` of a residual block; `"all"`, those of the whole network; `"none"`.
        blending: bool, whether each call is followed by its own 1x1 convolution, as in ShardNet's SL. Convolutions with
            groups are then left unchanged.
        match_channels: bool, whether channels between two convolutions may be permuted to bring the kernels to share
            closer together, if that reduces the loss. Only channels that activations, batch normalizations, pooling and
            depthwise convolutions read are permuted, not those that an `Add` reads. The permutation itself does not
            change the output of the network, but layers inside blocks return their channels in another order.

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018; Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020.
    """

    policy: str = "stage"
    blending: bool = False
    match_channels: bool = True

    def __post_init__(self) -> None:
        _checks.one_of("policy", self.policy, POLICIES)
        _checks.boolean("blending", self.blending)
        _checks.boolean("match_channels", self.match_channels)


@dataclasses.dataclass(frozen=True)
class ShareChannels:
    """Replaces a convolution by a [`keras_sharenets.layers.HighlySharedConv2D`], which reuses few filters many times.

    Attributes:
        groups, channel_repeats, arrangements, shuffle_groups, plane_orders: arguments of the layer. `groups` must be a
            multiple of the groups of the convolution; if it is larger, the weights between groups are dropped. With all
            defaults, the layer is an ordinary convolution, which shares nothing.

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021.
    """

    groups: int = 1
    channel_repeats: int = 1
    arrangements: int = 1
    shuffle_groups: int = 2
    plane_orders: str = "distinct"

    def __post_init__(self) -> None:
        for name in ("groups", "channel_repeats", "arrangements", "shuffle_groups"):
            _checks.positive(name, getattr(self, name))
        _checks.one_of("plane_orders", self.plane_orders, permutations.PLANE_ORDERS)
        _checks.divides("channel_repeats", self.channel_repeats, "`groups`", self.groups)


@dataclasses.dataclass(frozen=True)
class HierarchicalGroups:
    """Replaces a 1x1 convolution by a [`keras_sharenets.layers.HierarchicalGroupConv2D`].

    Attributes:
        groups: int, argument of the layer.

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657.
    """

    groups: int

    def __post_init__(self) -> None:
        _checks.positive("groups", self.groups)


@dataclasses.dataclass(frozen=True)
class InterleavedGroups:
    """Replaces a 1x1 convolution with at least as many filters as channels by an IGC-V2 layer.

    That layer is [`keras_sharenets.layers.InterleavedGroupConv2D`].

    Attributes:
        branch_channels: tuple of ints, argument of the layer, or `None` for the sizes with the fewest weights whose
            product is the number of channels (`keras_sharenets.ops.balance.best_integer`).
        group_convolutions: int, number of such sizes; ignored if `branch_channels` is given.

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018.
    """

    branch_channels: tuple[int, ...] | None = None
    group_convolutions: int = 2

    def __post_init__(self) -> None:
        if self.branch_channels is not None:
            object.__setattr__(self, "branch_channels", _checks.sizes("branch_channels", self.branch_channels))
        _checks.positive("group_convolutions", self.group_convolutions)


Scheme = ShareDepth | ShareChannels | HierarchicalGroups | InterleavedGroups


def shares_nothing(scheme: Scheme) -> bool:
    """Whether the parameters of a scheme are such that every convolution keeps its kernel.

    >>> shares_nothing(ShareChannels()), shares_nothing(HierarchicalGroups(1)), shares_nothing(InterleavedGroups())
    (True, True, False)
    """
    if isinstance(scheme, ShareDepth):
        return scheme.policy == "none"
    if isinstance(scheme, ShareChannels):
        return scheme.groups == scheme.channel_repeats == scheme.arrangements == 1
    if isinstance(scheme, HierarchicalGroups):
        return scheme.groups == 1
    return scheme.branch_channels is None and scheme.group_convolutions == 1
