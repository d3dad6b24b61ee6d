"""ShardNet: the named networks of "ShardNet: One filter set to rule them all", Jetley et al., submission to ICLR 2020.

Letters in the names: E is the equivalent without sharing; S shares one convolution; SL also has linear (blending)
layers. The number after the letters is the number of convolutions or blocks per level; the last number is the width n.
"""

from typing import Any

from keras_sharenets.models.variant import Configuration, Variant

_RULE = "conv_kernels_and_biases"
_E = {"share": "none", "blending": False}
_S = {"share": "spatial", "blending": False}
_SL = {"share": "spatial", "blending": True}


def _cifar(published: str, baseline: str | None = None, num_classes: int = 10) -> Configuration:
    return Configuration(num_classes, (32, 32, 3), published, baseline)


def _tiny_imagenet(published: str) -> Configuration:
    return Configuration(200, (56, 56, 3), published)


def _imagenet(published: str) -> Configuration:
    return Configuration(1000, (224, 224, 3), published)


def _vggnet(
    width: int | tuple[int, ...],
    letters: dict[str, Any],
    *configurations: Configuration,
    note: str = "",
    unshared: str | None = None,
    **more: Any,
) -> Variant:
    return Variant("ShardVGGNet", {"width": width, **letters, **more}, configurations, _RULE, note, unshared)


def _e_resnet(blocks_per_stage: int, width: int, num_classes: int, published: str) -> Variant:
    arguments = {"width": (width, 2 * width, 4 * width), "share": "none", "blocks_per_stage": blocks_per_stage}
    return Variant("ShardResNet", arguments, (_cifar(published, num_classes=num_classes),), _RULE)


def _sl_resnet(blocks_per_stage: int, width: int, *configurations: Configuration) -> Variant:
    arguments = {"width": width, "share": "spatial", "blocks_per_stage": blocks_per_stage}
    return Variant("ShardResNet", arguments, configurations, _RULE)


def _deep(
    share: str,
    width: int | tuple[int, ...],
    *configurations: Configuration,
    bottleneck: bool = False,
    note: str = "",
) -> Variant:
    arguments = {"width": width, "share": share, "bottleneck": bottleneck}
    return Variant("ShardDeepResNet", arguments, configurations, _RULE, note)


_VGG16 = (64, 128, 256, 512, 512)
_RESNET = (64, 128, 256, 512)

VARIANTS = {
    "vggnet": _vggnet(_VGG16, _E, _cifar("14.7M")),
    "e_vggnet_32": _vggnet(32, _E, _cifar("112K")),
    "s_vggnet_32": _vggnet(
        32, _S, _cifar("9.3K"), note="9,248 according to the paper's formula", unshared="e_vggnet_32"
    ),
    "sl_vggnet_32": _vggnet(32, _SL, _cifar("13.3K")),
    "e_vggnet_64": _vggnet(64, _E, _cifar("445K")),
    "s_vggnet_64": _vggnet(64, _S, _cifar("37K"), unshared="e_vggnet_64"),
    "sl_vggnet_64": _vggnet(64, _SL, _cifar("53.3K")),
    "e_vggnet_128": _vggnet(128, _E, _cifar("1.8M")),
    "s_vggnet_128": _vggnet(128, _S, _cifar("148K"), unshared="e_vggnet_128"),
    "sl_vggnet_128": _vggnet(128, _SL, _cifar("213K")),
    "e_vggnet_256": _vggnet(256, _E, _cifar("7.1M")),
    "s_vggnet_256": _vggnet(256, _S, _cifar("590K"), _cifar("590K", num_classes=100), unshared="e_vggnet_256"),
    "sl_vggnet_256": _vggnet(256, _SL, _cifar("852K"), _cifar("852K", num_classes=100)),
    "e_vggnet_320": _vggnet(320, _E, _cifar("11.1M", num_classes=100)),
    "s_vggnet_320": _vggnet(320, _S, _cifar("922K", num_classes=100), unshared="e_vggnet_320"),
    "sl_vggnet_320": _vggnet(320, _SL, _cifar("1.3M", num_classes=100)),
    "e_vggnet_512": _vggnet(512, _E, _cifar("28M")),
    "s_vggnet_512": _vggnet(512, _S, _cifar("2.4M"), unshared="e_vggnet_512"),
    "sl_vggnet_512": _vggnet(512, _SL, _cifar("3.4M")),
    "sl2_vggnet_256": _vggnet(256, _SL, _cifar("852K"), convs_per_block=2),
    "sl3_vggnet_256": _vggnet(256, _SL, _cifar("852K"), convs_per_block=3),
    "sl2_vggnet_512": _vggnet(512, _SL, _cifar("3.4M"), convs_per_block=2),
    "sl3_vggnet_512": _vggnet(512, _SL, _cifar("3.4M"), convs_per_block=3),
    "e3_resnet_16": _e_resnet(3, 16, 10, "294K"),
    "e5_resnet_16": _e_resnet(5, 16, 10, "488K"),
    "e7_resnet_16": _e_resnet(7, 16, 10, "682K"),
    "e3_resnet_32": _e_resnet(3, 32, 100, "1.2M"),
    "e5_resnet_32": _e_resnet(5, 32, 100, "1.9M"),
    "e7_resnet_32": _e_resnet(7, 32, 100, "2.7M"),
    "sl3_resnet_64": _sl_resnet(3, 64, _cifar("C=6.5", "e3_resnet_16")),
    "sl5_resnet_64": _sl_resnet(5, 64, _cifar("C=10.8", "e5_resnet_16")),
    "sl7_resnet_64": _sl_resnet(7, 64, _cifar("C=15.2", "e7_resnet_16")),
    "sl3_resnet_96": _sl_resnet(3, 96, _cifar("C=2.9", "e3_resnet_16")),
    "sl5_resnet_96": _sl_resnet(5, 96, _cifar("C=4.8", "e5_resnet_16")),
    "sl7_resnet_96": _sl_resnet(7, 96, _cifar("C=6.7", "e7_resnet_16")),
    "sl3_resnet_128": _sl_resnet(3, 128, _cifar("181K"), _cifar("C=6.6", "e3_resnet_32", 100)),
    "sl5_resnet_128": _sl_resnet(5, 128, _cifar("C=2.7", "e5_resnet_16")),
    "sl7_resnet_128": _sl_resnet(7, 128, _cifar("C=3.8", "e7_resnet_16")),
    "sl3_resnet_256": _sl_resnet(3, 256, _cifar("C=1.7", "e3_resnet_32", 100)),
    "sl5_resnet_256": _sl_resnet(5, 256, _cifar("C=2.6", "e5_resnet_32", 100)),
    "sl7_resnet_256": _sl_resnet(7, 256, _cifar("C=3.7", "e7_resnet_32", 100)),
    "e_resnet_34": _deep("none", _RESNET, _tiny_imagenet("25.2M"), _imagenet("25.2M")),
    "e_resnet_50": _deep(
        "none",
        _RESNET,
        _tiny_imagenet("26.8M"),
        _imagenet("26.8M"),
        bottleneck=True,
        note="26.86M for Tiny ImageNet including the classifier",
    ),
    "sl_resnet_34_256": _deep("block", 256, _tiny_imagenet("794K")),
    "sl_resnet_34_512": _deep("block", 512, _tiny_imagenet("3.2M"), _imagenet("3.2M")),
    "sl_resnet_50_256": _deep("block", 256, _tiny_imagenet("4.5M"), bottleneck=True),
    "sl_resnet_50_512": _deep(
        "block",
        512,
        _tiny_imagenet("18.5M"),
        _imagenet("18.1M"),
        bottleneck=True,
        note="18.52M for Tiny ImageNet including the classifier",
    ),
}
