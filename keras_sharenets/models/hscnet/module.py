"""The module of HSC-Net (the paper's figure 5 and algorithm 1) and the choices that all modules of a network share."""

import dataclasses
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Tensor
from keras_sharenets.layers import ChannelPadding, ChannelShuffle, HighlySharedConv2D, ParallelConv2D
from keras_sharenets.models import base


@dataclasses.dataclass(frozen=True)
class Options:
    """What all modules of one network have in common; the fields are the keywords of `HSCNet`."""

    groups: int
    channel_repeats: int
    arrangements: int
    alpha: float
    star: bool
    shuffle_groups: int
    arrange_first_expand: bool
    arrange_group_pointwise: bool
    arrange_in_transition: str
    share_in_transition: bool
    spatial_order: str
    stride_on: str
    shortcut: str
    projection_input: str
    dropout_rate: float
    kernel_initializer: Configured

    def __post_init__(self) -> None:
        for name in ("groups", "channel_repeats", "arrangements", "shuffle_groups"):
            _checks.positive(name, getattr(self, name))
        _checks.above_zero("alpha", self.alpha)
        _checks.rate("dropout_rate", self.dropout_rate)
        _checks.divides("channel_repeats", self.channel_repeats, "`groups`", self.groups)
        _checks.one_of("arrange_in_transition", self.arrange_in_transition, ("expand", "reduce"))
        _checks.one_of("spatial_order", self.spatial_order, ("group_major", "arrangement_major"))
        _checks.one_of("stride_on", self.stride_on, ("spatial", "reduce"))
        _checks.one_of("shortcut", self.shortcut, ("projection", "pad"))
        _checks.one_of("projection_input", self.projection_input, ("activated", "raw"))

    def hidden_width(self, width: int) -> int:
        """Channels of the bottleneck of a stage (the paper's K)."""
        hidden = round(width / self.alpha)
        if abs(hidden * self.alpha - width) > 1e-6 * width:
            raise ValueError(f"`alpha` (={self.alpha}) must divide every stage width (={width}) into an integer.")
        _checks.divides("groups", self.groups, f"the bottleneck of a stage of width {width}", hidden)
        _checks.divides("arrangements", self.arrangements, "the bottleneck channels per group", hidden // self.groups)
        return hidden

    def conv(self, filters: int, kernel_size: int, name: str, **sharing: Any) -> HighlySharedConv2D:
        """A convolution with these options."""
        return HighlySharedConv2D(
            filters,
            kernel_size,
            shuffle_groups=self.shuffle_groups,
            kernel_initializer=self.kernel_initializer,
            name=name,
            **sharing,
        )


def _module_layers(options: Options, width: int, strides: int, transition: bool, name: str) -> tuple[tuple, tuple]:
    """The convolutions of one module: `(reduce, convolve, expand)` for each of its two general layers.

    theta1 is `reduce`, theta4 and theta5 are `convolve.spatial` and `convolve.pointwise`, theta2 and theta3 `expand1`
    and `expand2`.
    """
    hidden = options.hidden_width(width)
    arranged = {True: options.arrangements, False: 1}
    grouped = {"groups": options.groups}
    # A layer shared between places of different stride pads by hand: "same" would center the strided 3x3 elsewhere.
    padding = "valid" if strides > 1 else "same"

    def convolution(suffix):
        sharing = {"channel_repeats": options.channel_repeats, "arrangements": options.arrangements}
        conv = options.conv(hidden, 3, f"{name}_spatial{suffix}", padding=padding, **grouped, **sharing)
        arrangements = arranged[options.arrange_group_pointwise]
        pointwise_name = f"{name}_group_pointwise{suffix}"
        pointwise = options.conv(hidden, 1, pointwise_name, arrangements=arrangements, **grouped)
        return ParallelConv2D(conv, pointwise, name=f"{name}_convolution{suffix}")

    first = second = convolution("")
    arrange_reduce_second = transition and options.arrange_in_transition == "reduce"
    if transition:
        # c x K against M x K: the two uses of theta1 cannot be one tensor.
        reduce_first = options.conv(hidden, 1, f"{name}_reduce1")
        reduce_second = options.conv(hidden, 1, f"{name}_reduce2", arrangements=arranged[arrange_reduce_second])
        if not options.share_in_transition:
            second = convolution("2")
    else:
        reduce_first = reduce_second = options.conv(hidden, 1, f"{name}_reduce", arrangements=options.arrangements)
    arrange_expand1 = options.arrange_first_expand and not arrange_reduce_second
    expand1 = options.conv(width, 1, f"{name}_expand1", arrangements=arranged[arrange_expand1])
    expand2 = options.conv(width, 1, f"{name}_expand2", arrangements=arranged[options.star])
    return (reduce_first, first, expand1), (reduce_second, second, expand2)


def _general_layer(x: Tensor, layers: tuple, strides: tuple[int, int], options: Options, name: str) -> Tensor:
    """Reduce, convolve in groups, expand; `x` is activated, `strides` those of (reduce, convolve)."""
    reduce, convolve, expand = layers
    x = reduce(x, strides=strides[0])
    x = base.norm_relu(x, f"{name}_reduced")
    if options.spatial_order == "arrangement_major" and options.arrangements > 1:
        x = _arrangement_major(x, convolve, strides[1], options, name)
    else:
        x = convolve(x, strides=strides[1])
    return expand(base.norm_relu(x, f"{name}_convolved"))


def _arrangement_major(x: Tensor, convolve: ParallelConv2D, strides: int, options: Options, name: str) -> Tensor:
    """The two convolutions and their sum, where another order of the first one's channels comes between."""
    planes = (
        keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")(x) if any(convolve.border) else x
    )
    common = convolve.spatial(planes, strides=strides)
    block = convolve.spatial.filters // (options.groups * options.arrangements)
    common = ChannelShuffle(options.groups, block_size=block, name=f"{name}_arrangement_major")(common)
    return keras.layers.Add(name=f"{name}_sum")([common, convolve.pointwise(x, strides=strides)])


def module(x: Tensor, width: int, strides: int, options: Options, name: str) -> Tensor:
    """One module (the paper's figure 5): two general layers and a shortcut."""
    channels = x.shape[-1]
    transition = channels != width and options.shortcut == "projection"
    first, second = _module_layers(options, width, strides, transition, name)
    active = base.norm_relu(x, f"{name}_input")
    if transition:
        source = active if options.projection_input == "activated" else x
        initializer, projection = options.kernel_initializer, f"{name}_projection"
        shortcut = base.conv2d(source, width, strides=strides, kernel_initializer=initializer, name=projection)
    else:
        shortcut = x
        if channels != width:
            shortcut = ChannelPadding(width, name=f"{name}_shortcut_pad")(shortcut)
            active = ChannelPadding(width, name=f"{name}_input_pad")(active)
        if strides > 1:
            shortcut = keras.layers.MaxPooling2D(
                1, strides=strides, data_format="channels_last", name=f"{name}_subsample"
            )(shortcut)
    first_strides = (strides, 1) if options.stride_on == "reduce" else (1, strides)
    x = _general_layer(active, first, first_strides, options, f"{name}_layer1")
    x = base.norm_relu(x, f"{name}_middle")
    if options.dropout_rate:
        x = keras.layers.Dropout(options.dropout_rate, name=f"{name}_dropout")(x)
    x = _general_layer(x, second, (1, 1), options, f"{name}_layer2")
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])
