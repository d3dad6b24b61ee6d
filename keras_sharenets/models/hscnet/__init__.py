"""HSC-Net: "Highly shared Convolutional Neural Networks", Lu et al., Expert Systems with Applications 2021.

The paper does not specify transition modules, shortcuts, stem and batch normalization. Each of these choices is an
argument of `HSCNet`; with the defaults, the parameter counts match the paper's.
"""

from typing import Any

from keras_sharenets.models.variant import Configuration, Variant


def _variant(
    width: int | tuple[int, ...],
    groups: int,
    channel_repeats: int,
    alpha: float = 2,
    star: bool = False,
    *,
    configurations: tuple[Configuration, ...] = (Configuration(),),
    note: str = "",
    **more: Any,
) -> Variant:
    sharing = {"width": width, "groups": groups, "channel_repeats": channel_repeats, "alpha": alpha, "star": star}
    return Variant("HSCNet", {**sharing, **more}, configurations, note=note)


def _imagenet32(published: str) -> Configuration:
    return Configuration(1000, published=published)


_CIFAR = (Configuration(10, published="1.8M"), Configuration(100, published="1.8M"))
_STAR = (Configuration(10, published="3.2M"), Configuration(100, published="3.2M"))
_IMAGENET = {"stem": "imagenet", "stem_filters": 64, "blocks_per_stage": (3, 3, 2, 2)}

VARIANTS = {
    "hscnet_m96_g8_r4_a2": _variant(96, 8, 4, configurations=(_imagenet32("1.4M"),)),
    "hscnet_m128_g16_r8_a2": _variant(128, 16, 8, configurations=(*_CIFAR, _imagenet32("2.3M"))),
    "hscnet_m160_g8_r4_a2": _variant(160, 8, 4, configurations=(_imagenet32("3.5M"),)),
    "hscnet_m224_g16_r8_a1_75": _variant(224, 16, 8, 1.75, configurations=(_imagenet32("7.0M"),)),
    "hscnet_m128_g16_r4_a2": _variant(128, 16, 4, configurations=(Configuration(published="1.8M"),)),
    "hscnet_m128_g16_r8_a2_star": _variant(128, 16, 8, star=True, note="figure 8; in no table of the paper"),
    "hscnet_m192_g16_r8_a2_star": _variant(192, 16, 8, star=True, configurations=_STAR),
    "hscnet_m160_imagenet": _variant(
        (160, 320, 480, 1120),
        8,
        4,
        5 / 3,
        configurations=(Configuration(1000, (224, 224, 3), "7.2M"),),
        note="G, R and alpha are our choice",
        **_IMAGENET,
    ),
    "hscnet_m64_g8_r4_b2_a2": _variant(
        64, 8, 4, blocks_per_stage=2, note="not in the paper: small enough to train on a CPU"
    ),
    "hscnet_m32_g4_r2_b1_a2": _variant(32, 4, 2, blocks_per_stage=1, note="not in the paper: for the demo"),
}
