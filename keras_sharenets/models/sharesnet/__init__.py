"""ShaResNet: "reducing residual network parameter number by sharing weights", Boulch, Pattern Recognition Letters 2018.

Which blocks of a stage share differs between the paper's networks and can only be inferred from the counts. Networks
for CIFAR exclude the first block of each stage, bottleneck networks for ImageNet exclude it where it has strides, and
ResNet-34 excludes no block.
"""

from keras_sharenets import _checks
from keras_sharenets.models.variant import Configuration, Variant


def _preact(depth: int, share: str, published: str, unshared: str | None = None, **more: str) -> Variant:
    configurations = (Configuration(10, published=published),)
    return Variant("PreActResNet", {"depth": depth, "share": share, **more}, configurations, unshared=unshared)


def _wide(
    depth: int,
    width_multiplier: int,
    share: str,
    num_classes: int,
    published: str,
    unshared: str | None = None,
    note: str = "",
) -> Variant:
    arguments = {"depth": depth, "width_multiplier": width_multiplier, "share": share}
    configurations = (Configuration(num_classes, published=published),)
    return Variant("WideResNet", arguments, configurations, note=note, unshared=unshared)


def _imagenet(depth: int, share: str, published: str, unshared: str | None = None) -> Variant:
    configurations = (Configuration(1000, (224, 224, 3), published),)
    return Variant("ResNet", {"depth": depth, "share": share}, configurations, unshared=unshared)


def _basic(share: str, unshared: str | None = None, note: str = "") -> Variant:
    return Variant("BasicResNet", {"blocks_per_stage": (3, 3, 3), "share": share}, note=note, unshared=unshared)


VARIANTS = {
    "resnet_164": _preact(164, "none", "1.70M"),
    "sharesnet_164": _preact(164, "rest", "0.93M", "resnet_164"),
    "resnet_164_post": _preact(164, "none", "1.70M", order="conv_norm"),
    "sharesnet_164_post": _preact(164, "rest", "0.93M", "resnet_164_post", order="conv_norm"),
    "resnet_92": _preact(92, "none", "0.96M"),
    "wrn_40_4": _wide(40, 4, "none", 10, "8.95M"),
    "sha_wrn_40_4": _wide(40, 4, "rest", 10, "5.85M", "wrn_40_4"),
    "wrn_28_10": _wide(28, 10, "none", 100, "36.54M"),
    "sha_wrn_28_10": _wide(28, 10, "rest", 100, "26.86M", "wrn_28_10"),
    "wrn_28_4": _wide(28, 4, "none", 10, "5.85M"),
    "wrn_28_3": _wide(28, 3, "none", 1000, "3.5M", note="count from HSC-Net's table 1, like that of `wrn_28_5`"),
    "wrn_28_5": _wide(28, 5, "none", 1000, "9.5M"),
    "wrn_28_8": _wide(28, 8, "none", 10, "23.4M", note="from HSC-Net's figure 7"),
    "wrn_22_10": _wide(22, 10, "none", 100, "26.85M", note="the paper truncates the last digit"),
    "resnet_34": _imagenet(34, "none", "21.8M"),
    "sharesnet_34": _imagenet(34, "all", "13.6M", "resnet_34"),
    "resnet_50": _imagenet(50, "none", "25.6M"),
    "sharesnet_50": _imagenet(50, "stride1", "20.5M", "resnet_50"),
    "resnet_101": _imagenet(101, "none", "44.5M"),
    "sharesnet_101": _imagenet(101, "stride1", "29.4M", "resnet_101"),
    "resnet_152": _imagenet(152, "none", "60.2M"),
    "sharesnet_152": _imagenet(152, "stride1", "36.8M", "resnet_152"),
    "resnet_20": _basic("none", note="not in the paper, nor is `sharesnet_20`: small enough for microcontrollers"),
    "sharesnet_20": _basic("both", "resnet_20", note="one 3x3 convolution per stage, twice in each block"),
}
_NETWORKS = {"PreActResNet": "preact_resnet", "WideResNet": "wide_resnet", "ResNet": "resnet"}
# Layers per block, times three equal stages, and the number of other layers.
_LAYERS = {"preact_resnet": (9, 2), "wide_resnet": (6, 4)}
_BLOCKS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def stage_blocks(network: str, depth: int) -> tuple[int, ...]:
    """Number of blocks per stage of a `PreActResNet`, `WideResNet` or `ResNet`; `network` is its default name.

    >>> stage_blocks("preact_resnet", 164), stage_blocks("wide_resnet", 28), stage_blocks("resnet", 101)
    ((18, 18, 18), (4, 4, 4), (3, 4, 23, 3))
    """
    if network == "resnet":
        _checks.one_of("depth", depth, tuple(_BLOCKS))
        return _BLOCKS[depth]
    _checks.positive("depth", depth)
    layers, others = _LAYERS[network]
    count, rest = divmod(depth - others, layers)
    if rest or count < 1:
        raise ValueError(f"`depth` (={depth}) must be {layers}n + {others} with a positive integer n.")
    return (count,) * 3


def nominal_convolutions(name: str) -> int:
    """The number of convolutions of a named network of this family as counted in the paper's table 1.

    This is the depth in the name. With sharing, one is subtracted for every block except the first of each stage, as if
    all blocks of a stage shared. The paper's parameter counts imply otherwise: all sharing networks except ResNet-34
    save 3 kernels fewer. For ResNet-34 the paper prints 20 instead of the 22 of this function, since it omits the stem
    and the classifier there.

    Raises:
        ValueError: the paper has no network of that name.

    >>> nominal_convolutions("resnet_164"), nominal_convolutions("sharesnet_164")
    (164, 113)
    """
    of_paper = {key: variant for key, variant in VARIANTS.items() if variant.factory_name in _NETWORKS}
    _checks.one_of("name", name, tuple(of_paper))
    variant = of_paper[name]
    depth = variant.arguments["depth"]
    if variant.arguments["share"] == "none":
        return depth
    return depth - sum(count - 1 for count in stage_blocks(_NETWORKS[variant.factory_name], depth))
