import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.analysis import count_parameters
from keras_sharenets.models import IGCNet, PlainIGCNet, find_variant

SMALL = {"include_preprocessing": False, "width": 8, "input_shape": (8, 8, 3), "num_classes": 5}
# The products equal the width in the first two stages, and are above it in the third.
BRANCHES = {"branch_channels": ((4, 2), (4, 4), (8, 4, 2))}
TINY = {
    "xception": {**SMALL, "block": "xception", "stem_filters": 5},
    "igcv1": {**SMALL, "block": "igcv1", "stem_filters": 4},
    "igcv2": {**SMALL, "block": "igcv2", "stem_filters": 4, **BRANCHES},
    "igcv2_i": {**SMALL, "block": "igcv2_i", **BRANCHES},
    "star": {**SMALL, "block": "igcv2"},
}


# The weights of one block, and the values printed in the paper's table; multiply-adds in millions.
BLOCKS = [
    ("plain_xception_c64", 9 * 64 + 64 * 64, 4700, 4.8),
    ("plain_igcv1_c64", 9 * 2 * 64 + 32 * 64, 3000, 3.2),
    ("plain_igcv2_i_c98_k7", 9 * 2 * 98 + 2 * 7 * 98, 3000, 3.2),
    ("plain_igcv2_ii_c100_k10", 9 * 100 + 2 * 10 * 100, 3000, 3.2),
    ("plain_igcv2_c144_k12", 9 * 144 + 2 * 12 * 144, 4700, 4.8),
    ("plain_xception_c96", 9 * 96 + 96 * 96, 10000, 10),
    ("plain_igcv2_c256_k16", 9 * 256 + 2 * 16 * 256, 10000, 10),
    ("plain_xception_c128", 9 * 128 + 128 * 128, 17000, 17),
    ("plain_igcv2_c361_k19", 9 * 361 + 2 * 19 * 361, 17000, 17),
    ("plain_igcv1_c96", 9 * 2 * 96 + 48 * 96, 6000, 6.1),
    ("plain_igcv2_i_c162_k9", 9 * 2 * 162 + 2 * 9 * 162, 6000, 6.1),
    ("plain_igcv2_ii_c169_k13", 9 * 169 + 2 * 13 * 169, 6000, 6.1),
    ("plain_igcv1_c128", 9 * 2 * 128 + 64 * 128, 10000, 11),
    ("plain_igcv2_i_c242_k11", 9 * 2 * 242 + 2 * 11 * 242, 10000, 11),
]


@counts_only
@pytest.mark.parametrize(("name", "weights", "printed", "millions"), slow_after(3, BLOCKS))
def test_blocks_of_the_plain_networks(name, weights, printed, millions):
    model = ksn.create_model(name)
    width = model.get_layer("stem").filters
    for index in range(1, 7):
        rows = [row for row in ksn.profile(model).layers if row.name.startswith(f"block{index}_")]
        assert sum(row.multiply_adds for row in rows) == 32 * 32 * weights
        # Plus batch normalization.
        assert sum(row.stored_parameters for row in rows) == weights + 2 * width
    assert count_parameters(model, "conv_kernels") == 27 * width + 6 * weights
    assert weights == pytest.approx(printed, rel=0.07)
    assert 32 * 32 * weights / 1e6 == pytest.approx(millions, rel=0.1)
    assert find_variant(name).note == f"a block has {weights:,} weights; the paper prints about {printed:,}"


@counts_only
def test_a_strided_stem_makes_the_images_of_tiny_imagenet_as_costly_as_those_of_cifar():
    sizes = {"num_classes": 200, "input_shape": (64, 64, 3)}
    profile = ksn.profile(ksn.create_model("igcv2_c64_d8", **sizes))
    # Of a 32x32 image; paper: table 3.
    assert profile.multiply_adds == 9_510_912 + 256 * 200
    everywhere = ksn.profile(ksn.create_model("igcv2_c64_d8", **sizes, stem_strides=1))
    assert everywhere.multiply_adds == 4 * 9_510_912 + 256 * 200
    below = ksn.create_model("igcv2_c64_d8", input_shape=(64, 63, 3))
    assert below.get_layer("stem").strides == (1, 1)
    images = keras.Input((64, 64, 3))
    assert ksn.create_model("igcv2_c64_d8", input_tensor=images).get_layer("stem").strides == (2, 2)


@pytest.mark.parametrize("setting", slow_after(1, ["igcv2", "igcv1", "xception"]))
def test_harness(setting, tmp_path, other_backend):
    check_model(IGCNet, TINY[setting], tmp_path, other_backend)


# The mean after a normalization is 0 up to rounding, which differs between backends and affects the next one.
NORMALIZED = {**TINY["igcv2"], "norm_each": True, "stem_strides": 2, "input_shape": (16, 16, 3)}
PLAIN = {**SMALL, "block": "igcv2_i", "branch_channels": (2, 4), "blocks_per_stage": 2}


@pytest.mark.slow
def test_harness_with_norm_after_each_convolution_and_a_strided_stem(tmp_path):
    check_model(IGCNet, NORMALIZED, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {**TINY["igcv2"], "shortcut": "dense", "widens": "first"},
        {**TINY["igcv1"], "shortcut": "pad", "spatial_branches": (4, 8, 16)},
        {**SMALL, "block": "deep_roots", "shortcut": "pairs"},
    ],
    ids=["first", "table1", "deep_roots"],
)
def test_harness_of_other_readings(arguments, tmp_path, other_backend):
    check_model(IGCNet, arguments, tmp_path, other_backend)


@pytest.mark.slow
def test_harness_of_plain_networks(tmp_path, other_backend):
    check_model(PlainIGCNet, PLAIN, tmp_path, other_backend)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    slow_after(1, [(PlainIGCNet, PLAIN), (IGCNet, TINY["igcv1"]), (IGCNet, TINY["xception"]), (IGCNet, NORMALIZED)]),
    ids=["plain", "igcv1", "xception", "normalized"],
)
def test_choices(factory, arguments, tmp_path):
    check_choice(factory, arguments, tmp_path)


@counts_only
@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    slow_after(
        2,
        [
            # Table 1's shape, whose blocks have branches of two channels in every stage: a primary 3x3 convolution with
            # 9 * 2 weights per output, a secondary one with half the width; shortcuts and stem as usual.
            (
                "igcv1_c48_d8",
                {"spatial_branches": (24, 48, 96)},
                27 * 48
                + 2 * (18 * 48 + 24 * 48)
                + (9 * 96 + 18 * 96 + 2 * 48 * 96)
                + (9 * 192 + 18 * 192 + 2 * 96 * 192)
                + 2 * 96
                + 4 * 192,
            ),
            # Two shortcuts with 2 and with 4 weights per output: none, 2 and 2, dense.
            ("igcv2_c64_d8", {"shortcut": "pad"}, 47_232 - 2 * 128 - 4 * 256),
            ("igcv2_c64_d8", {"shortcut": "pairs"}, 47_232 - 2 * 256),
            ("igcv2_c64_d8", {"shortcut": "dense"}, 47_232 - 2 * 128 - 4 * 256 + 64 * 128 + 128 * 256),
            # The first 1x1 convolution of two blocks has twice as many outputs.
            ("igcv2_c64_d8", {"widens": "first"}, 47_232 + 64 * 16 + 128 * 32),
            # K and C / K: a product of C. Slopes of the specification, 18368 and 22160 for a block of each stage.
            ("igcv2_c64_one_path_d20", {"blocks_per_stage": (4, 2, 2)}, None),
            ("xception_c35_d8", {"shortcut": "pad"}, 55_860 - 35 * 70 - 70 * 140),
        ],
    ),
)
def test_counts_of_other_readings(name, changes, expected):
    if expected is None:
        by_depth = [count_parameters(ksn.create_model(f"{name[:-4]}_d{depth}"), "conv_kernels") for depth in (20, 26)]
        assert by_depth[1] - by_depth[0] == 2 * 18_368
    else:
        assert count_parameters(ksn.create_model(name, **changes), "conv_kernels") == expected


def conv(images, kernel, strides=1, groups=1):
    """A group convolution with (k - 1) / 2 zeros of padding on each side, in NumPy."""
    size = kernel.shape[0]
    border = size // 2
    images = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))[:, ::strides, ::strides]
    planes, filters = np.split(windows, groups, axis=3), np.split(kernel, groups, axis=3)
    pairs = zip(planes, filters, strict=True)
    return np.concatenate([np.einsum("bhwcij,ijcf->bhwf", *pair) for pair in pairs], axis=-1)


def shuffle(x, size):
    """The specification's shuffle: `new[j] = old[perm[j]]`."""
    channels = x.shape[-1]
    return x[..., np.arange(channels).reshape(channels // size, size).T.ravel()]


def interleaved(x, kernels):
    """Equation 4 with the specification's shuffles."""
    channels, places = x.shape[-1], np.arange(x.shape[-1])
    for kernel in kernels[:-1]:
        size = kernel.shape[2]
        x, places = shuffle(conv(x, kernel, groups=channels // size), size), shuffle(places, size)
    size, filters = kernels[-1].shape[2:]
    x = conv(x, kernels[-1], groups=channels // size)
    return x[..., np.argsort(places)] if filters == channels else shuffle(x, size * filters // channels)


def reference(model, images, block, width, plain=False):
    """The network of the specification, computed from the stored tensors."""
    weights = {layer.name: [np.asarray(value, "float64") for value in layer.get_weights()] for layer in model.layers}

    def norm(x, name):
        scale, offset, mean, variance = weights[f"{name}_norm"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset

    def run(x, filters, stride, name):
        (spatial,) = weights[f"{name}_spatial"]
        if block in ("xception", "igcv2"):
            x = conv(x, spatial.transpose(0, 1, 3, 2), stride, groups=x.shape[-1])
        else:
            x = shuffle(conv(x, spatial, stride, groups=width // 2), filters // (width // 2))
        if block in ("igcv2", "igcv2_i"):
            x = interleaved(x, weights[f"{name}_interleaved"])
        else:
            x = conv(x, weights[f"{name}_pointwise"][0], groups=1 if block == "xception" else filters // (width // 2))
        return shuffle(x, width // 2) if block in ("igcv1", "igcv2_i") else x

    x = np.maximum(norm(conv(images, weights["stem"][0]), "stem"), 0)
    if plain:
        for index in (1, 2):
            x = np.maximum(norm(run(x, width, 1, f"block{index}"), f"block{index}"), 0)
    for stage in () if plain else (1, 2, 3):
        filters, stride = width * 2 ** (stage - 1), 2 if stage > 1 else 1
        first, second = f"stage{stage}_block1", f"stage{stage}_block2"
        y = np.maximum(norm(run(x, filters, stride, first), first), 0)
        y = norm(run(y, filters, 1, second), second)
        if stage == 1:
            x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))
        else:
            kernel = weights[f"{first}_shortcut"][0]
            x = norm(conv(x, kernel, 2, groups=1 if block == "xception" else width // 2), f"{first}_shortcut")
        x = np.maximum(x + y, 0)
    return x.mean((1, 2)) @ weights["predictions"][0] + weights["predictions"][1]


def randomize_norms(model):
    """Sets random scales, offsets and statistics."""
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = np.random.default_rng(index).uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])


@pytest.mark.parametrize("setting", TINY)
def test_equals_the_network_computed_in_numpy(setting):
    keras.utils.set_random_seed(3)
    model = IGCNet(**TINY[setting], classifier_activation=None)
    randomize_norms(model)
    images = pseudo_random((2, 8, 8, 3))
    assert_close(outputs_of(model, images), reference(model, images, TINY[setting]["block"], width=8), 1e-4)


def test_plain_network_equals_the_reference():
    keras.utils.set_random_seed(3)
    arguments = {"block": "igcv2_i", "width": 12, "branch_channels": (3, 2), "blocks_per_stage": 2}
    arguments |= {"input_shape": (4, 4, 3), "include_preprocessing": False}
    model = PlainIGCNet(**arguments, classifier_activation=None)
    randomize_norms(model)
    images = pseudo_random((2, 4, 4, 3))
    assert_close(outputs_of(model, images), reference(model, images, "igcv2_i", width=12, plain=True), 1e-4)


@pytest.mark.parametrize("setting", slow_after(1, ["igcv2", "igcv1", "xception", "igcv2_i", "star"]))
def test_norms_between_the_convolutions_change_no_kernel_and_no_path(setting):
    keras.utils.set_random_seed(3)
    whole, apart = (IGCNet(**TINY[setting], norm_each=each, classifier_activation=None) for each in (False, True))
    assert count_parameters(whole, "conv_kernels") == count_parameters(apart, "conv_kernels")
    for layer in apart.layers:
        if layer.name.startswith("stage") and layer.weights and not layer.name.endswith("_norm"):
            block, _, part = layer.name.partition("_pointwise")
            if part:
                kernel = whole.get_layer(f"{block}_interleaved").get_weights()[int(part) - 1]
                layer.set_weights([kernel])
            else:
                layer.set_weights(whole.get_layer(layer.name).get_weights())
        elif layer.name in ("stem", "predictions"):
            layer.set_weights(whole.get_layer(layer.name).get_weights())
    images = pseudo_random((2, 8, 8, 3))
    # An untrained normalization in inference mode divides by the square root of 1 + 1e-5.
    assert_close(outputs_of(apart, images), outputs_of(whole, images), 3e-4)
    norms = [sum(layer.name.endswith("_norm") for layer in model.layers) for model in (whole, apart)]
    # The stem, two shortcuts and the ends of six blocks; then all convolutions of these blocks except the last of each.
    between = {"xception": 6 * 1, "igcv1": 6 * 1, "igcv2": 2 * (2 + 2 + 3), "igcv2_i": 2 * (2 + 2 + 3)}
    between["star"] = 2 * (1 + 2 + 2)
    assert norms == [1 + 2 + 6, 1 + 2 + 6 + between[setting]]


def test_default_branches_connect_all_channels_of_a_stage():
    model = ksn.create_model("igcv2_star_c216_d20", blocks_per_stage=2)
    branches = [model.get_layer(f"stage{stage}_block1_interleaved").branch_channels for stage in (1, 2, 3)]
    assert branches == [(8,) * 3, (8,) * 3, (8,) * 4]
    first = model.get_layer("stage1_block1_interleaved")
    assert [tuple(kernel.shape) for kernel in first.kernels] == [(1, 1, 8, 64), (1, 1, 8, 64), (1, 1, 8, 216)]


def test_without_the_top_the_weights_are_the_full_networks():
    full = IGCNet(**TINY["igcv2"], classifier_activation=None)
    headless = IGCNet(**TINY["igcv2"], include_top=False, pooling="avg")
    assert headless.output_shape == (None, 32)
    assert IGCNet(**TINY["igcv2"], include_top=False).output_shape == (None, 2, 2, 32)
    headless.set_weights(full.get_weights()[:-2])
    images = pseudo_random((2, 8, 8, 3))
    kernel, bias = full.get_layer("predictions").get_weights()
    assert_close(outputs_of(full, images), outputs_of(headless, images) @ kernel + bias, 1e-5)


def test_input_tensor_and_unknown_height_and_width():
    inputs = keras.Input((None, None, 3))
    model = IGCNet(**{**TINY["igcv2"], "input_tensor": keras.layers.Rescaling(1 / 255)(inputs)})
    assert model.input is inputs
    assert model(pseudo_random((1, 12, 20, 3))).shape == (1, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block": "igcv3"},
            r"`block` \(='igcv3'\) must be one of 'xception', 'igcv1', 'igcv2', 'igcv2_i', ",
        ),
        ({"width": 0}, r"`width` \(=0\) must be a positive integer\."),
        ({"width": 9}, r"`width` \(=9\) must be even for `block` \(='igcv2'\)\."),
        ({"stem_filters": 0}, r"`stem_filters` \(=0\) must be a positive integer\."),
        ({"stem_filters": 9}, r"`stem_filters` \(=9\) must be at most `width` \(=8\)\."),
        ({"stem_strides": 0}, r"`stem_strides` \(=0\) must be a positive integer\."),
        ({"blocks_per_stage": 3}, r"`blocks_per_stage` \(=3\) must be a multiple of 2\."),
        ({"blocks_per_stage": (2, 2)}, r"`blocks_per_stage` \(=\(2, 2\)\) must be .* each of the 3 stages"),
        (
            {"branch_channels": (4, 2)},
            r"`branch_channels` \(=\(4, 2\)\) must have one tuple for each of the 3 stages, or 5 with those",
        ),
        ({"branch_channels": (8, 8, 8)}, r"`branch_channels` \(=8\) must be a tuple or list"),
        ({"branch_channels": ((4, 2), (3, 4), (8, 4))}, r"`branch_channels\[0\]` \(=3\) must divide .* \(=8\)\."),
        ({"block": "xception"}, r"`branch_channels` \(=.*\) must be `None` for `block` \(='xception'\)\."),
        (
            {"block": "igcv1", "branch_channels": None, "stem_filters": 6},
            r"`width / 2` \(=4\) must divide `stem_filters` \(=6\)\.",
        ),
        ({"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be at least .* total stride \(=4\)"),
        ({"shortcut": "none"}, r"`shortcut` \(='none'\) must be one of 'branches', 'pairs', 'dense', 'pad'\."),
        ({"widens": "all"}, r"`widens` \(='all'\) must be one of 'first', 'last'\."),
        ({"spatial_branches": 4}, r"`spatial_branches` \(=4\) must be `None` for `block` \(='igcv2'\): its 3x3"),
        (
            {"block": "igcv1", "branch_channels": None, "widens": "first"},
            r"`widens` \(='first'\) must be 'last' for `block` \(='igcv1'\)\.",
        ),
        (
            {"block": "igcv1", "branch_channels": None, "spatial_branches": (4, 3, 4)},
            r"`spatial_branches` \(=3\) must divide the channels of a 3x3 convolution \(=8\)\.",
        ),
        ({"stem_strides": 4}, r"`input_shape` \(=\(8, 8, 3\)\) must be at least .* total stride \(=16\)"),
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer\."),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        IGCNet(**{**TINY["igcv2"], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks_per_stage": 0}, r"`blocks_per_stage` \(=0\) must be a positive integer\."),
        ({"block": "xception"}, r"`branch_channels` \(=\(5, 5\)\) must be `None` for `block` \(='xception'\)\."),
        ({"block": "igcv2_i"}, r"`width` \(=25\) must be even for `block` \(='igcv2_i'\)\."),
        (
            {"branch_channels": ()},
            r"`branch_channels` \(=\(\)\) must be a tuple or list of at least one positive integer\.",
        ),
    ],
)
def test_bad_arguments_of_plain_networks(changes, message):
    with pytest.raises(ValueError, match=message):
        PlainIGCNet(**{"width": 25, "branch_channels": (5, 5), "input_shape": (4, 4, 3), **changes})
