"""Peers: MobileNetV2, IGCV3-D and ShuffleNetV2, which the papers compare with, and ResNet-8 of MLPerf Tiny."""

from keras_sharenets.models.variant import Configuration, Variant


def _imagenet32(published: str) -> Configuration:
    return Configuration(1000, published=published)


VARIANTS = {
    "mobilenet_v2_1_0": Variant(
        "MobileNetV2",
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Configuration(10, published="2.3M"), Configuration(100, published="2.3M")),
        note="strides for small images, here and below, are those usual on CIFAR: the paper gives none",
    ),
    "igcv3_d_1_0": Variant(
        "IGCV3",
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Configuration(10), Configuration(100, published="2.4M")),
        note="the paper's 2.4M for both CIFARs is the count at 100 classes with moving statistics (2,403,332)",
    ),
    "shufflenet_v2_2_0": Variant(
        "ShuffleNetV2",
        {},
        (_imagenet32("7.5M"), Configuration(10, published="5.5M"), Configuration(100, published="5.5M")),
        note="7.5M is more than the 2.0x of its own paper has",
    ),
    "resnet_8": Variant(
        "ResNet8", {}, note="MLPerf Tiny's; 78,666 with moving statistics, as its reference is counted"
    ),
}
