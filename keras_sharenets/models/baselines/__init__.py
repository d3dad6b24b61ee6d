"""Baselines: the small networks and residual networks that the papers compare with, and ResNet-8 of MLPerf Tiny."""

from typing import Any

from keras_sharenets.models.variant import Configuration, Variant


def _imagenet32(published: str) -> Configuration:
    return Configuration(1000, published=published)


def _tiny_imagenet(published: str) -> tuple[Configuration, ...]:
    return (Configuration(200, (64, 64, 3), published), Configuration(10))


def _resnet(note: str, *configurations: Configuration, **arguments: Any) -> Variant:
    return Variant("BasicResNet", arguments, configurations, note=note)


_PROJECTED = {"width": 64, "shortcut": "projection"}
_IMAGENET = (Configuration(1000, (224, 224, 3)),)

VARIANTS = {
    "mobilenet_v2_1_0": Variant(
        "MobileNetV2",
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Configuration(10, published="2.3M"), Configuration(100, published="2.3M")),
        note="here and below, small images use the usual strides for CIFAR; the paper gives none",
    ),
    "igcv3_d_1_0": Variant(
        "IGCV3",
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Configuration(10), Configuration(100, published="2.4M")),
        note="the 2.4M that the paper prints for both CIFARs is the count for 100 classes with moving statistics "
        "(2,403,332)",
    ),
    "mobilenet_v2_1_25": Variant("MobileNetV2", {"width_multiplier": 1.25}, _tiny_imagenet("3.8M")),
    "mobilenet_v2_1_4": Variant(
        "MobileNetV2",
        {"width_multiplier": 1.4},
        _IMAGENET,
        note="HSC-Net's table 5 prints 6.9M, its own paper this number",
    ),
    "igcv3_d_1_25": Variant("IGCV3", {"width_multiplier": 1.25}, _tiny_imagenet("3.7M")),
    "igcv3_d_1_4": Variant(
        "IGCV3",
        {"width_multiplier": 1.4},
        _IMAGENET,
        note="HSC-Net's table 5 prints 7.2M, more than the definition gives",
    ),
    "shufflenet_v2_2_0": Variant(
        "ShuffleNetV2",
        {},
        (_imagenet32("7.5M"), Configuration(10, published="5.5M"), Configuration(100, published="5.5M")),
        note="7.5M is more than the 2.0x network of its own paper has",
    ),
    "se_shufflenet_v2_2_0": Variant(
        "ShuffleNetV2",
        {"squeeze_excite": 2},
        (Configuration(1000, (224, 224, 3), "8.8M"),),
        note="from HSC-Net's table 5; the reduction is our choice, the only one that matches the count",
    ),
    "shufflenet_v1_g3": Variant(
        "ShuffleNet",
        {"groups": 3, "width": 240},
        (Configuration(10, published="0.91M"), Configuration(100)),
        note="from HGC's table 2, whose multiply-adds imply a first stage without stride",
    ),
    "mobilenet_v1_1_0": Variant(
        "MobileNetV1",
        {"width_multiplier": 1.0},
        (Configuration(10, published="3.2M"), Configuration(1000, (224, 224, 3), "4.2M")),
        note="from HSC-Net's table 3, on CINIC-10; 4.2M in its own paper",
    ),
    "resnet_56": _resnet(
        "from HGC's table 3, as in its own paper",
        Configuration(10, published="0.85M"),
        blocks_per_stage=(9, 9, 9),
    ),
    "resnet_110": _resnet(
        "from IGC-V2's table 7; 1.5M in HGC's table 3 is less than the definition gives",
        Configuration(10, published="1.7M"),
        Configuration(100, published="1.7M"),
        blocks_per_stage=(18, 18, 18),
    ),
    "resnet_18_cifar": _resnet(
        "from ShardNet's table 8, which counts moving statistics: 11,183,562",
        Configuration(10, published="11.18M"),
        blocks_per_stage=(2, 2, 2, 2),
        **_PROJECTED,
    ),
    "resnet_34_cifar": _resnet(
        "from ShardNet's table 8, which counts moving statistics: 21,299,146",
        Configuration(10, published="21.30M"),
        Configuration(200, (64, 64, 3), "21.4M"),
        blocks_per_stage=(3, 4, 6, 3),
        **_PROJECTED,
    ),
    "preact_resnet_18": _resnet(
        "from HSC-Net's table 3, on CINIC-10",
        Configuration(10, published="11.2M"),
        blocks_per_stage=(2, 2, 2, 2),
        order="norm_conv",
        **_PROJECTED,
    ),
    "resnet_8": Variant(
        "ResNet8", {}, note="from MLPerf Tiny; 78,666 with moving statistics, as its reference implementation counts"
    ),
}
