"""Search space of ShardNet: kind of network, width n, blocks, sharing and blending."""

import math

from keras_sharenets.search.spaces import costs
from keras_sharenets.search.spaces.space import Choice, Rule, Space

_STRIDES = {"shard_resnet": 4, "shard_deep_resnet": 8}
# Image side from which a deep network has the ImageNet stem.
LARGE = 112


def _reads_image(width, chosen):
    return width >= chosen["input_shape"][-1]


_WIDTH = (Rule("be at least the channels of the image (`input_shape` is {input_shape})", _reads_image),)


def _fits(network, chosen):
    return min(chosen["input_shape"][:2]) >= _STRIDES.get(network, 1)


def _survives(convs_per_block, chosen):
    return min(chosen["input_shape"][:2]) >= 2 ** (len(convs_per_block) - 1)


CHOICES = (
    Choice(
        "network",
        ("shard_resnet", "shard_vggnet", "shard_deep_resnet"),
        (Rule("be a network with no more downsampling than the image allows (`input_shape` is {input_shape})", _fits),),
    ),
    Choice("width", (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512), _WIDTH),
    Choice("blocks_per_stage", (1, 2, 3, 4, 5, 6, 7, 8, 9), when="shard_resnet"),
    Choice("blocks_per_stage", (1, 2, 3, 4, 5, 6), when="shard_deep_resnet"),
    Choice(
        "convs_per_block",
        (
            (1, 1),
            (2, 2),
            (3, 3),
            (1, 1, 1),
            (2, 2, 2),
            (3, 3, 3),
            (1, 1, 1, 1),
            (2, 2, 2, 2),
            (3, 3, 3, 3),
            (1, 1, 1, 1, 1),
            (2, 2, 2, 2, 2),
            (2, 2, 3, 3, 3),
            (3, 3, 3, 3, 3),
        ),
        (Rule("have at most one block more than the image can be halved (`input_shape` is {input_shape})", _survives),),
        when="shard_vggnet",
    ),
    Choice("bottleneck", (False, True), when="shard_deep_resnet"),
    Choice("blending", (False, True), when="shard_vggnet"),
    Choice("share", ("none", "spatial"), when="shard_resnet"),
    Choice("share", ("none", "spatial"), when="shard_vggnet"),
    Choice("share", ("none", "block"), when="shard_deep_resnet"),
)


def _conv(channels, filters, pixels, area=1):
    """A convolution with bias."""
    weights, products = costs.conv(channels, filters, pixels, area=area)
    return weights + filters, products


def _norms(channels, count):
    return 2 * channels * count, 0


def _used(cost, uses, stored):
    """All uses of a convolution with the given number of stored kernels."""
    return stored * cost[0], uses * cost[1]


def _vggnet(arguments, sides, image_channels, num_classes):
    filters, counts = arguments["width"], arguments["convs_per_block"]
    shared = arguments["share"] == "spatial"
    whole = all(side % 2 ** len(counts) == 0 for side in sides)
    stored = False
    for block, count in enumerate(counts, start=1):
        pixels = math.prod(sides)
        for index in range(count):
            reads = image_channels if block == 1 and index == 0 and not shared else filters
            cost = _conv(reads, filters, pixels, area=9)
            yield costs.again(cost) if shared and stored else cost
            stored = True
        yield _norms(filters, count)
        if block < len(counts) and arguments["blending"]:
            yield costs.conv(filters, filters, pixels)
        if block < len(counts) or whole:
            sides = costs.pooled(sides)
    units = filters * math.prod(sides)
    hidden = (512, 512) if num_classes <= 10 else (1024, 1024) if num_classes <= 100 else (2048,)
    for width in (*hidden, num_classes):
        yield costs.dense(units, width)
        units = width


def _resnet(arguments, sides, image_channels, num_classes):
    filters, blocks = arguments["width"], arguments["blocks_per_stage"]
    shared = arguments["share"] == "spatial"
    stem = _conv(filters if shared else image_channels, filters, math.prod(sides), area=9)
    yield from (stem, _norms(filters, 1 + 6 * blocks))
    for level in range(3):
        if level:
            yield _conv(filters, filters, math.prod(sides))
            sides = costs.pooled(sides)
        uses = 2 * blocks
        yield _used(_conv(filters, filters, math.prod(sides), area=9), uses, 0 if shared else uses)
    yield costs.dense(filters, num_classes)


def _deep_resnet(arguments, sides, image_channels, num_classes):
    filters, blocks = arguments["width"], arguments["blocks_per_stage"]
    large = min(sides) >= LARGE
    sides = costs.halved(sides) if large else sides
    yield costs.conv(image_channels, filters, math.prod(sides), area=49 if large else 9)
    expansion = 4 if arguments["bottleneck"] else 1
    outer = expansion * filters
    if arguments["bottleneck"]:
        yield _conv(filters, outer, math.prod(sides))
        kernels = ((outer, filters, 1), (filters, filters, 9), (filters, outer, 1))
    else:
        kernels = ((filters, filters, 9),) * 2
    sides = costs.pooled(sides) if large else sides
    # The convolutions of a bottleneck have three shapes; the two of a basic block become one layer when shared.
    distinct = set(kernels) if arguments["share"] == "block" else ()
    yield _norms(filters, 1)
    for level in range(4):
        pixels = math.prod(sides)
        if level:
            yield _conv(outer, outer, pixels)
            sides = costs.pooled(sides)
            pixels = math.prod(sides)
        for channels, width, area in kernels:
            yield _used(costs.conv(channels, width, pixels, area=area), blocks, 0 if distinct else blocks)
            yield _norms(width, blocks)
    yield from (costs.conv(channels, width, 0, area=area) for channels, width, area in distinct)
    yield costs.dense(outer, num_classes)


_COSTS = {"shard_resnet": _resnet, "shard_vggnet": _vggnet, "shard_deep_resnet": _deep_resnet}


def _costs(network, arguments, input_shape, num_classes):
    *sides, image_channels = input_shape
    return _COSTS[network](arguments, sides, image_channels, num_classes)


NETWORKS = {
    "shard_resnet": "sl3_resnet_128",
    "shard_vggnet": "sl_vggnet_128",
    "shard_deep_resnet": "sl_resnet_34_256",
}
SPACE = Space("shardnet", NETWORKS, CHOICES, _costs)
