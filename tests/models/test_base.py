"""Common behavior of all network factories."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random
from sharesnet_networks import BOTTLENECKS

import keras_sharenets as ksn
from keras_sharenets.models import base
from keras_sharenets.models.registry import FAMILIES, RENAMED, VARIANTS, own_arguments

FACTORIES = {variant.factory: name for name, variant in VARIANTS.items()}
QUICK = [family.representative[0] for family in FAMILIES.values()]
PreActResNet = ksn.models.PreActResNet


def test_network_takes_raw_pixels():
    keras.utils.set_random_seed(0)
    network = PreActResNet(**{**BOTTLENECKS, "include_preprocessing": True})
    plain = PreActResNet(**BOTTLENECKS)
    assert [weight.path for weight in network.weights] == [weight.path for weight in plain.weights]
    plain.set_weights(network.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    assert_close(outputs_of(network, pixels), outputs_of(plain, (pixels / 127.5 - 1).astype("float32")), 1e-5)


@pytest.mark.parametrize(
    "factory",
    [pytest.param(factory, marks=[] if name in QUICK else pytest.mark.slow) for factory, name in FACTORIES.items()],
    ids=lambda factory: factory.__name__,
)
def test_every_factory_scales_pixels_unless_told_otherwise(factory):
    with keras.StatelessScope():
        network = ksn.create_model(FACTORIES[factory])
        scaling = [layer for layer in network.layers if isinstance(layer, keras.layers.Rescaling)]
        assert [(layer.name, layer.scale, layer.offset) for layer in scaling] == [("preprocessing", 1 / 127.5, -1)]
        keras.utils.clear_session()


def test_input_tensor_holds_pixels_like_any_input():
    inputs = keras.Input((8, 8, 3))
    doubled = keras.layers.Rescaling(2.0)(inputs)
    arguments = {**BOTTLENECKS, "input_tensor": doubled}
    scaled = PreActResNet(**{**arguments, "include_preprocessing": True})
    assert scaled.get_layer("preprocessing").input is doubled
    assert scaled.input is inputs
    with pytest.raises(ValueError, match="No such layer: preprocessing"):
        PreActResNet(**arguments).get_layer("preprocessing")


def test_arguments_have_one_name_in_all_factories():
    arguments = {argument for name in FACTORIES.values() for argument in own_arguments(name)}
    assert not arguments & {*RENAMED, *base.CommonArguments.__annotations__}
    assert {"blocks_per_stage", "dropout_rate", "width", "width_multiplier"} <= arguments


@pytest.mark.parametrize(
    ("name", "former", "present"),
    [
        ("hscnet_m32_g4_r2_b1_a2", {"modules_per_stage": 2, "dropout": 0.25}, ("blocks_per_stage", "dropout_rate")),
        ("sl3_resnet_64", {"filters": 8, "blocks_per_level": 1}, ("width", "blocks_per_stage")),
        ("sha_wrn_28_10", {"widening": 1, "depth": 16}, ("width_multiplier", "depth")),
        ("plain_igcv2_i_c98_k7", {"blocks": 2}, ("blocks_per_stage",)),
    ],
)
def test_records_with_former_names_are_read(name, former, present):
    renamed = dict(zip(present, former.values(), strict=True))
    again, now = (ksn.create_model(name, **arguments) for arguments in (former, renamed))
    assert [(layer.name, layer.get_config()) for layer in again.layers] == [
        (layer.name, layer.get_config()) for layer in now.layers
    ]


def test_unknown_arguments():
    with pytest.raises(TypeError, match=r"'sl3_resnet_64' has no argument `widths`\. Did you mean 'width'"):
        ksn.create_model("sl3_resnet_64", widths=3)
    with pytest.raises(TypeError, match=r"'resnet_8' has no argument `weight`\. Did you mean 'weights'"):
        ksn.create_model("resnet_8", weight="cifar10")
    with pytest.raises(TypeError, match=r"The factory of 'preact_resnet' has no argument `widening` \(=3\)\."):
        PreActResNet(widening=3)
    with pytest.raises(ValueError, match=r"`pixel_statistics` \(=.*\) must be omitted with `include_preprocessing`"):
        ksn.create_model("resnet_8", include_preprocessing=False, pixel_statistics=([120.0], [4000.0]))
    with pytest.raises(ValueError, match="`filters`, `width` include one under two names"):
        ksn.create_model("sl3_resnet_64", filters=8, width=8)


def test_source_of_a_network_is_checked():
    with pytest.raises(ValueError, match=r"`input_tensor.shape\[1:\]` \(=\(2, 2, 3\)\) must be at least"):
        PreActResNet(input_tensor=keras.Input((2, 2, 3)))
    assert PreActResNet(**BOTTLENECKS)(pseudo_random((1, 8, 8, 3))).shape == (1, 5)


def test_one_class_needs_another_activation_than_softmax():
    common = {"input_shape": (8, 8, 3), "num_classes": 1}
    for activation in ({}, {"classifier_activation": keras.activations.softmax}):
        with pytest.raises(ValueError, match=r"`num_classes` \(=1\) must be at least 2 with `classifier_activation`"):
            ksn.create_model("igcv2_c64_d8", **common, **activation)
    for more in ({"classifier_activation": "sigmoid"}, {"include_top": False}):
        assert ksn.create_model("igcv2_c64_d8", blocks_per_stage=2, **common, **more).layers
