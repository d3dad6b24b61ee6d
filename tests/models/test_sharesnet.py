"""ShaResNet's networks: counts, backends, inputs and outputs, and errors."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after
from sharesnet_networks import BOTTLENECKS, LARGE, WIDE

import keras_sharenets as ksn
from keras_sharenets.models import PreActResNet, ResNet, WideResNet
from keras_sharenets.models.sharesnet import VARIANTS, nominal_convolutions


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def calls_of_convolutions(model):
    """`{name: number of calls}` of all convolution layers, from the public API."""
    layers = model.get_config()["layers"]
    return {layer["name"]: len(layer["inbound_nodes"]) for layer in layers if layer["class_name"] == "Conv2D"}


# The specification's table: moving statistics, calls of convolutions, kernels, uses of each shared kernel.
TABLE = [
    ("sha_wrn_40_4", 10_784, 40, 28, [5, 5, 5]),
    ("sharesnet_34", 17_024, 36, 24, [3, 4, 6, 3]),
    ("sharesnet_164", 24_224, 166, 118, [17, 17, 17]),
    ("sharesnet_50", 53_120, 53, 44, [3, 3, 5, 2]),
    ("resnet_34", 17_024, 36, 36, []),
    ("resnet_164", 24_224, 166, 166, []),
    ("resnet_92", 13_472, 94, 94, []),
    ("wrn_40_4", 10_784, 40, 40, []),
    ("sharesnet_20", 1_376, 19, 6, [6, 5, 5]),
    ("sharesnet_101", 105_344, 104, 78, [3, 3, 22, 2]),
    ("sharesnet_152", 151_424, 155, 112, [3, 7, 35, 2]),
]


@counts_only
@pytest.mark.parametrize(("name", "statistics", "calls", "kernels", "uses"), slow_after(2, TABLE))
def test_named_networks_share_as_specified(name, statistics, calls, kernels, uses):
    model = ksn.create_model(name)
    assert model.count_params() == trainable(model) + statistics
    found = calls_of_convolutions(model)
    assert (sum(found.values()), len(found)) == (calls, kernels)
    assert {layer: count for layer, count in found.items() if count > 1} == {
        f"stage{stage}_shared": count for stage, count in enumerate(uses, start=1)
    }


# The specification's table of other sharing policies, and of the network with normalization after convolution.
@counts_only
@pytest.mark.parametrize(
    ("name", "choice", "expected"),
    slow_after(
        2,
        [
            ("wrn_40_4", {"share": "stride1"}, 5_815_770),
            ("resnet_34", {"share": "rest"}, 16_747_304),
            ("sharesnet_164", {"order": "conv_norm"}, 930_010),
            ("wrn_40_4", {"share": "all"}, 5_078_490),
            ("resnet_34", {"share": "stride1"}, 16_710_440),
            ("resnet_164", {"share": "stride1"}, 926_810),
            ("resnet_164", {"share": "all"}, 880_730),
            ("resnet_164", {"order": "conv_norm"}, 1_704_154),
            ("wrn_40_4", {"dropout_rate": 0.3}, 8_949_210),
            ("resnet_50", {"share": "rest"}, 20_506_664),
        ],
    ),
)
def test_counts_of_other_choices(name, choice, expected):
    assert trainable(ksn.create_model(name, **choice)) == expected


def test_nominal_convolutions_are_those_of_the_papers_table():
    printed = {
        "resnet_164": 164,
        "sharesnet_164": 113,
        "wrn_40_4": 40,
        "sha_wrn_40_4": 25,
        "wrn_28_10": 28,
        "sha_wrn_28_10": 19,
        "resnet_34": 34,
        "sharesnet_34": 22,  # The paper prints 20, counted differently.
        "resnet_50": 50,
        "sharesnet_50": 38,
        "resnet_101": 101,
        "sharesnet_101": 72,
        "resnet_152": 152,
        "sharesnet_152": 106,
    }
    assert {name: nominal_convolutions(name) for name in printed} == printed
    no_table = {"resnet_20", "sharesnet_20"}
    of_other_tables = {"wrn_28_3", "wrn_28_5", "wrn_28_8", "resnet_164_post", "sharesnet_164_post"}
    assert set(VARIANTS) - set(printed) == {"resnet_92", "wrn_28_4", "wrn_22_10", *of_other_tables, *no_table}
    with pytest.raises(ValueError, match=r"`name` \(='resnet_18'\) must be one of"):
        nominal_convolutions("resnet_18")


CHOICES = {
    "preact-all": (PreActResNet, {**BOTTLENECKS, "share": "all"}),
    "bottleneck-stride1": (ResNet, {**LARGE, "depth": 50, "share": "stride1"}),
    "preact": (PreActResNet, {**BOTTLENECKS, "depth": 11}),
    "postact-all": (PreActResNet, {**BOTTLENECKS, "share": "all", "order": "conv_norm"}),
    "wide": (WideResNet, {**WIDE, "depth": 10}),
    "wide-all": (WideResNet, {**WIDE, "share": "all"}),
    "basic": (ResNet, {**LARGE, "depth": 34, "blocks_per_stage": (1, 1)}),
    "basic-all": (ResNet, {**LARGE, "depth": 34, "share": "all"}),
}


# All layers are from Keras. In `make test`, they run without the other backend, which runs networks of our layers.
@pytest.mark.parametrize(
    ("choice", "there"), slow_after(1, [("preact-all", False), *((choice, True) for choice in CHOICES)])
)
def test_harness(choice, there, tmp_path, request):
    other_backend = request.getfixturevalue("other_backend") if there else None
    check_model(*CHOICES[choice], tmp_path, other_backend)


@pytest.mark.parametrize("choice", slow_after(1, ["bottleneck-stride1", "postact-all", "wide-all", "basic-all"]))
def test_choices(choice, tmp_path):
    check_choice(*CHOICES[choice], tmp_path)


TINY = [
    (PreActResNet, {**BOTTLENECKS, "depth": 11}, (2, 2, 64)),
    (WideResNet, {**WIDE, "depth": 10}, (2, 2, 64)),
    (ResNet, {**LARGE, "depth": 34, "blocks_per_stage": (1, 1)}, (4, 4, 8)),
]


@pytest.mark.parametrize(("factory", "arguments", "features"), slow_after(1, TINY))
def test_without_the_top_the_weights_are_the_full_networks(factory, arguments, features):
    full = factory(**arguments, classifier_activation=None)
    headless = factory(**arguments, include_top=False)
    pooled = factory(**arguments, include_top=False, pooling="avg")
    assert headless.output_shape == (None, *features)
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-2]]
    pooled.set_weights(full.get_weights()[:-2])
    images = pseudo_random((2, *arguments["input_shape"]))
    kernel, bias = full.get_layer("predictions").get_weights()
    logits = outputs_of(pooled, images) @ kernel + bias
    assert_close(outputs_of(full, images), logits, 1e-5)


@pytest.mark.parametrize(("factory", "arguments", "features"), TINY)
def test_input_tensor_of_unknown_height_and_width_is_built_upon(factory, arguments, features):
    inputs = keras.Input((None, None, 3))
    model = factory(**arguments, input_tensor=keras.layers.Rescaling(1 / 255)(inputs), name="mine")
    assert model.name == "mine"
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)
    assert model(pseudo_random((1, 33, 22, 3))).shape == (1, 5)


DEPTH_9N_2 = r"must be 9n \+ 2 with a positive integer n"
DEPTH_6N_4 = r"must be 6n \+ 4 with a positive integer n"
POLICIES = "must be one of 'none', 'rest', 'stride1', 'all'"


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (PreActResNet, {"depth": 21}, rf"`depth` \(=21\) {DEPTH_9N_2}"),
        (PreActResNet, {"depth": 2}, rf"`depth` \(=2\) {DEPTH_9N_2}"),
        (PreActResNet, {"depth": 20.0}, r"`depth` \(=20\.0\) must be a positive integer"),
        (PreActResNet, {"share": "some"}, rf"`share` \(='some'\) {POLICIES}"),
        (PreActResNet, {"share": None}, rf"`share` \(=None\) {POLICIES}"),
        (PreActResNet, {"order": "pre"}, r"`order` \(='pre'\) must be one of 'norm_conv', 'conv_norm'"),
        (PreActResNet, {"width": 0}, r"`width` \(=0\) must be a positive integer"),
        (PreActResNet, {"input_shape": (3, 8, 3)}, r"`input_shape` \(=\(3, 8, 3\)\) must be .* total stride \(=4\)"),
        (PreActResNet, {"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        (PreActResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
        (WideResNet, {"depth": 20}, rf"`depth` \(=20\) {DEPTH_6N_4}"),
        (WideResNet, {"depth": 4}, rf"`depth` \(=4\) {DEPTH_6N_4}"),
        (WideResNet, {"width_multiplier": 1.5}, r"`width_multiplier` \(=1\.5\) must be a positive integer"),
        (WideResNet, {"share": "first"}, rf"`share` \(='first'\) {POLICIES}"),
        (WideResNet, {"dropout_rate": 1}, r"`dropout_rate` \(=1\) must be at least 0 and below 1"),
        (WideResNet, {"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be .* total stride \(=4\)"),
        (WideResNet, {"num_classes": -1}, r"`num_classes` \(=-1\) must be a positive integer"),
        (WideResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
        (ResNet, {"depth": 18}, r"`depth` \(=18\) must be one of 34, 50, 101, 152"),
        (ResNet, {"share": "first"}, rf"`share` \(='first'\) {POLICIES}"),
        (ResNet, {"share": "all"}, r"`share` \(='all'\) must be 'none', 'rest' or 'stride1' at `depth` \(=50\)"),
        (ResNet, {"depth": 152, "share": "all"}, r"`share` \(='all'\) must be .* at `depth` \(=152\)"),
        (ResNet, {"width": -4}, r"`width` \(=-4\) must be a positive integer"),
        (ResNet, {"blocks_per_stage": 2}, r"`blocks_per_stage` \(=2\) must be a sequence"),
        (ResNet, {"blocks_per_stage": ()}, r"`blocks_per_stage` \(=\(\)\) must be a sequence"),
        (ResNet, {"blocks_per_stage": (2, 0)}, r"`blocks_per_stage` \(=0\) must be a positive integer"),
        (ResNet, {"input_shape": (31, 32, 3)}, r"`input_shape` \(=\(31, 32, 3\)\) must be .* total stride \(=32\)"),
        (ResNet, {"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        (ResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
    ],
)
def test_bad_arguments(factory, changes, message):
    small = {PreActResNet: BOTTLENECKS, WideResNet: WIDE, ResNet: {"width": 4, "input_shape": (64, 64, 3)}}[factory]
    with pytest.raises(ValueError, match=message):
        factory(**{**small, **changes})
