"""Search space of ShaResNet: kind of network, depth, width, and the blocks of a stage that share."""

import functools
import math

from keras_sharenets.models.sharesnet import stage_blocks
from keras_sharenets.search.spaces import costs
from keras_sharenets.search.spaces.space import Choice, Rule, Space

# For each policy: whether the first block of a stage uses the shared convolution if its stride is 1, and if it is 2.
_FIRST_SHARES = {"none": (False, False), "rest": (False, False), "stride1": (True, False), "all": (True, True)}
_BASIC = 34
STEM_FILTERS = 16


def _has_choice(network):
    """Whether a policy differs from "none": a stage of one block has nothing to share with."""
    return lambda share, chosen: share == "none" or min(stage_blocks(network, chosen["depth"])) > 1


def _depth(network, depths):
    return Choice("depth", tuple(depths), when=network)


def _share(network, *rules):
    single = Rule("be 'none' at `depth` (={depth}), whose stages have one block", _has_choice(network))
    return Choice("share", tuple(_FIRST_SHARES), (single, *rules), reads=("depth",), when=network)


def _is_large(strides):
    return lambda value, chosen: value != "resnet" or min(chosen["input_shape"][:2]) >= strides


CHOICES = (
    Choice(
        "network",
        ("preact_resnet", "wide_resnet", "resnet"),
        (Rule("not be 'resnet' for images smaller than 32x32 (`input_shape` is {input_shape})", _is_large(32)),),
    ),
    _depth("preact_resnet", (9 * blocks + 2 for blocks in (1, 2, 3, 4, 6, 8, 10, 12, 18))),
    _depth("wide_resnet", (6 * blocks + 4 for blocks in (1, 2, 3, 4, 5, 6))),
    _depth("resnet", (34, 50, 101, 152)),
    Choice("width", (4, 8, 16, 24, 32), when="preact_resnet"),
    Choice("order", ("norm_conv", "conv_norm"), when="preact_resnet"),
    Choice("width_multiplier", (1, 2, 3, 4, 6, 8, 10), when="wide_resnet"),
    Choice("width", (8, 16, 24, 32, 48, 64), when="resnet"),
    _share("preact_resnet"),
    _share("wide_resnet"),
    _share(
        "resnet",
        Rule(
            "not be 'all' at `depth` (={depth}): the first 3x3 convolution of a stage of bottlenecks is strided",
            lambda share, chosen: share != "all" or chosen["depth"] == _BASIC,
        ),
    ),
)


def _preactivated_bottleneck(channels, width, before, after):
    """Costs of a block except for the 3x3 convolution that may be shared, as in `sharesnet_blocks`."""
    yield from (costs.norm(channels), costs.norm(width), costs.norm(width))
    yield costs.conv(channels, width, after)
    yield costs.conv(width, 4 * width, after)
    if channels != 4 * width:
        yield costs.conv(channels, 4 * width, after)


def _preactivated_basic(channels, width, before, after):
    yield from (costs.norm(channels), costs.norm(width))
    yield costs.conv(channels, width, after, area=9)
    if channels != width:
        yield costs.conv(channels, width, after)


def _bottleneck(channels, width, before, after, stride_on):
    yield from (costs.norm(width), costs.norm(width), costs.norm(4 * width))
    yield costs.conv(channels, width, before if stride_on == "spatial" else after)
    yield costs.conv(width, 4 * width, after)
    if channels != 4 * width:
        yield from (costs.conv(channels, 4 * width, after), costs.norm(4 * width))


def _basic(channels, width, before, after):
    yield from (costs.norm(width), costs.norm(width))
    yield costs.conv(channels, width, after, area=9)
    if channels != width:
        yield from (costs.conv(channels, width, after), costs.norm(width))


def _stages(channels, sides, block, expansion, width, counts, share):
    for stage, count in enumerate(counts):
        stage_width = width * 2**stage
        stored = False
        for index in range(count):
            strided = stage > 0 and index == 0
            before = math.prod(sides)
            sides = costs.halved(sides) if strided else sides
            after = math.prod(sides)
            yield from block(channels, stage_width, before, after)
            spatial = costs.conv(stage_width, stage_width, after, area=9)
            shares = _FIRST_SHARES[share][strided] if index == 0 else share != "none"
            yield costs.again(spatial) if shares and stored else spatial
            stored = stored or shares
            channels = expansion * stage_width


def _costs(network, arguments, input_shape, num_classes):
    *sides, image_channels = input_shape
    depth, share = arguments["depth"], arguments["share"]
    counts = stage_blocks(network, depth)
    if network == "preact_resnet":
        stem, width, expansion = arguments["width"], arguments["width"], 4
        first_norm = arguments["order"] == "conv_norm"
        post = functools.partial(_bottleneck, stride_on="reduce")
        block = post if first_norm else _preactivated_bottleneck
        yield costs.conv(image_channels, stem, math.prod(sides), area=9)
    elif network == "wide_resnet":
        stem, width, expansion = STEM_FILTERS, STEM_FILTERS * arguments["width_multiplier"], 1
        first_norm, block = False, _preactivated_basic
        yield costs.conv(image_channels, stem, math.prod(sides), area=9)
    else:
        stem, width, expansion = arguments["width"], arguments["width"], 1 if depth == _BASIC else 4
        first_norm = True
        block = _basic if depth == _BASIC else functools.partial(_bottleneck, stride_on="spatial")
        yield costs.conv(image_channels, stem, math.prod(costs.halved(sides)), area=49)
        sides = costs.halved(costs.halved(sides))
    channels = expansion * width * 2 ** (len(counts) - 1)
    # Batch normalization before the blocks, or after them.
    yield costs.norm(stem if first_norm else channels)
    yield from _stages(stem, sides, block, expansion, width, counts, share)
    yield costs.dense(channels, num_classes)


NETWORKS = {"preact_resnet": "sharesnet_164", "wide_resnet": "sha_wrn_28_10", "resnet": "sharesnet_50"}
SPACE = Space("sharesnet", NETWORKS, CHOICES, _costs)
