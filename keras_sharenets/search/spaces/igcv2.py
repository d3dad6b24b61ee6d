"""Search space of IGC-V2: width, depth, and L and K of each stage near the balance condition.

A stage has L - 1 group convolutions. The balance condition requires branches of equal size whose product is the number
of channels. In this space, the sizes of a stage are one divisor of its channels or two neighboring divisors, their
product is between half and five times the channels, and L grows by at most one per stage.
"""

import functools
import math

from keras_sharenets.models.igcnet import LARGE_IMAGE
from keras_sharenets.search.spaces import costs
from keras_sharenets.search.spaces.space import Choice, Rule, Space

STAGES = 3
COUNTS = (2, 3, 4)
MOST_PATHS = 5


def _channels(chosen, stage):
    """The lowest number of input channels of a block in the stage: its first block widens."""
    return chosen["width"] * 2 ** max(stage - 1, 0)


def _divisors(number):
    return [size for size in range(2, number) if number % size == 0]


def _branches(stage):
    """The choice of the branch sizes of one stage."""

    def values(chosen):
        divisors = _divisors(_channels(chosen, stage))
        neighbors = zip(divisors, [*divisors[1:], None], strict=True)
        # Smaller sizes first, as in `keras_sharenets.ops.balance.best_integer`.
        return tuple(
            (size,) * (count - larger) + (next_size,) * larger
            for size, next_size in neighbors
            for count in COUNTS
            for larger in range(count if next_size else 1)
        )

    def near_one_path(sizes, chosen):
        return 1 <= 2 * math.prod(sizes) / (chosen["width"] * 2**stage) <= 2 * MOST_PATHS

    def no_shorter(sizes, chosen):
        return len(sizes) - len(chosen[before]) in (0, 1)

    before = f"branch_channels[{stage - 1}]"
    rules = (
        Rule(
            f"have a product of half to {MOST_PATHS} times the channels of stage {stage + 1} at `width` (={{width}})",
            near_one_path,
        ),
    )
    reads = ("width",)
    if stage:
        rules += (Rule("have as many entries as the previous stage, or one more", no_shorter),)
        reads += (before,)
    return Choice("branch_channels", values, rules, reads, place=stage)


CHOICES = (
    Choice("width", (16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 216, 256, 304, 416)),
    Choice("blocks_per_stage", (2, 4, 6, 8)),
    *(_branches(stage) for stage in range(STAGES)),
)


@functools.lru_cache(maxsize=100_000)
def _stage(channels, width, pixels, sizes, blocks):
    """Costs of all blocks of a stage: kernels and batch normalization."""
    *first, last = sizes
    widening, others = (9 * read + read * sum(first) + width * last for read in (channels, width))
    weights = widening + (blocks - 1) * others
    return (weights, weights * pixels), costs.norm(blocks * width)


def _costs(network, arguments, input_shape, num_classes):
    *sides, image_channels = input_shape
    channels = arguments["width"]
    sides = costs.halved(sides) if min(sides) >= LARGE_IMAGE else sides  # The stride of the stem.
    yield costs.conv(image_channels, channels, math.prod(sides), area=9)
    yield costs.norm(channels)
    for stage, sizes in enumerate(arguments["branch_channels"]):
        width = arguments["width"] * 2**stage
        if stage:
            sides = costs.halved(sides)
            yield costs.conv(channels, width, math.prod(sides), groups=arguments["width"] // 2)
            yield costs.norm(width)
        yield from _stage(channels, width, math.prod(sides), sizes, arguments["blocks_per_stage"])
        channels = width
    yield costs.dense(channels, num_classes)


def _connections(arguments):
    """Lowest fraction of connected pairs, and whether each has exactly one path, in the blocks that do not widen.

    An output reads consecutive channels, as many as the product of the branch sizes, wrapping around at the end
    (`keras_sharenets.ops.permutations.interleaving`).
    """
    widths = [arguments["width"] * 2**stage for stage in range(STAGES)]
    products = [math.prod(sizes) for sizes in arguments["branch_channels"]]
    stages = list(zip(products, widths, strict=True))
    density = min(min(1.0, product / width) for product, width in stages)
    return density, all(product == width for product, width in stages)


SPACE = Space("igcv2", {"igcv2": "igcv2_c64_d8"}, CHOICES, _costs, _connections)
