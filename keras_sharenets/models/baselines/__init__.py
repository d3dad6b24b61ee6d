"""Peers: MobileNetV2, IGCV3-D and ShuffleNetV2, which the papers compare with, and ResNet-8 of MLPerf Tiny."""

from keras_sharenets.models.variant import Configuration, Variant


def _imagenet32(published: str) -> Configuration:
    return Configuration(1000, published=published)


def _tiny_imagenet(published: str) -> tuple[Configuration, ...]:
    return (Configuration(200, (64, 64, 3), published), Configuration(10))


_IMAGENET = (Configuration(1000, (224, 224, 3)),)

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
    "mobilenet_v2_1_25": Variant("MobileNetV2", {"width_multiplier": 1.25}, _tiny_imagenet("3.8M")),
    "mobilenet_v2_1_4": Variant(
        "MobileNetV2", {"width_multiplier": 1.4}, _IMAGENET, note="HSC-Net's table 5 prints 6.9M, its own paper this"
    ),
    "igcv3_d_1_25": Variant("IGCV3", {"width_multiplier": 1.25}, _tiny_imagenet("3.7M")),
    "igcv3_d_1_4": Variant(
        "IGCV3",
        {"width_multiplier": 1.4},
        _IMAGENET,
        note="HSC-Net's table 5 prints 7.2M, more than the definition has",
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
