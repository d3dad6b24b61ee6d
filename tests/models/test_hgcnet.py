import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.layers import ChannelShuffle, HierarchicalGroupConv2D, SplitGroupConv2D, StridedChannelShuffle
from keras_sharenets.models import HGCNet

SMALL = {"blocks_per_stage": 1, "growth": 4, "bottleneck": 3, "stem_filters": 8}
TINY = {**SMALL, "include_preprocessing": False, "input_shape": (8, 8, 3), "num_classes": 5}


# The second-best interpretation with other groups and depths: the specification's section 1.3, in millions.
@counts_only
@pytest.mark.parametrize(
    ("changes", "millions"),
    slow_after(
        2,
        [
            ({"groups": 1}, 0.529),
            ({"groups": 2}, 0.409),
            ({"groups": 2, "hierarchical": False}, 0.332),
            ({"groups": 4, "hierarchical": False}, 0.234),
            ({"groups": 6}, 0.244),
            ({"groups": 6, "hierarchical": False}, 0.201),
            ({"blocks_per_stage": (10, 12, 10)}, 0.592),
            ({"blocks_per_stage": (14, 16, 14)}, 0.986),
            ({"squeeze_excite": 8}, 0.371),
        ],
    ),
)
def test_counts_of_the_runner_up(changes, millions):
    model = ksn.create_model("hgcnet_42_g4_clean", **changes)
    assert round(count_parameters(model, "trainable_without_bn") / 1e6, 3) == millions


@counts_only
@pytest.mark.parametrize(
    ("changes", "difference"),
    slow_after(
        1,
        [
            # Two dense layers with biases: 2 k^2 / 8 + k + k / 8 for a module that adds k channels.
            ({"squeeze_excite": 8, "squeeze_excite_after": "pointwise"}, 9 * 25 + 5 * 82 + 7 * 292),
            ({"transition": "pool"}, -(88**2) - 168**2),
            ({"transition": "pool_conv"}, 0),
            ({"squeeze_excite": 8, "squeeze_excite_after": "depthwise"}, 367_732 - 283_978),
            ({"shuffle": "none"}, 0),
            ({"around_depthwise": ("none", "norm_relu")}, 0),
        ],
    ),
)
def test_counts_of_other_readings(changes, difference):
    model = ksn.create_model("hgcnet_42_g4", **changes)
    assert count_parameters(model, "trainable_without_bn") == 283_978 + difference


OTHERS = [
    {"shuffle": "none", "around_depthwise": ("none", "norm_relu"), "squeeze_excite": 2},
    {"shuffle": "shufflenet", "transition": "pool_conv", "squeeze_excite": 4, "squeeze_excite_after": "pointwise"},
    {"transition": "pool", "squeeze_excite": 4, "squeeze_excite_after": "depthwise"},
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", OTHERS, ids="-".join)
def test_harness_of_other_readings(choice, tmp_path, other_backend):
    check_model(HGCNet, {**TINY, "groups": 2, "bottleneck": 2, **choice}, tmp_path, other_backend)


def between(model, first, last):
    """The kinds of layers between two layers, given by name."""
    names = [layer.name for layer in model.layers]
    return [type(layer).__name__ for layer in model.layers[names.index(first) + 1 : names.index(last) + 1]]


def test_operations_around_the_depthwise_convolution():
    module = "stage1_module1"
    model = HGCNet(**TINY, around_depthwise=("none", "norm_relu"), squeeze_excite=4, squeeze_excite_after="depthwise")
    assert between(model, f"{module}_group_pointwise", f"{module}_concat") == [
        *("DepthwiseConv2D", "BatchNormalization", "ReLU", "SqueezeExcite", "Conv2D", "Concatenate")
    ]
    model = HGCNet(**TINY, around_depthwise=("norm", "none"), squeeze_excite=4, squeeze_excite_after="pointwise")
    assert between(model, f"{module}_group_pointwise", f"{module}_concat") == [
        *("BatchNormalization", "DepthwiseConv2D", "Conv2D", "SqueezeExcite", "Concatenate")
    ]


def test_order_of_channels_before_the_groups():
    images = pseudo_random((1, 2, 2, 8))
    orders = {"strided": [0, 4, 1, 5, 2, 6, 3, 7], "shufflenet": [0, 2, 4, 6, 1, 3, 5, 7]}
    for shuffle, order in orders.items():
        model = HGCNet(**{**TINY, "bottleneck": 2}, groups=4, shuffle=shuffle)
        layer = model.get_layer("stage1_module1_shuffle")
        assert_close(np.asarray(layer(images)), images[..., order], 1e-6)
    model = HGCNet(**{**TINY, "bottleneck": 2}, groups=4, shuffle="none")
    assert not any("shuffle" in layer.name for layer in model.layers)


def test_transitions():
    x = pseudo_random((1, 8, 8, 12))
    pooled = x.reshape(1, 4, 2, 4, 2, 12).mean((2, 4))
    model = HGCNet(**TINY, transition="pool")
    part = keras.Model(model.get_layer("stage1_module1_concat").output, model.get_layer("transition1_pool").output)
    assert_close(outputs_of(part, x), pooled, 1e-6)
    assert between(HGCNet(**TINY, transition="pool_conv"), "stage1_module1_concat", "transition1_pointwise") == [
        *("BatchNormalization", "ReLU", "AveragePooling2D", "Conv2D")
    ]


CHOICES = [
    {"groups": 2, "bottleneck": 2, "compression": 0.5},
    {},
    {"groups": 6, "hierarchical": False},
    {"groups": 3, "squeeze_excite": 4, "stem_filters": 16},
]


@pytest.mark.parametrize("choice", slow_after(1, CHOICES), ids=lambda choice: "-".join(choice) or "default")
def test_harness(choice, tmp_path, other_backend):
    check_model(HGCNet, {**TINY, **choice}, tmp_path, other_backend)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES[1:], ids=lambda choice: "-".join(choice) or "default")
def test_choices(choice, tmp_path):
    check_choice(HGCNet, {**TINY, **choice}, tmp_path)


def depthwise(images, kernel):
    """A 3x3 depthwise convolution with one zero of padding on each side, in NumPy."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = images.shape[1]
    windows = [(row, column) for row in range(3) for column in range(3)]
    return sum(padded[:, y : y + side, x : x + side] * kernel[y, x, :, 0] for y, x in windows)


def convolve(images, kernel):
    """A 3x3 convolution with one zero of padding on each side, in NumPy."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = images.shape[1]
    windows = [(row, column) for row in range(3) for column in range(3)]
    return sum(padded[:, y : y + side, x : x + side] @ kernel[y, x] for y, x in windows)


def reference(model, images, groups, hierarchical, squeeze_excite, stages):
    """The network of the specification (sections 1.1 to 1.3), computed from the stored tensors."""
    weights = {layer.name: [np.asarray(value, "float64") for value in layer.get_weights()] for layer in model.layers}

    def norm(x, name):
        scale, offset, mean, variance = weights[f"{name}_norm"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset

    def grouped(x, kernels):
        outputs = []
        for group, kernel in enumerate(kernels):
            # The channels that the shuffle assigns to this group.
            read = x[..., group::groups]
            if hierarchical and outputs:
                read = np.concatenate([read, outputs[-1]], axis=-1)
            outputs.append(read @ kernel[0, 0])
        return np.concatenate(outputs, axis=-1)

    def module(x, name):
        y = grouped(np.maximum(norm(x, f"{name}_input"), 0), weights[f"{name}_group_pointwise"])
        y = norm(y, f"{name}_group_pointwise")
        if squeeze_excite:
            squeeze, squeeze_bias, excite, excite_bias = weights[f"{name}_squeeze_excite"]
            hidden = np.maximum(y.mean((1, 2)) @ squeeze + squeeze_bias, 0)
            y = y / (1 + np.exp(-(hidden @ excite + excite_bias)))[:, None, None]
        y = norm(depthwise(y, weights[f"{name}_depthwise"][0]), f"{name}_depthwise")
        return np.concatenate([x, y @ weights[f"{name}_pointwise"][0][0, 0]], axis=-1)

    x = convolve(images, weights["stem"][0])
    for stage, count in enumerate(stages, start=1):
        if stage > 1:
            name = f"transition{stage - 1}"
            x = np.maximum(norm(x, f"{name}_input"), 0) @ weights[f"{name}_pointwise"][0][0, 0]
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        for index in range(1, count + 1):
            x = module(x, f"stage{stage}_module{index}")
    features = np.maximum(norm(x, "head"), 0).mean((1, 2))
    return features @ weights["predictions"][0] + weights["predictions"][1]


@pytest.mark.parametrize(
    ("hierarchical", "squeeze_excite", "compression"),
    slow_after(2, [(True, 4, 0.7), (False, None, 0.5), (True, None, 1.0)]),
)
def test_equals_the_network_computed_in_numpy(hierarchical, squeeze_excite, compression):
    keras.utils.set_random_seed(3)
    choice = {"groups": 3, "hierarchical": hierarchical, "squeeze_excite": squeeze_excite, "compression": compression}
    model = HGCNet(**{**TINY, **choice, "blocks_per_stage": (2, 1, 2)}, classifier_activation=None)
    for index, layer in enumerate(model.layers):
        numbers = np.random.default_rng(index)
        if isinstance(layer, keras.layers.BatchNormalization):
            statistics = numbers.uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([statistics[0], statistics[1] - 1, statistics[2] - 1, statistics[3]])
        elif layer.name.endswith("squeeze_excite"):
            layer.set_weights([numbers.uniform(-1, 1, weight.shape) for weight in layer.weights])
    images = pseudo_random((2, 8, 8, 3))
    expected = reference(model, images, 3, hierarchical, squeeze_excite, stages=(2, 1, 2))
    assert_close(outputs_of(model, images), expected, 1e-4)


def test_channels_are_shuffled_where_the_groups_divide_and_strided_where_not():
    model = HGCNet(**{**TINY, "groups": 3, "blocks_per_stage": 2})
    shuffles = [layer for layer in model.layers if isinstance(layer, (ChannelShuffle, StridedChannelShuffle))]
    kinds = {layer.input.shape[-1]: (type(layer), layer.groups) for layer in shuffles}
    assert kinds == {
        8: (StridedChannelShuffle, 3),
        12: (ChannelShuffle, 4),
        16: (StridedChannelShuffle, 3),
        24: (ChannelShuffle, 8),
        32: (StridedChannelShuffle, 3),
        48: (ChannelShuffle, 16),
    }
    plain = HGCNet(**{**TINY, "groups": 1})
    assert not any(isinstance(layer, (ChannelShuffle, StridedChannelShuffle)) for layer in plain.layers)


@pytest.mark.parametrize(
    ("hierarchical", "kind"), [(True, HierarchicalGroupConv2D), (False, SplitGroupConv2D)], ids=["hgcnet", "sgcnet"]
)
def test_only_the_first_convolution_of_a_module_has_groups(hierarchical, kind):
    model = HGCNet(**TINY, hierarchical=hierarchical)
    grouped = [layer.name for layer in model.layers if isinstance(layer, (HierarchicalGroupConv2D, SplitGroupConv2D))]
    assert grouped == [f"stage{stage}_module1_group_pointwise" for stage in (1, 2, 3)]
    assert all(type(model.get_layer(name)) is kind for name in grouped)
    activated = [layer.name for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    before = [f"stage{stage}_module1" for stage in (1, 2, 3)]
    before[1:1], before[3:3] = ["transition1"], ["transition2"]
    assert activated == [f"{name}_input_relu" for name in before] + ["head_relu"]


def test_without_the_top_the_weights_are_the_full_networks():
    full = HGCNet(**TINY)
    headless = HGCNet(**TINY, include_top=False)
    assert headless.output_shape == (None, 2, 2, 8 + 4 + 8 + 16)
    assert HGCNet(**TINY, include_top=False, pooling="max").output_shape == (None, 36)
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-2]]


def test_input_tensor_is_built_upon():
    inputs = keras.Input((8, 8, 3))
    model = HGCNet(**TINY, input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)


def test_unknown_height_and_width():
    model = HGCNet(**{**TINY, "input_shape": (None, None, 3)}, squeeze_excite=4)
    assert model(pseudo_random((1, 13, 20, 3))).shape == (1, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, r"`groups` \(=0\) must be a positive integer"),
        ({"groups": 5}, r"`groups` \(=5\) must divide `growth` \* `bottleneck` \(=12\)"),
        ({"groups": 12}, r"`groups` \(=12\) must be at most the number of channels \(=8\)"),
        ({"growth": 2.5}, r"`growth` \(=2\.5\) must be a positive integer"),
        ({"bottleneck": -1}, r"`bottleneck` \(=-1\) must be a positive integer"),
        ({"stem_filters": 0}, r"`stem_filters` \(=0\) must be a positive integer"),
        ({"blocks_per_stage": (1, 2)}, r"`blocks_per_stage` \(=\(1, 2\)\) must be .* each of the 3 stages"),
        ({"squeeze_excite": 0}, r"`squeeze_excite` \(=0\) must be a positive integer"),
        ({"squeeze_excite": 8}, r"`squeeze_excite` \(=8\) must divide `growth` \* `bottleneck` \(=12\)"),
        ({"compression": 0}, r"`compression` \(=0\) must be a number above 0"),
        ({"squeeze_excite": 3, "squeeze_excite_after": "pointwise"}, r"`squeeze_excite` \(=3\) must divide `growth`"),
        ({"squeeze_excite_after": "concat"}, r"`squeeze_excite_after` \(='concat'\) must be one of"),
        ({"shuffle": "random"}, r"`shuffle` \(='random'\) must be one of 'strided', 'shufflenet', 'none'"),
        ({"groups": 3, "shuffle": "shufflenet"}, r"`groups` \(=3\) must divide the channels that `shuffle` .* \(=8\)"),
        ({"around_depthwise": ("norm",)}, r"`around_depthwise` \(=\('norm',\)\) must be a pair"),
        ({"around_depthwise": ("relu", "norm")}, r"`around_depthwise` \(='relu'\) must be one of 'none', 'norm'"),
        ({"transition": "conv"}, r"`transition` \(='conv'\) must be one of 'conv_pool', 'pool_conv', 'pool'"),
        ({"transition": "pool", "compression": 0.5}, r"`compression` \(=0\.5\) must be 1 with `transition`"),
        ({"compression": 1.5}, r"`compression` \(=1\.5\) must be at most 1"),
        ({"compression": 0.05}, r"`compression \* channels` \(=0\) must be a positive integer"),
        ({"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be at least .* total stride \(=4\)"),
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        ({"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of None, 'avg', 'max'"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        HGCNet(**{**TINY, **changes})
