"""Blocks of the networks that the IGC-V2 paper compares: a 3x3 convolution and a 1x1 part, each sparse in the channels.

Nothing nonlinear lies between the convolutions of a block, and no normalization unless told otherwise; the network puts
batch normalization behind the block.
"""

import dataclasses
from collections.abc import Sequence

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import ChannelPadding, ChannelShuffle, InterleavedGroupConv2D
from keras_sharenets.models import base
from keras_sharenets.ops import connectivity, permutations


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a block is made of.

    Attributes:
        grouped: whether the 3x3 convolution has branches of several channels, or is depthwise.
        interleaved: whether the 1x1 part is a chain of group convolutions, or one convolution.
    """

    grouped: bool
    interleaved: bool


KINDS = {
    "xception": Kind(grouped=False, interleaved=False),
    "igcv1": Kind(grouped=True, interleaved=False),
    "igcv2": Kind(grouped=False, interleaved=True),
    "igcv2_i": Kind(grouped=True, interleaved=True),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What all blocks of one network have in common.

    Attributes:
        block: str, a key of `KINDS`.
        width: int, channels of the network's first blocks.
        norm_each: bool, whether batch normalization follows each convolution.
    """

    block: str
    width: int
    norm_each: bool

    def __post_init__(self) -> None:
        _checks.one_of("block", self.block, tuple(KINDS))
        _checks.positive("width", self.width)
        if self.kind.grouped:
            self.check_even()

    def check_even(self) -> None:
        """Raise a `ValueError` unless the width makes whole `branches`."""
        if self.block != "xception" and self.width % 2:
            raise ValueError(f"`width` (={self.width}) must be even for `block` (={self.block!r}).")

    @property
    def kind(self) -> Kind:
        """What the blocks are made of."""
        return KINDS[self.block]

    @property
    def branches(self) -> int:
        """Branches of a 3x3 convolution that is not depthwise, and of a shortcut: as many in every stage."""
        return 1 if self.block == "xception" else self.width // 2

    def branch_channels(self, given: Sequence[int] | None, width: int) -> Sequence[int] | None:
        """Branches of the 1x1 part of a block that ends with that width; `None` where it is one convolution."""
        if self.kind.interleaved:
            return (8,) * connectivity.fewest_convolutions(width) if given is None else given
        if given is not None:
            raise ValueError(f"`branch_channels` (={given!r}) must be `None` for `block` (={self.block!r}).")
        return None


def _norm_between(x: Tensor, name: str) -> Tensor:
    # Without an offset: the normalization at the end of the block would take it away again.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=False, name=f"{name}_norm")(x)


def _interleaved(x: Tensor, width: int, branch_channels: Sequence[int], norm_each: bool, name: str) -> Tensor:
    """The 1x1 part of IGC-V2, as one layer, or taken apart for batch normalization between its convolutions."""
    if not norm_each:
        return InterleavedGroupConv2D(width, branch_channels=branch_channels, name=f"{name}_interleaved")(x)
    channels = x.shape[-1]
    steps = zip(branch_channels, permutations.interleaving(channels, branch_channels, width), strict=True)
    for place, (size, shuffles) in enumerate(steps, start=1):
        last = place == len(branch_channels)
        step = f"{name}_pointwise{place}"
        filters = width if last else channels
        x = base.conv2d(x, filters, groups=channels // size, name=step)
        for number, groups in enumerate(shuffles, start=1):
            x = ChannelShuffle(filters // groups, name=f"{step}_shuffle{number}")(x)
        x = x if last else _norm_between(x, step)
    return x


def block(
    x: Tensor, width: int, strides: int, branch_channels: Sequence[int] | None, options: Options, name: str
) -> Tensor:
    """One block, from whatever channels to `width`, without the batch normalization at its end.

    A depthwise 3x3 convolution leaves it to the 1x1 part to widen; one with branches widens itself.
    """
    kind, branches = options.kind, options.branches
    if kind.grouped:
        x = base.conv2d(x, width, 3, strides=strides, groups=branches, name=f"{name}_spatial")
    else:
        x = base.depthwise_conv2d(x, strides=strides, name=f"{name}_spatial")
    if options.norm_each:
        x = _norm_between(x, f"{name}_spatial")
    if kind.grouped:
        x = ChannelShuffle(branches, name=f"{name}_shuffle")(x)
    if branch_channels is not None:
        x = _interleaved(x, width, branch_channels, options.norm_each, name)
    else:
        x = base.conv2d(x, width, groups=width // branches if kind.grouped else 1, name=f"{name}_pointwise")
    return ChannelShuffle(width // branches, name=f"{name}_shuffle_back")(x) if kind.grouped else x


def _shortcut(x: Tensor, width: int, strides: int, options: Options, name: str) -> Tensor:
    if x.shape[-1] == width:
        return x
    if strides == 1:
        return ChannelPadding(width, name=f"{name}_shortcut_pad")(x)
    shortcut = f"{name}_shortcut"
    return base.norm(base.conv2d(x, width, strides=strides, groups=options.branches, name=shortcut), shortcut)


def pair(
    x: Tensor,
    width: int,
    strides: int,
    branch_channels: Sequence[int] | None,
    options: Options,
    first: str,
    second: str,
) -> Tensor:
    """Two blocks with a shortcut around both. `first` and `second` are their names."""
    y = block(x, width, strides, branch_channels, options, first)
    y = base.norm_relu(y, first)
    y = block(y, width, 1, branch_channels, options, second)
    y = base.norm(y, second)
    y = keras.layers.Add(name=f"{second}_add")([_shortcut(x, width, strides, options, first), y])
    return keras.layers.ReLU(name=f"{second}_relu")(y)
