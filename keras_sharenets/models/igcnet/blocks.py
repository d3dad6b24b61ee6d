"""Blocks of the networks that the IGC-V2 paper compares: a 3x3 convolution and a 1x1 part, each sparse in the channels.

There is no nonlinearity between the convolutions of a block, and by default no normalization. The network adds batch
normalization after the block.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import ChannelShuffle, InterleavedGroupConv2D
from keras_sharenets.models import base
from keras_sharenets.ops import connectivity, permutations


@dataclasses.dataclass(frozen=True)
class Kind:
    """The structure of a block.

    Attributes:
        grouped: whether the 3x3 convolution has branches of several channels rather than being depthwise.
        pointwise: the 1x1 part: one `"dense"` or `"grouped"` convolution, or a chain of `"interleaved"` ones.
    """

    grouped: bool
    pointwise: str


KINDS = {
    "xception": Kind(grouped=False, pointwise="dense"),
    "igcv1": Kind(grouped=True, pointwise="grouped"),
    "igcv2": Kind(grouped=False, pointwise="interleaved"),
    "igcv2_i": Kind(grouped=True, pointwise="interleaved"),
    "deep_roots": Kind(grouped=True, pointwise="dense"),
}
SHORTCUTS = ("branches", "pairs", "dense", "pad")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options common to the blocks of a stage.

    Attributes:
        block: str, a key of `KINDS`.
        width: int, number of channels of the network's first blocks.
        norm_each: bool, whether batch normalization follows each convolution.
        shortcut: one of `SHORTCUTS`.
        widens: which convolution of an interleaved 1x1 part widens, `"first"` or `"last"`.
        spatial_branches: int, number of branches of a 3x3 convolution that is not depthwise; `width / 2` by default.
    """

    block: str
    width: int
    norm_each: bool
    shortcut: str = "branches"
    widens: str = "last"
    spatial_branches: int | None = None

    def __post_init__(self) -> None:
        _checks.one_of("block", self.block, tuple(KINDS))
        _checks.positive("width", self.width)
        _checks.one_of("shortcut", self.shortcut, SHORTCUTS)
        _checks.one_of("widens", self.widens, ("first", "last"))
        if self.widens == "first" and self.block != "igcv2":
            raise ValueError(f"`widens` (='first') must be 'last' for `block` (={self.block!r}).")
        if self.spatial_branches is not None:
            _checks.positive("spatial_branches", self.spatial_branches)
            if not self.kind.grouped:
                raise ValueError(
                    f"`spatial_branches` (={self.spatial_branches}) must be `None` for `block` (={self.block!r}): its "
                    "3x3 convolution is depthwise."
                )
        elif self.kind.grouped:
            self.check_even()

    def check_even(self) -> None:
        """Raises a `ValueError` unless the width is even, as blocks and shortcuts may require."""
        if self.block != "xception" and self.width % 2:
            raise ValueError(f"`width` (={self.width}) must be even for `block` (={self.block!r}).")

    @property
    def kind(self) -> Kind:
        """The structure of the blocks."""
        return KINDS[self.block]

    @property
    def branches(self) -> int:
        """Number of branches of a 3x3 convolution that is not depthwise."""
        return self.spatial_branches or self.width // 2

    def branch_channels(self, given: Sequence[int] | None, width: int) -> Sequence[int] | None:
        """The branch sizes of the 1x1 part of a block of that width; `None` if it is a single convolution."""
        if self.kind.pointwise == "interleaved":
            return (8,) * connectivity.fewest_convolutions(width) if given is None else given
        if given is not None:
            raise ValueError(f"`branch_channels` (={given!r}) must be `None` for `block` (={self.block!r}).")
        return None


def _norm_between(x: Tensor, name: str) -> Tensor:
    # Without an offset, which the normalization after the block would cancel.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=False, name=f"{name}_norm")(x)


def _steps(channels: int, branch_channels: Sequence[int], width: int, widens: str) -> Iterator[tuple]:
    """The 1x1 part of IGC-V2 step by step: filters and branch size of each group convolution, and its shuffles."""
    first, *rest = branch_channels
    if widens == "first" and width > channels and rest:
        _checks.divides("branch_channels[0]", first, "the number of input channels", channels)
        # Each of the next branches reads from as many branches of this convolution as possible.
        yield width, first, (first * width // channels,)
        yield from zip([width] * len(rest), rest, permutations.interleaving(width, rest, width), strict=True)
        return
    filters = [channels] * len(rest) + [width]
    yield from zip(filters, branch_channels, permutations.interleaving(channels, branch_channels, width), strict=True)


def _interleaved(x: Tensor, width: int, branch_channels: Sequence[int], options: Options, name: str) -> Tensor:
    """The 1x1 part of IGC-V2: one layer, or separate ones with normalization between or if the first one widens."""
    channels = x.shape[-1]
    widens_first = options.widens == "first" and width > channels
    if not (options.norm_each or widens_first):
        return InterleavedGroupConv2D(width, branch_channels=branch_channels, name=f"{name}_interleaved")(x)
    steps = list(_steps(channels, branch_channels, width, options.widens))
    for place, (filters, size, shuffles) in enumerate(steps, start=1):
        step, last = f"{name}_pointwise{place}", place == len(steps)
        # As in `InterleavedGroupConv2D`: only one ReLU follows all of them.
        gain = 2 if options.norm_each else 2 ** (1 / len(steps))
        initializer = keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal")
        x = base.conv2d(x, filters, groups=x.shape[-1] // size, kernel_initializer=initializer, name=step)
        for number, groups in enumerate(shuffles, start=1):
            x = ChannelShuffle(filters // groups, name=f"{step}_shuffle{number}")(x)
        x = _norm_between(x, step) if options.norm_each and not last else x
    return x


def block(
    x: Tensor, width: int, strides: int, branch_channels: Sequence[int] | None, options: Options, name: str
) -> Tensor:
    """One block with `width` output channels, without the batch normalization after it.

    With a depthwise 3x3 convolution, the 1x1 part widens; a grouped 3x3 convolution widens itself.

    Args:
        x: tensor.
        width: int, number of output channels.
        strides: int, strides of the 3x3 convolution.
        branch_channels: sequence of ints, number of input channels per branch for each convolution of an interleaved
            1x1 part, or `None` for a single convolution.
        options: `Options`.
        name: str, prefix of the layer names.
    """
    kind, branches = options.kind, options.branches
    if kind.grouped:
        x = base.conv2d(x, width, 3, strides=strides, groups=branches, name=f"{name}_spatial")
    else:
        x = base.depthwise_conv2d(x, strides=strides, name=f"{name}_spatial")
    if options.norm_each:
        x = _norm_between(x, f"{name}_spatial")
    # A dense 1x1 convolution does not depend on the order of the channels.
    shuffled = kind.grouped and kind.pointwise != "dense"
    if shuffled:
        x = ChannelShuffle(branches, name=f"{name}_shuffle")(x)
    if branch_channels is not None:
        x = _interleaved(x, width, branch_channels, options, name)
    else:
        groups = width // branches if kind.pointwise == "grouped" else 1
        x = base.conv2d(x, width, groups=groups, name=f"{name}_pointwise")
    return ChannelShuffle(width // branches, name=f"{name}_shuffle_back")(x) if shuffled else x


def _shortcut(x: Tensor, width: int, strides: int, options: Options, name: str) -> Tensor:
    channels = x.shape[-1]
    if channels == width:
        return x
    if strides == 1 or options.shortcut == "pad":
        return base.padded_shortcut(x, width, strides, name)
    if options.shortcut == "pairs":
        _checks.multiple("stem_filters", channels, 2)  # Of the stages, all widths are even.
    branches = 1 if options.block == "xception" else options.width // 2
    groups = {"branches": branches, "pairs": channels // 2, "dense": 1}[options.shortcut]
    shortcut = f"{name}_shortcut"
    return base.norm(base.conv2d(x, width, strides=strides, groups=groups, name=shortcut), shortcut)


def pair(
    x: Tensor,
    width: int,
    strides: int,
    branch_channels: Sequence[Sequence[int] | None],
    options: Options,
    names: Sequence[str],
) -> Tensor:
    """Two blocks with a shortcut around both; `branch_channels` and `names` have one entry per block."""
    (first, second), (first_sizes, second_sizes) = names, branch_channels
    y = block(x, width, strides, first_sizes, options, first)
    y = base.norm_relu(y, first)
    y = block(y, width, 1, second_sizes, options, second)
    y = base.norm(y, second)
    y = keras.layers.Add(name=f"{second}_add")([_shortcut(x, width, strides, options, first), y])
    return keras.layers.ReLU(name=f"{second}_relu")(y)
