"""Search space of HGCNet and SGCNet: G, chain or split, growth, bottleneck, squeeze-excite, modules, compression."""

import math

from keras_sharenets.search.spaces import costs
from keras_sharenets.search.spaces.space import Choice, Rule, Space

STEM_FILTERS = 16


def _divides_filters(value, chosen):
    return value is None or chosen["growth"] * chosen["bottleneck"] % value == 0


_DIVIDES = Rule("divide `growth` (={growth}) times `bottleneck` (={bottleneck})", _divides_filters)
_FILTERS = ("growth", "bottleneck")

CHOICES = (
    Choice("growth", (4, 6, 8, 10, 12, 16)),
    Choice("bottleneck", (2, 3, 4, 6)),
    Choice("groups", (1, 2, 3, 4, 6, 8), (_DIVIDES,), reads=_FILTERS),
    Choice(
        "hierarchical",
        (False, True),
        (Rule("be False for one group, which has no chain", lambda chain, chosen: not chain or chosen["groups"] > 1),),
        reads=("groups",),
    ),
    Choice("squeeze_excite", (None, 4, 8, 16), (_DIVIDES,), reads=_FILTERS),
    Choice(
        "blocks_per_stage",
        (
            (1, 1, 1),
            (2, 2, 2),
            (3, 3, 3),
            (4, 4, 4),
            (6, 6, 6),
            (6, 8, 6),
            (9, 5, 7),
            (10, 12, 10),
            (13, 9, 11),
            (14, 16, 14),
            (17, 13, 15),
        ),
    ),
    Choice("compression", (0.5, 0.75, 1.0)),
)


def _module(channels, growth, pixels, arguments):
    filters = growth * arguments["bottleneck"]
    group_filters = filters // arguments["groups"]
    weights = channels * group_filters
    if arguments["hierarchical"]:
        weights += (arguments["groups"] - 1) * group_filters**2
    yield costs.norm(channels)
    yield weights, weights * pixels
    yield costs.norm(filters)
    if arguments["squeeze_excite"] is not None:
        hidden = filters // arguments["squeeze_excite"]
        yield costs.dense(filters, hidden)
        yield costs.dense(hidden, filters)
    yield costs.depthwise(filters, pixels)
    yield costs.norm(filters)
    yield costs.conv(filters, growth, pixels)


def _costs(network, arguments, input_shape, num_classes):
    *sides, image_channels = input_shape
    yield costs.conv(image_channels, STEM_FILTERS, math.prod(sides), area=9)
    channels = STEM_FILTERS
    for stage, count in enumerate(arguments["blocks_per_stage"]):
        if stage:
            filters = int(arguments["compression"] * channels)
            yield costs.norm(channels)
            yield costs.conv(channels, filters, math.prod(sides))
            channels, sides = filters, costs.pooled(sides)
        growth = arguments["growth"] * 2**stage
        for _ in range(count):
            yield from _module(channels, growth, math.prod(sides), arguments)
            channels += growth
    yield costs.norm(channels)
    yield costs.dense(channels, num_classes)


SPACE = Space("hgcnet", {"hgcnet": "hgcnet_42_g4"}, CHOICES, _costs)
