"""The ways to share, each with its paper's parameters: plain data, given to [`keras_sharenets.share`]."""

from __future__ import annotations

import dataclasses

from keras_sharenets import _checks
from keras_sharenets.ops import permutations

POLICIES = ("stage", "block", "all", "none")


@dataclasses.dataclass(frozen=True)
class ShareDepth:
    """Convolutions of equal shape become calls of one layer, each with a normalization of its own.

    A place keeps its own batch normalization. Where none follows the convolution, a scale and an offset for each output
    channel take its place (a depthwise 1x1 convolution).

    Attributes:
        policy: which convolutions of equal kernel shape, strides, padding, dilation and groups share: `"stage"`, those
            whose outputs have equal height and width; `"block"`, those of a stage between two merges such as the `Add`
            of a residual block; `"all"` of the network; `"none"`.
        blending: bool, whether each place has a 1x1 convolution of its own behind the shared one, as in ShardNet's SL.
        match_channels: bool, whether channels between two convolutions may be put in the order in which kernels that
            are to share come nearest, and are where that loses less: the channels that only activations, batch
            normalizations, pooling and depthwise convolutions see, and no `Add`. The network without sharing would
            compute what it did, but layers inside of blocks give their channels in another order.

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
    """A convolution becomes a [`keras_sharenets.layers.HighlySharedConv2D`]: few filters, used again and again.

    Attributes:
        groups, channel_repeats, arrangements, shuffle_groups, plane_orders: as there. `groups` must be a multiple of
            the groups that the convolution has already; more groups than that drop the weights between groups.

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
    """A 1x1 convolution becomes a [`keras_sharenets.layers.HierarchicalGroupConv2D`].

    Attributes:
        groups: int, as there.

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657.
    """

    groups: int

    def __post_init__(self) -> None:
        _checks.positive("groups", self.groups)


@dataclasses.dataclass(frozen=True)
class InterleavedGroups:
    """A 1x1 convolution that does not narrow becomes a [`keras_sharenets.layers.InterleavedGroupConv2D`].

    Attributes:
        branch_channels: tuple of ints, as there, or `None` for the sizes with the fewest weights whose product is the
            number of channels (`keras_sharenets.ops.balance.best_integer`).
        group_convolutions: int, how many such sizes; not looked at when `branch_channels` are given.

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018.
    """

    branch_channels: tuple[int, ...] | None = None
    group_convolutions: int = 2

    def __post_init__(self) -> None:
        if self.branch_channels is not None:
            object.__setattr__(self, "branch_channels", _checks.sizes("branch_channels", self.branch_channels))
        _checks.positive("group_convolutions", self.group_convolutions)


Scheme = ShareDepth | ShareChannels | HierarchicalGroups | InterleavedGroups
