"""HGCNet and SGCNet: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657.

The paper prints parameters and multiply-adds, but neither depths nor widths. The defaults are our interpretation, which
reproduces all printed parameter counts; every choice is an argument of `HGCNet`. Our multiply-adds are 3 to 9 % below
the paper's. If 3 operations are added per normalized and activated value, they agree, except for the two deepest
networks, which remain 2 and 4 % below.
"""

from typing import Any

from keras_sharenets.models.variant import Configuration, Variant

# No layer-counting rule gives 42, 67 and 91 for equal steps in depth, so names and modules are paired by hand.
_MODULES = {42: (9, 5, 7), 67: (13, 9, 11), 91: (17, 13, 15)}


def _variant(
    depth: int, groups: int, *configurations: Configuration, hierarchical: bool = True, note: str = "", **more: Any
) -> Variant:
    sharing = {"groups": groups, "hierarchical": hierarchical, "blocks_per_stage": _MODULES[depth]}
    return Variant("HGCNet", {**sharing, **more}, configurations or (Configuration(),), "trainable_without_bn", note)


def _cifar10(published: str) -> Configuration:
    return Configuration(10, published=published)


VARIANTS = {
    "sgcnet_42_g1": _variant(42, 1, _cifar10("0.55M"), hierarchical=False),
    "hgcnet_42_g2": _variant(42, 2, _cifar10("0.41M")),
    "sgcnet_42_g2": _variant(42, 2, _cifar10("0.33M"), hierarchical=False),
    "hgcnet_42_g4": _variant(42, 4, _cifar10("0.28M"), Configuration(100)),
    "sgcnet_42_g4": _variant(42, 4, _cifar10("0.22M"), hierarchical=False),
    "hgcnet_42_g6": _variant(42, 6, _cifar10("0.23M")),
    "sgcnet_42_g6": _variant(42, 6, _cifar10("0.19M"), hierarchical=False),
    "hgcnet_67_g4": _variant(67, 4, _cifar10("0.58M"), Configuration(100)),
    "hgcnet_91_g4": _variant(91, 4, _cifar10("0.97M"), Configuration(100)),
    "se_hgcnet_42_g4": _variant(42, 4, _cifar10("0.37M"), squeeze_excite=8),
    "hgcnet_42_g4_clean": _variant(
        42,
        4,
        blocks_per_stage=(6, 8, 6),
        growth=12,
        bottleneck=4,
        stem_filters=24,
        compression=0.5,
        note="not in the paper: our second-best interpretation, with every width a multiple of 12",
    ),
}
