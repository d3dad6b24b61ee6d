import keras
import numpy as np
import pytest
from harness import assert_close, check_model, outputs_and_gradients, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.models import PreActResNet, ResNet, WideResNet
from keras_sharenets.models.sharesnet import VARIANTS, nominal_convolutions


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def calls_of_convolutions(model):
    """`{name: number of calls}` of all convolution layers, from what is public."""
    layers = model.get_config()["layers"]
    return {layer["name"]: len(layer["inbound_nodes"]) for layer in layers if layer["class_name"] == "Conv2D"}


# The specification's table: parameters, moving statistics, calls of convolutions, kernels, uses of every shared kernel.
TABLE = [
    ("resnet_164", 1_703_258, 24_224, 166, 166, []),
    ("sharesnet_164", 929_114, 24_224, 166, 118, [17, 17, 17]),
    ("resnet_92", 961_370, 13_472, 94, 94, []),
    ("wrn_40_4", 8_949_210, 10_784, 40, 40, []),
    ("sha_wrn_40_4", 5_852_634, 10_784, 40, 28, [5, 5, 5]),
    ("resnet_34", 21_797_672, 17_024, 36, 36, []),
    ("sharesnet_34", 13_613_864, 17_024, 36, 24, [3, 4, 6, 3]),
    ("sharesnet_50", 20_469_800, 53_120, 53, 44, [3, 3, 5, 2]),
    ("sharesnet_101", 29_434_920, 105_344, 104, 78, [3, 3, 22, 2]),
    ("sharesnet_152", 36_821_032, 151_424, 155, 112, [3, 7, 35, 2]),
]


@pytest.mark.parametrize(("name", "parameters", "statistics", "calls", "kernels", "uses"), TABLE)
def test_named_networks_store_and_share_as_specified(name, parameters, statistics, calls, kernels, uses):
    model = ksn.create_model(name)
    assert trainable(model) == parameters
    assert model.count_params() == parameters + statistics
    found = calls_of_convolutions(model)
    assert (sum(found.values()), len(found)) == (calls, kernels)
    assert {layer: count for layer, count in found.items() if count > 1} == {
        f"stage{stage}_shared": count for stage, count in enumerate(uses, start=1)
    }


# The specification's table of other ways to share, and of the network that normalises after it convolves.
@pytest.mark.parametrize(
    ("name", "choice", "expected"),
    [
        ("resnet_164", {"share": "stride1"}, 926_810),
        ("resnet_164", {"share": "all"}, 880_730),
        ("resnet_164", {"order": "conv_norm"}, 1_704_154),
        ("sharesnet_164", {"order": "conv_norm"}, 930_010),
        ("wrn_40_4", {"share": "stride1"}, 5_815_770),
        ("wrn_40_4", {"share": "all"}, 5_078_490),
        ("wrn_40_4", {"dropout_rate": 0.3}, 8_949_210),
        ("resnet_34", {"share": "rest"}, 16_747_304),
        ("resnet_34", {"share": "stride1"}, 16_710_440),
        ("resnet_50", {"share": "rest"}, 20_506_664),
    ],
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
        "sharesnet_34": 22,  # The paper prints 20, by another count.
        "resnet_50": 50,
        "sharesnet_50": 38,
        "resnet_101": 101,
        "sharesnet_101": 72,
        "resnet_152": 152,
        "sharesnet_152": 106,
    }
    assert {name: nominal_convolutions(name) for name in printed} == printed
    assert set(VARIANTS) - set(printed) == {"resnet_92", "wrn_28_4", "wrn_22_10"}
    with pytest.raises(ValueError, match=r"`name` \(='resnet_18'\) must be one of"):
        nominal_convolutions("resnet_18")


SMALL = {"num_classes": 5, "input_shape": (8, 8, 3)}
BOTTLENECKS = {**SMALL, "depth": 20, "width": 4}
WIDE = {**SMALL, "depth": 16, "widening": 1}
LARGE = {**SMALL, "width": 4, "blocks_per_stage": (2, 2), "input_shape": (32, 32, 3)}


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (PreActResNet, {**BOTTLENECKS, "depth": 11}),
        (PreActResNet, {**BOTTLENECKS, "share": "all"}),
        (PreActResNet, {**BOTTLENECKS, "share": "all", "order": "conv_norm"}),
        (WideResNet, {**WIDE, "depth": 10}),
        (WideResNet, {**WIDE, "share": "all"}),
        (ResNet, {**LARGE, "depth": 34, "blocks_per_stage": (1, 1)}),
        (ResNet, {**LARGE, "depth": 34, "share": "all"}),
        (ResNet, {**LARGE, "depth": 50, "share": "stride1"}),
    ],
    ids=["preact", "preact-all", "postact-all", "wide", "wide-all", "basic", "basic-all", "bottleneck-stride1"],
)
def test_harness(factory, arguments, tmp_path, other_backend):
    check_model(factory, arguments, tmp_path, other_backend)


def windows(images, size, strides, border):
    """All square windows, with `size // 2` cells of `border` on each side: `(batch, h, w, channels, row, column)`."""
    around = size // 2
    images = np.pad(images, ((0, 0), (around, around), (around, around), (0, 0)), constant_values=border)
    return np.lib.stride_tricks.sliding_window_view(images, (size, size), (1, 2))[:, ::strides, ::strides]


def conv(images, kernel, strides=1):
    return np.einsum("bhwcij,ijcf->bhwf", windows(images, len(kernel), strides, 0), kernel)


class Drawn:
    """The networks as the specification draws them (section 2), in numpy, from the stored tensors alone.

    `sharing` has `(stage, block)` of all blocks that use their stage's convolution.
    """

    def __init__(self, model, sharing):
        self.weights = {layer.name: [np.asarray(w, "float64") for w in layer.get_weights()] for layer in model.layers}
        self.sharing = sharing

    def conv(self, x, name, strides=1):
        return conv(x, self.weights[name][0], strides)

    def norm(self, x, name):
        scale, offset, mean, variance = self.weights[f"{name}_norm"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset

    def norm_relu(self, x, name):
        return np.maximum(self.norm(x, name), 0)

    def preactivated_bottleneck(self, x, name, spatial, strides, first):
        a = self.norm_relu(x, f"{name}_input")
        y = self.norm_relu(self.conv(a, f"{name}_reduce", strides), f"{name}_reduced")
        y = self.norm_relu(self.conv(y, spatial), f"{name}_convolved")
        return self.conv(y, f"{name}_expand") + (self.conv(a, f"{name}_projection", strides) if first else x)

    def bottleneck(self, x, name, spatial, strides, first, stride_on):
        y = self.conv(x, f"{name}_reduce", strides if stride_on == "reduce" else 1)
        y = self.norm_relu(y, f"{name}_reduced")
        y = self.conv(y, spatial, strides if stride_on == "spatial" else 1)
        y = self.conv(self.norm_relu(y, f"{name}_convolved"), f"{name}_expand")
        if first:
            x = self.norm(self.conv(x, f"{name}_projection", strides), f"{name}_projection")
        return np.maximum(self.norm(y, f"{name}_expanded") + x, 0)

    def preactivated_basic(self, x, name, spatial, strides, first):
        a = self.norm_relu(x, f"{name}_input")
        y = self.norm_relu(self.conv(a, f"{name}_first", strides), f"{name}_middle")
        return self.conv(y, spatial) + (self.conv(a, f"{name}_projection", strides) if first else x)

    def basic(self, x, name, spatial, strides, first):
        y = self.norm_relu(self.conv(x, f"{name}_first", strides), f"{name}_middle")
        y = self.norm(self.conv(y, spatial), f"{name}_convolved")
        if strides == 2:
            x = self.norm(self.conv(x, f"{name}_projection", strides), f"{name}_projection")
        return np.maximum(y + x, 0)

    def stages(self, x, block, counts, **more):
        for stage, count in enumerate(counts, start=1):
            for index in range(1, count + 1):
                name, first = f"stage{stage}_block{index}", index == 1
                spatial = f"stage{stage}_shared" if (stage, index) in self.sharing else f"{name}_spatial"
                x = block(x, name, spatial, 2 if stage > 1 and first else 1, first, **more)
        return x

    def logits(self, x):
        kernel, bias = self.weights["predictions"]
        return x.mean((1, 2)) @ kernel + bias

    def preact_resnet(self, images):
        x = self.stages(self.conv(images, "stem"), self.preactivated_bottleneck, (3, 3, 3))
        return self.logits(self.norm_relu(x, "head"))

    def postact_resnet(self, images):
        x = self.norm_relu(self.conv(images, "stem"), "stem")
        return self.logits(self.stages(x, self.bottleneck, (2, 2, 2), stride_on="reduce"))

    def wide_resnet(self, images):
        x = self.stages(self.conv(images, "stem"), self.preactivated_basic, (3, 3, 3))
        return self.logits(self.norm_relu(x, "head"))

    def imagenet_stem(self, images):
        x = self.norm_relu(self.conv(images, "stem", 2), "stem")
        return windows(x, 3, 2, -np.inf).max((-2, -1))

    def imagenet_basic(self, images):
        return self.logits(self.stages(self.imagenet_stem(images), self.basic, (2, 2)))

    def imagenet_bottlenecks(self, images):
        x = self.stages(self.imagenet_stem(images), self.bottleneck, (2, 3), stride_on="spatial")
        return self.logits(x)


def blocks(stages, indices):
    return {(stage, index) for stage in stages for index in indices}


@pytest.mark.parametrize(
    ("factory", "arguments", "sharing", "drawing"),
    [
        (PreActResNet, {**BOTTLENECKS, "depth": 29, "share": "rest"}, blocks((1, 2, 3), (2, 3)), Drawn.preact_resnet),
        (
            PreActResNet,
            {**BOTTLENECKS, "share": "stride1", "order": "conv_norm"},
            blocks((1, 2, 3), (2,)) | {(1, 1)},
            Drawn.postact_resnet,
        ),
        (
            WideResNet,
            {**WIDE, "depth": 22, "widening": 2, "share": "rest", "dropout_rate": 0.3},
            blocks((1, 2, 3), (2, 3)),
            Drawn.wide_resnet,
        ),
        (ResNet, {**LARGE, "depth": 34, "share": "all"}, blocks((1, 2), (1, 2)), Drawn.imagenet_basic),
        (
            ResNet,
            {**LARGE, "depth": 50, "share": "stride1", "blocks_per_stage": (2, 3)},
            {(1, 1), (1, 2), (2, 2), (2, 3)},
            Drawn.imagenet_bottlenecks,
        ),
    ],
    ids=["preact", "postact", "wide", "basic", "bottleneck"],
)
def test_equals_the_network_drawn_in_numpy(factory, arguments, sharing, drawing):
    keras.utils.set_random_seed(3)
    model = factory(**arguments, classifier_activation=None)
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = np.random.default_rng(index).uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])
    images = pseudo_random((2, *arguments["input_shape"]))
    expected = drawing(Drawn(model, sharing), images)
    assert_close(outputs_and_gradients(model, images)[0], expected, 1e-4)


def test_shared_convolution_answers_alike_in_all_places_and_each_place_has_its_own_statistics():
    keras.utils.set_random_seed(1)
    model = PreActResNet(**{**BOTTLENECKS, "depth": 29, "share": "all"})
    places = [f"stage2_block{index}" for index in (1, 2, 3)]
    planes = pseudo_random((2, 4, 4, 8))
    expected = conv(planes, np.asarray(model.get_layer("stage2_shared").kernel))
    for place in places:
        before = model.get_layer(f"{place}_reduced_relu").output
        after = model.get_layer(f"{place}_convolved_norm").input
        assert_close(keras.Model(before, after).predict(planes, verbose=0), expected, 1e-5)
    model(pseudo_random((4, 8, 8, 3)), training=True)
    means = [np.asarray(model.get_layer(f"{place}_convolved_norm").moving_mean) for place in places]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.all(means[one] != means[other])


def test_gradient_of_a_shared_kernel_is_the_sum_over_its_uses():
    keras.utils.set_random_seed(2)
    arguments = {**LARGE, "depth": 50, "blocks_per_stage": (2, 3), "classifier_activation": None}
    model, untied = ResNet(**arguments, share="stride1"), ResNet(**arguments, share="none")
    names = {layer.name for layer in model.layers}
    origin = {layer.name: layer.name if layer.name in names else f"{layer.name[:6]}_shared" for layer in untied.layers}
    for name, source in origin.items():
        untied.get_layer(name).set_weights(model.get_layer(source).get_weights())
    images = pseudo_random((4, 32, 32, 3))

    def gradients(network):
        outputs, values = outputs_and_gradients(network, images, training=True)
        return outputs, {v.path: value for v, value in zip(network.trainable_variables, values, strict=True)}

    outputs, tied = gradients(model)
    outputs_untied, separate = gradients(untied)
    assert_close(outputs, outputs_untied, 1e-5)
    summed = {}
    for path, value in separate.items():
        layer, weight = path.split("/")
        summed.setdefault(f"{origin[layer]}/{weight}", []).append(value)
    assert {path: len(values) for path, values in summed.items() if len(values) > 1} == {
        "stage1_shared/kernel": 2,
        "stage2_shared/kernel": 2,
    }
    assert set(summed) == set(tied)
    for path, values in summed.items():
        assert_close(tied[path], sum(values), 1e-4)


def test_regularizer_of_a_shared_kernel_counts_once():
    model = WideResNet(**WIDE, share="all")
    shared = [model.get_layer(f"stage{stage}_shared").kernel for stage in (1, 2, 3)]
    for kernel in shared:
        kernel.regularizer = keras.regularizers.L2(0.5)
    expected = sum(0.5 * np.sum(np.asarray(kernel, "float64") ** 2) for kernel in shared)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_initial_weights_are_he_normal_by_fan_out_and_differ_between_layers():
    keras.utils.set_random_seed(0)
    model = PreActResNet(depth=20, share="rest", input_shape=(8, 8, 3))
    names = ("block1_spatial", "shared", "block2_expand")
    own, shared, expand = (np.asarray(model.get_layer(f"stage3_{name}").kernel) for name in names)
    for kernel, fan_out in [(own, 3 * 3 * 64), (shared, 3 * 3 * 64), (expand, 256)]:
        deviation = np.sqrt(2 / fan_out)
        assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
        # A truncated normal distribution of this deviation would end at 2.3 times it.
        assert np.max(np.abs(kernel)) > 3 * deviation
    assert np.corrcoef(own.ravel(), shared.ravel())[0, 1] == pytest.approx(0, abs=0.05)
    assert np.all(np.asarray(model.get_layer("predictions").bias) == 0)


def test_dropout_stands_between_the_convolutions_of_every_block():
    model = WideResNet(**WIDE, dropout_rate=0.3)
    names = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
    dropouts = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert list(dropouts) == [f"{name}_dropout" for name in names]
    for name, layer in zip(names, dropouts.values(), strict=True):
        assert layer.rate == 0.3
        assert layer.input is model.get_layer(f"{name}_middle_relu").output
        assert layer.output is model.get_layer(f"{name}_spatial").input
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in WideResNet(**WIDE).layers)


TINY = [
    (PreActResNet, {**BOTTLENECKS, "depth": 11}, (2, 2, 64)),
    (WideResNet, {**WIDE, "depth": 10}, (2, 2, 64)),
    (ResNet, {**LARGE, "depth": 34, "blocks_per_stage": (1, 1)}, (4, 4, 8)),
]


@pytest.mark.parametrize(("factory", "arguments", "features"), TINY)
def test_without_the_top_the_weights_are_the_full_networks(factory, arguments, features):
    full = factory(**arguments, classifier_activation=None)
    headless = factory(**arguments, include_top=False)
    pooled = factory(**arguments, include_top=False, pooling="avg")
    assert headless.output_shape == (None, *features)
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-2]]
    pooled.set_weights(full.get_weights()[:-2])
    images = pseudo_random((2, *arguments["input_shape"]))
    kernel, bias = full.get_layer("predictions").get_weights()
    logits = outputs_and_gradients(pooled, images)[0] @ kernel + bias
    assert_close(outputs_and_gradients(full, images)[0], logits, 1e-5)


@pytest.mark.parametrize(("factory", "arguments", "features"), TINY)
def test_input_tensor_of_unknown_height_and_width_is_built_upon(factory, arguments, features):
    inputs = keras.Input((None, None, 3))
    model = factory(**arguments, input_tensor=keras.layers.Rescaling(1 / 255)(inputs), name="mine")
    assert model.name == "mine"
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)
    assert model(pseudo_random((1, 33, 22, 3))).shape == (1, 5)


DEPTH_9N_2 = r"must be 9n \+ 2 with a whole n of at least 1"
DEPTH_6N_4 = r"must be 6n \+ 4 with a whole n of at least 1"
POLICIES = "must be one of 'none', 'rest', 'stride1', 'all'"


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (PreActResNet, {"depth": 21}, rf"`depth` \(=21\) {DEPTH_9N_2}"),
        (PreActResNet, {"depth": 2}, rf"`depth` \(=2\) {DEPTH_9N_2}"),
        (PreActResNet, {"depth": 20.0}, r"`depth` \(=20\.0\) must be a whole number of at least 1"),
        (PreActResNet, {"share": "some"}, rf"`share` \(='some'\) {POLICIES}"),
        (PreActResNet, {"share": None}, rf"`share` \(=None\) {POLICIES}"),
        (PreActResNet, {"order": "pre"}, r"`order` \(='pre'\) must be one of 'norm_conv', 'conv_norm'"),
        (PreActResNet, {"width": 0}, r"`width` \(=0\) must be a whole number of at least 1"),
        (PreActResNet, {"input_shape": (3, 8, 3)}, r"`input_shape` \(=\(3, 8, 3\)\) must be .* total stride \(=4\)"),
        (PreActResNet, {"num_classes": 0}, r"`num_classes` \(=0\) must be a whole number of at least 1"),
        (PreActResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
        (WideResNet, {"depth": 20}, rf"`depth` \(=20\) {DEPTH_6N_4}"),
        (WideResNet, {"depth": 4}, rf"`depth` \(=4\) {DEPTH_6N_4}"),
        (WideResNet, {"widening": 1.5}, r"`widening` \(=1\.5\) must be a whole number of at least 1"),
        (WideResNet, {"share": "first"}, rf"`share` \(='first'\) {POLICIES}"),
        (WideResNet, {"dropout_rate": 1}, r"`dropout_rate` \(=1\) must be at least 0 and below 1"),
        (WideResNet, {"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be .* total stride \(=4\)"),
        (WideResNet, {"num_classes": -1}, r"`num_classes` \(=-1\) must be a whole number of at least 1"),
        (WideResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
        (ResNet, {"depth": 18}, r"`depth` \(=18\) must be one of 34, 50, 101, 152"),
        (ResNet, {"share": "first"}, rf"`share` \(='first'\) {POLICIES}"),
        (ResNet, {"share": "all"}, r"`share` \(='all'\) must be 'none', 'rest' or 'stride1' at `depth` \(=50\)"),
        (ResNet, {"depth": 152, "share": "all"}, r"`share` \(='all'\) must be .* at `depth` \(=152\)"),
        (ResNet, {"width": -4}, r"`width` \(=-4\) must be a whole number of at least 1"),
        (ResNet, {"blocks_per_stage": 2}, r"`blocks_per_stage` \(=2\) must be a sequence"),
        (ResNet, {"blocks_per_stage": ()}, r"`blocks_per_stage` \(=\(\)\) must be a sequence"),
        (ResNet, {"blocks_per_stage": (2, 0)}, r"`blocks_per_stage` \(=0\) must be a whole number of at least 1"),
        (ResNet, {"input_shape": (31, 32, 3)}, r"`input_shape` \(=\(31, 32, 3\)\) must be .* total stride \(=32\)"),
        (ResNet, {"num_classes": 0}, r"`num_classes` \(=0\) must be a whole number of at least 1"),
        (ResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of"),
    ],
)
def test_bad_arguments(factory, changes, message):
    small = {PreActResNet: BOTTLENECKS, WideResNet: WIDE, ResNet: {"width": 4, "input_shape": (64, 64, 3)}}[factory]
    with pytest.raises(ValueError, match=message):
        factory(**{**small, **changes})
