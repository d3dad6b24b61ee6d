"""IGC-V2: "Interleaved Structured Sparse Convolutional Neural Networks", Xie et al., CVPR 2018.

Includes Xception and IGC-V1 as built in that paper, with the same widths, depths and shortcuts.

The paper does not specify shortcuts, the block that widens and normalization inside a block; our choices match its
counts. It counts only the kernels of convolutions, including those of the stem and the shortcuts.
"""

from collections.abc import Mapping
from typing import Any

from keras_sharenets.models.variant import Configuration, Variant

STAGES = 3
LARGE_IMAGE = 64  # Image side in pixels from which the stem has stride 2, as on Tiny ImageNet (section 4.1).


def _variants(
    name: str, block: str, width: int, published: Mapping[int, str | None], note: str = "", **more: Any
) -> dict[str, Variant]:
    """The networks of one width, with the depth at the end of the name; `published` maps depths to printed counts."""
    variants = {}
    for depth, printed in published.items():
        arguments = {"block": block, "width": width, "blocks_per_stage": (depth - 2) // STAGES, **more}
        configurations = (Configuration(100, published=printed),)
        variants[f"{name}_d{depth}"] = Variant("IGCNet", arguments, configurations, "conv_kernels", note)
    return variants


def _plain(block: str, width: int, branch_channels: tuple[int, ...] | None, weights: int, printed: int) -> Variant:
    arguments = {"block": block, "width": width, "branch_channels": branch_channels}
    note = f"a block has {weights:,} weights; the paper prints about {printed:,}"
    return Variant("PlainIGCNet", arguments, (Configuration(100),), "conv_kernels", note)


def _squares(*sizes: int) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) for size in sizes)


# Branches whose product is the number of input channels, also in the blocks that widen.
_ONE_PATH = {
    64: ((8, 8), (8, 8), (16, 8), (16, 8), (32, 8)),
    80: ((10, 8), (10, 8), (16, 10), (16, 10), (20, 16)),
}
_DEPTHS: dict[int, str | None] = dict.fromkeys((8, 20, 26))
_OURS = "not in the paper: satisfies the complementary condition in every block; smaller than the paper's counts"

VARIANTS = {
    **_variants("xception_c35", "xception", 35, {8: "0.056M", 20: "0.168M", 26: "0.223M"}),
    **_variants(
        "igcv2_c64", "igcv2", 64, {8: "0.047M", 20: "0.149M", 26: "0.200M"}, branch_channels=_squares(8, 16, 32)
    ),
    **_variants("igcv1_c48", "igcv1", 48, {8: "0.046M", 20: "0.151M", 26: "0.203M"}),
    **_variants(
        "igcv2_c80", "igcv2", 80, {8: "0.046M", 20: "0.144M", 26: "0.193M"}, branch_channels=_squares(10, 16, 20)
    ),
    **_variants("igcv2_c64_one_path", "igcv2", 64, _DEPTHS, _OURS, branch_channels=_ONE_PATH[64]),
    **_variants("igcv2_c80_one_path", "igcv2", 80, _DEPTHS, _OURS, branch_channels=_ONE_PATH[80]),
    **_variants("xception_c58", "xception", 58, {20: "0.44M"}, stem_filters=35),
    **_variants("xception_c71", "xception", 71, {20: "0.66M"}, stem_filters=35),
    **_variants("xception_c83", "xception", 83, {20: "0.89M"}, stem_filters=35),
    **_variants("igcv1_c96", "igcv1", 96, {20: "0.40M"}),
    **_variants("igcv1_c126", "igcv1", 126, {20: "0.60M"}),
    **_variants("igcv1_c150", "igcv1", 150, {20: "0.79M"}),
    **_variants("igcv2_star_c216", "igcv2", 216, {20: "0.32M"}, stem_filters=64),
    **_variants("igcv2_star_c304", "igcv2", 304, {20: "0.48M"}, stem_filters=64),
    **_variants("igcv2_star_c416", "igcv2", 416, {20: "0.65M"}, stem_filters=64),
    "plain_xception_c64": _plain("xception", 64, None, 4_672, 4_700),
    "plain_igcv2_c144_k12": _plain("igcv2", 144, (12, 12), 4_752, 4_700),
    "plain_xception_c96": _plain("xception", 96, None, 10_080, 10_000),
    "plain_igcv2_c256_k16": _plain("igcv2", 256, (16, 16), 10_496, 10_000),
    "plain_xception_c128": _plain("xception", 128, None, 17_536, 17_000),
    "plain_igcv2_c361_k19": _plain("igcv2", 361, (19, 19), 16_967, 17_000),
    "plain_igcv1_c64": _plain("igcv1", 64, None, 3_200, 3_000),
    "plain_igcv2_i_c98_k7": _plain("igcv2_i", 98, (7, 7), 3_136, 3_000),
    "plain_igcv2_ii_c100_k10": _plain("igcv2", 100, (10, 10), 2_900, 3_000),
    "plain_igcv1_c96": _plain("igcv1", 96, None, 6_336, 6_000),
    "plain_igcv2_i_c162_k9": _plain("igcv2_i", 162, (9, 9), 5_832, 6_000),
    "plain_igcv2_ii_c169_k13": _plain("igcv2", 169, (13, 13), 5_915, 6_000),
    "plain_igcv1_c128": _plain("igcv1", 128, None, 10_496, 10_000),
    "plain_igcv2_i_c242_k11": _plain("igcv2_i", 242, (11, 11), 9_680, 10_000),
}
