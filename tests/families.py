"""One network of every family, at the size of CIFAR-10, for tests that each family passes."""

import keras_sharenets as ksn

# Family: a named network and what makes it cheap.
REPRESENTATIVES = {
    "hscnet": ("hscnet_m32_g4_r2_b1_a2", {}),
    "hgcnet": ("se_hgcnet_42_g4", {"blocks_per_stage": (2, 1, 1)}),
    "igcnet": ("igcv2_c64_d8", {}),
    "sharesnet": ("sharesnet_164", {"depth": 29}),
    "shardnet": ("sl3_resnet_64", {"width": 24}),
    "mobile_baselines": ("shufflenet_v2_2_0", {"width": (24, 48, 96, 192, 256), "blocks_per_stage": 2}),
}


def representative(family, **overrides):
    """An untrained network of a family for 10 classes and 32x32 images that are normalized already."""
    name, cheaper = REPRESENTATIVES[family]
    return ksn.create_model(
        name, **{"num_classes": 10, "input_shape": (32, 32, 3), "include_preprocessing": False, **cheaper, **overrides}
    )
