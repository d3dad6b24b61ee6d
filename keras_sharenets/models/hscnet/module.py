"""The module of HSC-Net (the paper's figure 5 and algorithm 1) and the options of all modules of a network."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Tensor
from keras_sharenets.layers import ChannelPadding, ChannelShuffle, HighlySharedConv2D, ParallelConv2D
from keras_sharenets.layers.bases import new_initializer
from keras_sharenets.models import base
from keras_sharenets.ops import permutations

# Allowed kinds of sharing of theta1 to theta5, in the letters of algorithm 1: by layer, by channel, by arrangement.
LETTERS = ("LA", "A", "A", "CLA", "CLA")


def resolve_sharing(
    sharing: Sequence[str] | None, star: bool, arrange_first_expand: bool, arrange_group_pointwise: bool
) -> tuple[str, ...]:
    """The letters of theta1 to theta5, or of theta1 to theta4 for a network without theta5, from `HSCNet`'s arguments.

    Raises:
        ValueError: the number of strings is wrong, a string has a letter that is not allowed, or another argument
            contradicts it.

    >>> resolve_sharing(None, star=True, arrange_first_expand=True, arrange_group_pointwise=False)
    ('LA', 'A', 'A', 'CLA', 'L')
    """
    if sharing is None:
        arranged = {True: "A", False: ""}
        return ("LA", arranged[arrange_first_expand], arranged[star], "CLA", "L" + arranged[arrange_group_pointwise])
    if len(sharing) not in (4, 5):
        raise ValueError(f"`sharing` (={sharing!r}) must be 5 strings, for theta1 to theta5, or 4: without theta5.")
    for theta, (letters, allowed) in enumerate(zip(sharing, LETTERS, strict=False), start=1):
        if not set(letters) <= set(allowed):
            raise ValueError(
                f"`sharing` (={sharing!r}) may have only letters of {allowed!r} for theta{theta}, not {letters!r}."
            )
    others = {"star": (star, False, 3), "arrange_first_expand": (arrange_first_expand, True, 2)}
    others["arrange_group_pointwise"] = (arrange_group_pointwise, False, 5)
    for name, (value, default, theta) in others.items():
        if value != default and ("A" in "".join(sharing[theta - 1 : theta])) != value:
            raise ValueError(f"`{name}` (={value}) must agree with `sharing` (={sharing!r}) or be omitted.")
    return tuple(sharing)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options common to all modules of a network; the fields are arguments of `HSCNet`."""

    groups: int
    channel_repeats: int
    arrangements: int
    alpha: float
    sharing: tuple[str, ...]
    shuffle_groups: int
    plane_orders: str
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
        _checks.one_of("plane_orders", self.plane_orders, permutations.PLANE_ORDERS)
        _checks.one_of("arrange_in_transition", self.arrange_in_transition, ("expand", "reduce"))
        _checks.one_of("spatial_order", self.spatial_order, ("group_major", "arrangement_major"))
        _checks.one_of("stride_on", self.stride_on, ("spatial", "reduce"))
        _checks.one_of("shortcut", self.shortcut, ("projection", "pad"))
        _checks.one_of("projection_input", self.projection_input, ("activated", "raw"))

    def hidden_width(self, width: int) -> int:
        """Number of bottleneck channels of a stage (the paper's K)."""
        hidden = round(width / self.alpha)
        if abs(hidden * self.alpha - width) > 1e-6 * width:
            raise ValueError(f"`alpha` (={self.alpha}) must divide every stage width (={width}) into an integer.")
        _checks.divides("groups", self.groups, f"the bottleneck of a stage of width {width}", hidden)
        _checks.divides("arrangements", self.arrangements, "the bottleneck channels per group", hidden // self.groups)
        return hidden

    def conv(self, filters: int, kernel_size: int, name: str, theta: int | None = None, **more: Any) -> Any:
        """A convolution with these options, with the channel sharing and arrangements of the given theta."""
        letters = self.sharing[theta - 1] if theta else ""
        return HighlySharedConv2D(
            filters,
            kernel_size,
            channel_repeats=self.channel_repeats if "C" in letters else 1,
            arrangements=self.arrangements if "A" in letters else 1,
            shuffle_groups=self.shuffle_groups,
            plane_orders=self.plane_orders,
            kernel_initializer=new_initializer(self.kernel_initializer),
            name=name,
            **more,
        )

    def in_layers(self, theta: int, transition: bool) -> bool:
        """Whether both general layers of a module share a theta."""
        return "L" in self.sharing[theta - 1] and (self.share_in_transition or not transition)


def _twice(make: Callable[[str], Any], shared: bool) -> tuple[Any, Any]:
    """A layer for each of the two general layers: the same object if shared."""
    first = make("")
    return first, first if shared else make("2")


def _convolutions(options: Options, width: int, strides: int, transition: bool, name: str) -> tuple[Any, Any]:
    """theta4 and theta5 for each general layer: one `ParallelConv2D` if possible, else a pair (`None`: no theta5)."""
    hidden, grouped = options.hidden_width(width), {"groups": options.groups}
    # A layer shared by calls with different strides is padded explicitly: "same" would shift the strided 3x3.
    padding = "valid" if strides > 1 else "same"

    def spatial(suffix: str) -> HighlySharedConv2D:
        return options.conv(hidden, 3, f"{name}_spatial{suffix}", 4, padding=padding, **grouped)

    def pointwise(suffix: str) -> HighlySharedConv2D:
        return options.conv(hidden, 1, f"{name}_group_pointwise{suffix}", 5, **grouped)

    def both(suffix: str) -> ParallelConv2D:
        return ParallelConv2D(spatial(suffix), pointwise(suffix), name=f"{name}_convolution{suffix}")

    shared = [options.in_layers(theta, transition) for theta in range(4, len(options.sharing) + 1)]
    reordered = options.spatial_order == "arrangement_major" and "A" in options.sharing[3] and options.arrangements > 1
    # A layer inside two `ParallelConv2D`s would be loaded from a file as two layers.
    if len(set(shared)) == 1 < len(shared) and not reordered:
        return _twice(both, shared[0])
    pointwises = _twice(pointwise, shared[1]) if len(shared) == 2 else (None, None)
    first, second = zip(_twice(spatial, shared[0]), pointwises, strict=True)
    return first, second


def _module_layers(options: Options, width: int, strides: int, transition: bool, name: str) -> tuple[tuple, tuple]:
    """The convolutions of one module: `(reduce, convolve, expand)` for each of its two general layers.

    `reduce` is theta1, `convolve` is theta4 and theta5, and `expand` is theta2 in the first and theta3 in the second.
    """
    hidden = options.hidden_width(width)
    arrange_reduce_second = transition and options.arrange_in_transition == "reduce"
    if transition:
        # The two uses of theta1 have shapes c x K and M x K and cannot share a tensor.
        reduce_first = options.conv(hidden, 1, f"{name}_reduce1")
        reduce_second = options.conv(hidden, 1, f"{name}_reduce2", 1 if arrange_reduce_second else None)
    elif options.in_layers(1, transition):
        reduce_first = reduce_second = options.conv(hidden, 1, f"{name}_reduce", 1)
    else:
        reduce_first, reduce_second = (options.conv(hidden, 1, f"{name}_reduce{place}", 1) for place in (1, 2))
    first, second = _convolutions(options, width, strides, transition, name)
    expand1 = options.conv(width, 1, f"{name}_expand1", None if arrange_reduce_second else 2)
    expand2 = options.conv(width, 1, f"{name}_expand2", 3)
    return (reduce_first, first, expand1), (reduce_second, second, expand2)


def _general_layer(x: Tensor, layers: tuple, strides: tuple[int, int], options: Options, name: str) -> Tensor:
    """Reduce, convolve in groups, expand. `x` is already activated; `strides` are for (reduce, convolve)."""
    reduce, convolve, expand = layers
    x = reduce(x, strides=strides[0])
    x = base.norm_relu(x, f"{name}_reduced")
    if isinstance(convolve, ParallelConv2D):
        x = convolve(x, strides=strides[1])
    else:
        spatial, pointwise = convolve
        x = _separate_convolutions(x, spatial, pointwise, strides[1], options, name)
    return expand(base.norm_relu(x, f"{name}_convolved"))


def _separate_convolutions(
    x: Tensor,
    spatial: HighlySharedConv2D,
    pointwise: HighlySharedConv2D | None,
    strides: int,
    options: Options,
    name: str,
) -> Tensor:
    """theta4 with its channels reordered if configured, plus theta5 if present."""
    planes = x
    if spatial.padding == "valid":
        planes = keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")(x)
    y = spatial(planes, strides=strides)
    if options.spatial_order == "arrangement_major" and spatial.arrangements > 1:
        block = spatial.filters // (options.groups * options.arrangements)
        y = ChannelShuffle(options.groups, block_size=block, name=f"{name}_arrangement_major")(y)
    if pointwise is None:
        return y
    return keras.layers.Add(name=f"{name}_sum")([y, pointwise(x, strides=strides)])


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
        shortcut = base.padded_shortcut(x, width, strides, name)
        if channels != width:
            active = ChannelPadding(width, name=f"{name}_input_pad")(active)
    first_strides = (strides, 1) if options.stride_on == "reduce" else (1, strides)
    x = _general_layer(active, first, first_strides, options, f"{name}_layer1")
    x = base.norm_relu(x, f"{name}_middle")
    if options.dropout_rate:
        x = keras.layers.Dropout(options.dropout_rate, name=f"{name}_dropout")(x)
    x = _general_layer(x, second, (1, 1), options, f"{name}_layer2")
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])
