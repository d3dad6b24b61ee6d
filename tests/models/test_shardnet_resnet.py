import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, outputs_of, pseudo_random, slow_after
from shardnet_reference import conv, max_pool, neighbors, norm, relu, scramble, stored, uses

from keras_sharenets.models import ShardDeepResNet, ShardResNet

TINY = {"include_preprocessing": False, "width": 6, "blocks_per_stage": 1, "input_shape": (8, 8, 3), "num_classes": 5}
DEEP = {**TINY, "input_shape": (16, 16, 3)}
BOTTLENECK = {**DEEP, "width": 2, "bottleneck": True}

CHOICES = {
    # For the reason for no bias, see the harness test of ShardVGGNet.
    "cifar_shared": (ShardResNet, {**TINY, "conv_bias": False}),
    "bottleneck_shared": (ShardDeepResNet, {**BOTTLENECK, "stem": "conv7", "input_shape": (64, 64, 3)}),
    "cifar_own": (ShardResNet, {**TINY, "conv_bias": False, "share": "none", "width": (4, 6, 8)}),
    "basic_own": (
        ShardDeepResNet,
        {**DEEP, "share": "none", "width": (3, 4, 4, 5), "final_pool": 3, "input_shape": (24, 24, 3)},
    ),
}


# In `make test`, the other backend runs ShardVGGNet, which shares in the same way.
@pytest.mark.parametrize(
    ("choice", "there"), slow_after(1, [("cifar_shared", False), *((choice, True) for choice in CHOICES)])
)
def test_harness(choice, there, tmp_path, request):
    other_backend = request.getfixturevalue("other_backend") if there else None
    check_model(*CHOICES[choice], tmp_path, other_backend)


@pytest.mark.parametrize("choice", slow_after(1, ["bottleneck_shared", "basic_own"]))
def test_choices(choice, tmp_path):
    check_choice(*CHOICES[choice], tmp_path)


class Reference:
    """The residual networks of the specification (sections 2.2 and 2.3), computed from the stored tensors."""

    def __init__(self, model):
        self.weights = stored(model)

    def conv_norm(self, x, name, role="spatial"):
        """A convolution, shared if available, with the normalization of this place."""
        return self.norm(conv(x, *self.weights.get(f"shared_{role}", self.weights.get(name))), name)

    def norm(self, x, name):
        return norm(x, *self.weights[f"{name}_norm"])

    def basic(self, x, name):
        y = relu(self.conv_norm(x, f"{name}_spatial1"))
        return relu(x + self.conv_norm(y, f"{name}_spatial2"))

    def bottleneck(self, x, name):
        y = relu(self.conv_norm(x, f"{name}_reduce", "reduce"))
        y = relu(self.conv_norm(y, f"{name}_spatial"))
        return relu(x + self.conv_norm(y, f"{name}_expand", "expand"))

    def levels(self, x, block, levels, blocks):
        for level in range(1, levels + 1):
            for index in range(1, blocks + 1):
                x = block(x, f"level{level}_block{index}")
            if level < levels:
                x = max_pool(conv(x, *self.weights[f"blend{level}"]))
        return x

    def predictions(self, features):
        kernel, bias = self.weights["predictions"]
        return features @ kernel + bias


def drawn_cifar(model, images, pad_to, blocks):
    reference = Reference(model)
    x = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, pad_to - 3)))
    x = relu(reference.conv_norm(x, "stem"))
    return reference.predictions(reference.levels(x, reference.basic, 3, blocks).mean((1, 2)))


def drawn_deep(model, images, bottleneck, conv7, blocks, final_pool):
    reference = Reference(model)
    x = relu(reference.norm(conv(images, *reference.weights["stem"], strides=2 if conv7 else 1), "stem"))
    if bottleneck:
        x = conv(x, *reference.weights["blend0"])
    if conv7:
        x = max_pool(x)
    x = reference.levels(x, reference.bottleneck if bottleneck else reference.basic, 4, blocks)
    if final_pool is None:
        return reference.predictions(x.mean((1, 2)))
    # Adjacent windows of 3x3; the remainder is dropped.
    rows, columns = x.shape[1] // 3, x.shape[2] // 3
    windows = [
        x[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] for row in range(rows) for column in range(columns)
    ]
    return reference.predictions(np.concatenate([window.mean((1, 2)) for window in windows], axis=1))


@pytest.mark.parametrize(
    "sharing", [{"share": "spatial"}, {"share": "none", "width": (3, 4, 5)}], ids=["shared", "own"]
)
def test_cifar_network_equals_the_one_computed_in_numpy(sharing):
    keras.utils.set_random_seed(1)
    model = ShardResNet(**{**TINY, "blocks_per_stage": 2, **sharing}, classifier_activation=None)
    scramble(model)
    images = pseudo_random((2, 8, 8, 3))
    expected = drawn_cifar(model, images, pad_to=6 if sharing["share"] == "spatial" else 3, blocks=2)
    assert_close(outputs_of(model, images), expected, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "conv7", "blocks"),
    [
        ({**BOTTLENECK, "blocks_per_stage": 2, "input_shape": (18, 18, 3)}, False, 2),
        ({**BOTTLENECK, "stem": "conv7", "input_shape": (34, 64, 3)}, True, 1),
        ({**DEEP, "conv_bias": True, "final_pool": 3, "input_shape": (24, 48, 3)}, False, 1),
        ({**DEEP, "share": "none", "width": (4, 5, 6, 7), "linear_bias": False}, False, 1),
    ],
    ids=["bottleneck", "bottleneck_conv7", "basic_final_pool", "basic_own"],
)
def test_deep_network_equals_the_one_computed_in_numpy(arguments, conv7, blocks):
    keras.utils.set_random_seed(2)
    model = ShardDeepResNet(**arguments, classifier_activation=None)
    scramble(model)
    images = pseudo_random((2, *arguments["input_shape"]))
    bottleneck, final_pool = arguments.get("bottleneck", False), arguments.get("final_pool")
    expected = drawn_deep(model, images, bottleneck, conv7, blocks, final_pool)
    assert_close(outputs_of(model, images), expected, 1e-4)


@pytest.mark.parametrize("blocks", [3, 5])
def test_one_convolution_serves_the_stem_and_all_blocks(blocks):
    counts = uses(ShardResNet(width=4, blocks_per_stage=blocks))
    assert {layer: count for layer, count in counts.items() if count > 1} == {"shared_spatial": 1 + 6 * blocks}
    assert sum(layer.endswith("_norm") for layer in counts) == 1 + 6 * blocks


def test_one_convolution_serves_all_basic_blocks_but_not_the_stem():
    counts = uses(ShardDeepResNet(width=4))
    assert {layer: count for layer, count in counts.items() if count > 1} == {"shared_spatial": 32}
    assert sum(layer.endswith("_norm") for layer in counts) == 1 + 32
    assert counts["stem"] == 1


def test_one_bottleneck_block_serves_as_all():
    model = ShardDeepResNet(width=4, bottleneck=True)
    counts = uses(model)
    shared = {layer: count for layer, count in counts.items() if count > 1}
    assert shared == {"shared_reduce": 16, "shared_spatial": 16, "shared_expand": 16}
    assert sum(layer.endswith("_norm") for layer in counts) == 1 + 3 * 16
    shapes = [tuple(model.get_layer(layer).kernel.shape) for layer in shared]
    assert shapes == [(1, 1, 16, 4), (3, 3, 4, 4), (1, 1, 4, 16)]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_without_sharing_every_place_has_its_own_convolution(bottleneck):
    assert set(uses(ShardDeepResNet(**{**DEEP, "share": "none", "bottleneck": bottleneck})).values()) == {1}


BETWEEN = [(f"blend{level}", {f"level{level}_block1_relu"}, {f"level{level}_pool"}) for level in (1, 2, 3)]


def test_blending_layers_stand_before_the_pooling_between_levels():
    assert neighbors(ShardResNet(**TINY), "blend") == BETWEEN[:2]
    assert neighbors(ShardDeepResNet(**DEEP), "blend") == BETWEEN


def test_bottleneck_networks_blend_behind_the_stem_too():
    (first, *others) = neighbors(ShardDeepResNet(**BOTTLENECK), "blend")
    assert first == ("blend0", {"stem_relu"}, {"shared_reduce", "level1_block1_add"})
    assert others == BETWEEN
    large = ShardDeepResNet(**{**BOTTLENECK, "input_shape": (112, 112, 3)})
    assert neighbors(large, "blend0") == [("blend0", {"stem_relu"}, {"stem_pool"})]
    assert large.get_layer("blend0").kernel.shape == (1, 1, 2, 8)


@pytest.mark.parametrize(
    ("input_shape", "stem", "kernel_size", "side"),
    [((111, 224, 3), None, 3, 111), ((112, 112, 3), None, 7, 56), ((224, 224, 3), "conv3", 3, 224)],
)
def test_the_stem_follows_from_the_image_unless_given(input_shape, stem, kernel_size, side):
    layer = ShardDeepResNet(**{**DEEP, "input_shape": input_shape, "stem": stem}).get_layer("stem")
    assert layer.kernel.shape == (kernel_size, kernel_size, 3, 6)
    assert layer.output.shape[1] == side


@pytest.mark.parametrize("factory", [ShardResNet, ShardDeepResNet])
def test_statistics_are_those_of_each_place(factory):
    model = factory(**{**TINY, "input_shape": (16, 16, 3)})
    model(pseudo_random((4, 16, 16, 3)), training=True)
    means = [np.asarray(layer.moving_mean) for layer in model.layers if layer.name.endswith("_norm")]
    assert len(means) == len({mean.tobytes() for mean in means}) > 6


def test_a_regularizer_counts_each_shared_kernel_once():
    model = ShardDeepResNet(**BOTTLENECK)
    expected = 0
    for role in ("reduce", "spatial", "expand"):
        kernel = model.get_layer(f"shared_{role}").kernel
        kernel.regularizer = keras.regularizers.L2(0.25)
        expected += 0.25 * np.sum(np.square(np.asarray(kernel)))
    assert len(model.losses) == 3
    np.testing.assert_allclose(sum(map(float, model.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("factory", "arguments", "shape"), [(ShardResNet, TINY, (2, 2, 6)), (ShardDeepResNet, BOTTLENECK, (2, 2, 8))]
)
def test_without_the_top_the_weights_are_the_full_networks(factory, arguments, shape):
    full, headless = factory(**arguments), factory(**arguments, include_top=False)
    assert headless.output_shape == (None, *shape)
    assert factory(**arguments, include_top=False, pooling="avg").output_shape == (None, shape[-1])
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-2]]


@pytest.mark.parametrize(("factory", "more"), [(ShardResNet, {}), (ShardDeepResNet, {"stem": "conv3"})])
def test_unknown_height_and_width_and_input_tensor(factory, more):
    model = factory(**{**TINY, **more, "input_shape": (None, None, 3)})
    assert model(pseudo_random((1, 12, 20, 3))).shape == (1, 5)
    inputs = keras.Input((16, 16, 3))
    model = factory(**TINY, **more, input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (ShardResNet, {"share": "block"}, r"`share` \(='block'\) must be one of 'none', 'spatial'"),
        (ShardResNet, {"width": 2}, r"`width` \(=2\) must be at least the number of image channels \(=3\)"),
        (ShardResNet, {"width": (4, 4, 8)}, r"`width` \(=\(4, 4, 8\)\) must be the same at every level"),
        (ShardResNet, {"width": (8, 8)}, r"`width` \(=\(8, 8\)\) must be .* each of the 3 stages"),
        (ShardResNet, {"blocks_per_stage": 0}, r"`blocks_per_stage` \(=0\) must be a positive integer"),
        (ShardResNet, {"blocks_per_stage": (1, 2)}, r"`blocks_per_stage` \(=\(1, 2\)\) must be .* of the 3 stages"),
        (ShardResNet, {"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be .* total stride \(=4\)"),
        (ShardResNet, {"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        (ShardDeepResNet, {"share": "spatial"}, r"`share` \(='spatial'\) must be one of 'none', 'block'"),
        (ShardDeepResNet, {"width": (2, 4, 8, 8)}, r"`width` \(=\(2, 4, 8, 8\)\) must be the same at every level"),
        (ShardDeepResNet, {"blocks_per_stage": (1, 1, 1)}, r"`blocks_per_stage` \(=\(1, 1, 1\)\) must be .* 4 stages"),
        (ShardDeepResNet, {"stem": "conv5"}, r"`stem` \(='conv5'\) must be one of None, 'conv3', 'conv7'"),
        (ShardDeepResNet, {"final_pool": 2}, r"`final_pool` \(=2\) must be one of None, 3"),
        (ShardDeepResNet, {"input_shape": (7, 8, 3)}, r"\(=\(7, 8, 3\)\) must be at least .* total stride \(=8\)"),
        (ShardDeepResNet, {"stem": "conv7"}, r"\(=\(16, 16, 3\)\) must be at least .* total stride \(=32\)"),
        (ShardDeepResNet, {"final_pool": 3}, r"\(=\(16, 16, 3\)\) must be at least .* total stride \(=24\)"),
        (ShardDeepResNet, {"input_shape": (None, 16, 3)}, r"must have a known height and width for `stem` \(=None\)"),
        (
            ShardDeepResNet,
            {"input_shape": (None, 32, 3), "stem": "conv3", "final_pool": 3},
            r"must have a known height and width for `final_pool` \(=3\)",
        ),
        (ShardDeepResNet, {"final_pool": 3, "input_shape": (24, 24, 3), "num_classes": 0}, r"`num_classes` \(=0\)"),
        (ShardDeepResNet, {"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of None"),
    ],
)
def test_bad_arguments(factory, changes, message):
    with pytest.raises(ValueError, match=message):
        factory(**{**DEEP, **changes})
