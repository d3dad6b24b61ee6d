"""Search space of HSC-Net: width, G, R, T, alpha, modules and the star."""

import functools
import math

from keras_sharenets.ops import permutations
from keras_sharenets.search.spaces import costs
from keras_sharenets.search.spaces.space import Choice, Rule, Space

STAGES = 3
STEM_FILTERS = 16
SHUFFLE_GROUPS = 2


def _hidden(chosen, alpha=None):
    return round(chosen["width"] / (alpha or chosen["alpha"]))


def _whole_bottleneck(alpha, chosen):
    return abs(_hidden(chosen, alpha) * alpha - chosen["width"]) <= 1e-6 * chosen["width"]


@functools.cache
def are_distinct(channels: int, arrangements: int) -> bool:
    """Whether all arrangements of the channels are distinct; equal arrangements would duplicate filters."""
    return permutations.count_distinct(channels, arrangements, SHUFFLE_GROUPS) == arrangements


def _arranges(arrangements, chosen):
    if arrangements == 1:
        return True
    hidden = _hidden(chosen)
    arranged = (hidden // chosen["groups"], hidden, chosen["width"])
    # Numbers divisible by 2 also have the two rows of the shuffle.
    if any(filters % arrangements for filters in arranged):
        return False
    return all(are_distinct(channels * 2**stage, arrangements) for channels in arranged for stage in range(STAGES))


CHOICES = (
    Choice("width", (8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224)),
    Choice(
        "alpha",
        (1, 1.5, 1.75, 2, 3, 4),
        (Rule("divide `width` (={width}) into an integer", _whole_bottleneck),),
        reads=("width",),
    ),
    Choice(
        "groups",
        (1, 2, 4, 8, 16, 32),
        (
            Rule(
                "divide the bottleneck of the first stage, `width` (={width}) divided by `alpha` (={alpha})",
                lambda groups, chosen: _hidden(chosen) % groups == 0,
            ),
        ),
        reads=("width", "alpha"),
    ),
    Choice(
        "channel_repeats",
        (1, 2, 4, 8, 16, 32),
        (Rule("divide `groups` (={groups})", lambda repeats, chosen: chosen["groups"] % repeats == 0),),
        reads=("groups",),
    ),
    Choice(
        "arrangements",
        (1, 2, 4),
        (
            Rule(
                "divide the filters of every arranged convolution for `width` (={width}), `alpha` (={alpha}) and "
                "`groups` (={groups}), and give as many distinct orders of its input planes",
                _arranges,
            ),
        ),
        reads=("width", "alpha", "groups"),
    ),
    Choice("blocks_per_stage", (1, 2, 3, 4, 5, 6)),
    Choice(
        "star",
        (False, True),
        (Rule("be False if `arrangements` is 1", lambda star, chosen: not star or chosen["arrangements"] > 1),),
        reads=("arrangements",),
    ),
)


def _module(channels, width, sides, strides, arguments):
    """A module of `keras_sharenets.models.hscnet.module`; the first 3x3 convolution has the stride."""
    hidden = round(width / arguments["alpha"])
    groups, arrangements = arguments["groups"], arguments["arrangements"]
    before = math.prod(sides)
    after = math.prod(costs.halved(sides)) if strides == 2 else before
    yield costs.norm(channels)
    if channels == width:
        yield costs.conv(width, hidden, before, copies=arrangements)
        yield costs.again(costs.conv(width, hidden, after))
    else:
        yield costs.conv(channels, hidden, before)
        yield costs.conv(width, hidden, after)
        yield costs.conv(channels, width, after)
    spatial = costs.conv(
        hidden, hidden, after, area=9, groups=groups, copies=arguments["channel_repeats"] * arrangements
    )
    pointwise = costs.conv(hidden, hidden, after, groups=groups)
    yield from (spatial, pointwise, costs.again(spatial), costs.again(pointwise))
    yield costs.conv(hidden, width, after, copies=arrangements)
    yield costs.conv(hidden, width, after, copies=arrangements if arguments["star"] else 1)
    yield from (costs.norm(width), *[costs.norm(hidden)] * 4)


def _costs(network, arguments, input_shape, num_classes):
    *sides, image_channels = input_shape
    yield costs.conv(image_channels, STEM_FILTERS, math.prod(sides), area=9)
    channels = STEM_FILTERS
    for stage in range(STAGES):
        width = arguments["width"] * 2**stage
        for index in range(arguments["blocks_per_stage"]):
            strides = 2 if stage and not index else 1
            yield from _module(channels, width, sides, strides, arguments)
            sides = costs.halved(sides) if strides == 2 else sides
            channels = width
    yield costs.norm(channels)
    yield costs.dense(channels, num_classes)


SPACE = Space("hscnet", {"hscnet": "hscnet_m128_g16_r8_a2"}, CHOICES, _costs)
