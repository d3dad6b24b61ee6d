import csv
import pathlib

import keras
import numpy as np
import pytest
from harness import assert_close, check_model, counts_only, outputs_of, pseudo_random, slow_after
from shardnet_reference import conv, max_pool, neighbors, norm, relu, scramble, stored, uses

import keras_sharenets as ksn
from keras_sharenets.analysis import count_parameters
from keras_sharenets.models import ShardVGGNet

TINY = {"width": 8, "convs_per_block": (2, 1), "hidden_units": (16,), "input_shape": (8, 8, 3), "num_classes": 5}
TINY |= {"include_preprocessing": False}


with (pathlib.Path(__file__).parents[1] / "data" / "model_table.csv").open() as table:
    CONVOLUTIONS = {row["name"]: int(row["convolutions"]) for row in csv.DictReader(table) if row["convolutions"]}
# A width of no named network, and larger images: convolutions with their biases, then all trainable parameters.
OTHERS = [
    ("sl_vggnet_256", {"width": 320}, 1_331_520, 1_771_978),
    ("s_vggnet_256", {"width": 320}, 921_920, 1_362_378),
    ("e_vggnet_256", {"width": 320}, 11_072_000, 11_512_458),
    ("s_vggnet_256", {"num_classes": 200, "input_shape": (56, 56, 3)}, 590_080, 5_727_176),
    ("sl_vggnet_256", {"num_classes": 200, "input_shape": (56, 56, 3)}, 852_224, 5_989_320),
    ("e_vggnet_256", {"num_classes": 100}, 7_088_128, 8_510_052),
    ("sl5_resnet_128", {"num_classes": 100}, 180_608, 201_444),
    ("sl7_resnet_128", {"num_classes": 100}, 180_608, 204_516),
]


@counts_only
@pytest.mark.parametrize(("name", "overrides", "convolutions", "trainable"), slow_after(4, OTHERS))
def test_counts_of_other_widths_and_images(name, overrides, convolutions, trainable):
    model = ksn.create_model(name, **overrides)
    assert count_parameters(model, "conv_kernels_and_biases") == convolutions
    assert count_parameters(model) == trainable


def compressions():
    """The compression factors printed in the paper: `(baseline, network, factor)`."""
    # Tables 1a and 6. The 8.0 in table 6b for SL-VGGNet(64) is a misprint: its own figures give 445K / 53.3K = 8.3, as
    # printed in tables 1a and 6a.
    vgg = {32: (12.0, 8.4), 64: (12.0, 8.3), 128: (12.2, 8.4), 256: (12.0, 8.3), 320: (12.0, 8.5), 512: (11.7, 8.2)}
    for filters, factors in vgg.items():
        for letters, factor in zip(("s", "sl"), factors, strict=True):
            yield f"e_vggnet_{filters}", f"{letters}_vggnet_{filters}", factor
    # Tables 1b to 1d.
    for convs_per_block in (2, 3):
        yield "vggnet", f"sl{convs_per_block}_vggnet_256", 17.3
        yield "vggnet", f"sl{convs_per_block}_vggnet_512", 4.3
    # Tables 7a and 7b: 3, 5 and 7 blocks per level.
    cifar10 = {64: (6.5, 10.8, 15.2), 96: (2.9, 4.8, 6.7), 128: (1.6, 2.7, 3.8)}
    cifar100 = {128: (6.6, 10.5, 14.9), 256: (1.7, 2.6, 3.7)}
    for baseline, table in ((16, cifar10), (32, cifar100)):
        for filters, factors in table.items():
            for blocks, factor in zip((3, 5, 7), factors, strict=True):
                yield f"e{blocks}_resnet_{baseline}", f"sl{blocks}_resnet_{filters}", factor
    # Table 2a; 6.0 is not legible in our copy.
    for name, factor in (("50_512", 1.4), ("50_256", 6.0), ("34_512", 8.4), ("34_256", 33.6)):
        yield "e_resnet_50", f"sl_resnet_{name}", factor


def test_compression_factors():
    """From the specified counts, which tests/test_catalog.py and tests above compare with the networks."""
    wider = {name.replace("256", "320"): count for name, _, count, _ in OTHERS[:3]}
    for baseline, name, factor in compressions():
        exact = {**CONVOLUTIONS, **wider}[baseline] / {**CONVOLUTIONS, **wider}[name]
        # The paper divides figures rounded to two or three digits, and rounds the result to 0.1.
        assert abs(exact - factor) <= 0.03 * factor + 0.05, (baseline, name)


@pytest.mark.parametrize(
    "sharing",
    slow_after(
        1, [{"share": "spatial"}, {"share": "none", "width": (4, 8), "blending": False}, {"blending": "permutation"}]
    ),
    ids=["shared", "own", "permuted"],
)
def test_harness(sharing, tmp_path, other_backend):
    # The gradient of a bias before a normalization is 0 up to rounding, which differs between backends.
    arguments = {**TINY, **sharing, "conv_bias": False, "dropout_rate": 0.0}
    check_model(ShardVGGNet, arguments, tmp_path, other_backend, batch=8)


def reference(model, images, convs_per_block, filters, last_pool):
    """SL-VGGNet of the specification (section 2.1), computed from the stored tensors.

    Without blending layers, even channels come before odd ones.
    """
    weights = stored(model)
    x = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, filters - 3)))
    for block, count in enumerate(convs_per_block, start=1):
        for index in range(1, count + 1):
            x = conv(x, *weights["shared_spatial"])
            x = relu(norm(x, *weights[f"block{block}_conv{index}_norm"]))
        if block < len(convs_per_block):
            permuted = np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
            x = max_pool(conv(x, *weights[f"blend{block}"]) if f"blend{block}" in weights else permuted)
        elif last_pool:
            x = max_pool(x)
    x = x.reshape(len(x), -1)
    for layer in ("dense1", "dense2"):
        x = relu(x @ weights[layer][0] + weights[layer][1])
    return x @ weights["predictions"][0] + weights["predictions"][1]


@pytest.mark.parametrize(("side", "blending"), [(8, True), (8, "permutation"), (12, True), (14, True)])
def test_equals_the_network_computed_in_numpy(side, blending):
    keras.utils.set_random_seed(3)
    arguments = {**TINY, "convs_per_block": (2, 1, 3), "hidden_units": (7, 6), "input_shape": (side, side, 3)}
    model = ShardVGGNet(**arguments, blending=blending, classifier_activation=None)
    scramble(model)
    images = pseudo_random((2, side, side, 3))
    # 8 is a multiple of 2 x 2 x 2; 12 and 14 are not, and 14 has an intermediate side of 7.
    expected = reference(model, images, (2, 1, 3), filters=8, last_pool=side == 8)
    assert_close(outputs_of(model, images), expected, 1e-4)


def tap(model, names):
    """A model that outputs the inputs of layers that are called once."""
    return keras.Model(model.input, [model.get_layer(name).input for name in names])


def test_one_convolution_answers_alike_in_all_its_places_and_statistics_are_those_of_each():
    keras.utils.set_random_seed(0)
    model = ShardVGGNet(**TINY)
    images = pseudo_random((4, 8, 8, 3))
    model(images, training=True)
    places = ("block1_conv1", "block1_conv2", "block2_conv1")
    before = [model.get_layer(name).output for name in ("image_pad", "block1_conv1_relu", "block1_pool")]
    after = [model.get_layer(f"{place}_norm").input for place in places]
    values = keras.Model(model.input, before + after)(images)
    convolution = model.get_layer("shared_spatial")
    for given, response in zip(values[:3], values[3:], strict=True):
        assert_close(np.asarray(response), np.asarray(convolution(given)), 1e-6)
    padded = np.asarray(values[0])
    assert padded.shape == (4, 8, 8, 8)
    np.testing.assert_array_equal(padded[..., :3], images)
    assert not padded[..., 3:].any()
    means = [np.asarray(model.get_layer(f"{place}_norm").moving_mean) for place in places]
    for first in range(3):
        for second in range(first):
            assert np.all(means[first] != means[second])


@pytest.mark.parametrize(("name", "expected"), [("s_vggnet_32", 13), ("sl_vggnet_32", 13)])
def test_one_convolution_serves_all_thirteen_places(name, expected):
    counts = uses(ksn.create_model(name))
    assert {layer: count for layer, count in counts.items() if count > 1} == {"shared_spatial": expected}
    assert sum(layer.endswith("_norm") for layer in counts) == expected


@pytest.mark.parametrize(("convs_per_block", "expected"), [(2, 10), (3, 15)])
def test_equal_blocks(convs_per_block, expected):
    counts = uses(ShardVGGNet(width=4, convs_per_block=convs_per_block))
    assert counts["shared_spatial"] == expected == sum(layer.endswith("_norm") for layer in counts)


def test_without_sharing_every_place_has_its_own_convolution_and_the_image_is_not_padded():
    model = ksn.create_model("e_vggnet_32")
    counts = uses(model)
    assert set(counts.values()) == {1}
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 13
    assert model.get_layer("block1_conv1").kernel.shape == (3, 3, 3, 32)


def test_blending_layers_stand_between_the_last_relu_and_the_pooling_of_all_blocks_but_the_last():
    found = neighbors(ksn.create_model("sl_vggnet_32"), "blend")
    assert found == [
        (f"blend{block}", {f"block{block}_conv{count}_relu"}, {f"block{block}_pool"})
        for block, count in enumerate((2, 2, 3, 3), start=1)
    ]
    assert not neighbors(ksn.create_model("s_vggnet_32"), "blend")


def test_permutations_stand_in_place_of_blending_layers_and_store_nothing():
    model, unpermuted = (ShardVGGNet(**TINY, blending=blending) for blending in ("permutation", False))
    assert neighbors(model, "permutation") == [("permutation1", {"block1_conv2_relu"}, {"block1_pool"})]
    assert not neighbors(model, "blend")
    assert [tuple(weight.shape) for weight in model.weights] == [tuple(weight.shape) for weight in unpermuted.weights]


@pytest.mark.slow
def test_permutations_leave_the_shared_kernel_once_in_the_file(tmp_path):
    model = ShardVGGNet(**{**TINY, "width": 64}, blending="permutation", include_top=False)
    ksn.mobile.export_tflite(model, tmp_path / "model.tflite")
    stored = 4 * model.get_layer("shared_spatial").count_params()
    assert stored < (tmp_path / "model.tflite").stat().st_size < 1.1 * stored


@pytest.mark.parametrize(
    ("input_shape", "num_classes", "features", "units"),
    [
        ((32, 32, 3), 10, 1 * 1 * 8, [512, 512, 10]),
        ((64, 32, 3), 11, 2 * 1 * 8, [1024, 1024, 11]),
        ((64, 56, 3), 100, 4 * 3 * 8, [1024, 1024, 100]),
        ((40, 32, 3), 101, 2 * 2 * 8, [2048, 101]),
        ((56, 56, 3), 200, 3 * 3 * 8, [2048, 200]),
    ],
)
def test_the_papers_dense_layers_follow_from_the_data(input_shape, num_classes, features, units):
    model = ShardVGGNet(width=8, convs_per_block=1, input_shape=input_shape, num_classes=num_classes)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == units
    assert dense[0].kernel.shape[0] == features
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in drops] == [0.5] * (len(units) - 1)


def test_a_regularizer_counts_the_shared_kernel_once():
    model = ShardVGGNet(**TINY)
    kernel = model.get_layer("shared_spatial").kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    model(pseudo_random((2, 8, 8, 3)))
    (penalty,) = model.losses
    np.testing.assert_allclose(float(penalty), 0.5 * np.sum(np.square(np.asarray(kernel))), rtol=1e-5)


def test_without_the_top_the_weights_are_the_full_networks():
    full = ShardVGGNet(**TINY)
    headless = ShardVGGNet(**TINY, include_top=False)
    pooled = ShardVGGNet(**TINY, include_top=False, pooling="max")
    assert headless.output_shape == (None, 2, 2, 8)
    assert pooled.output_shape == (None, 8)
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-4]]


def test_input_tensor_is_built_upon():
    inputs = keras.Input((8, 8, 3))
    model = ShardVGGNet(**TINY, input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)


def test_unknown_height_and_width():
    model = ShardVGGNet(**{**TINY, "input_shape": (None, None, 3)}, include_top=False, last_pool=True)
    assert model(pseudo_random((1, 12, 20, 3))).shape == (1, 3, 5, 8)


def test_an_image_with_as_many_channels_as_the_convolution_is_not_padded():
    model = ShardVGGNet(**{**TINY, "width": 3})
    assert not any(isinstance(layer, ksn.layers.ChannelPadding) for layer in model.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": "stage"}, r"`share` \(='stage'\) must be one of 'none', 'spatial'"),
        ({"blending": "rotation"}, r"`blending` \(='rotation'\) must be one of False, True, 'permutation'"),
        ({"blending": 2}, r"`blending` \(=2\) must be True or False"),
        ({"width": 2}, r"`width` \(=2\) must be at least the number of image channels \(=3\)"),
        ({"width": 0}, r"`width` \(=0\) must be a positive integer"),
        ({"width": (4, 8)}, r"`width` \(=\(4, 8\)\) must be the same at every level"),
        ({"width": (4, 8, 8), "share": "none"}, r"`width` \(=\(4, 8, 8\)\) must be .* each of the 2 stages"),
        ({"convs_per_block": (1, 0)}, r"`convs_per_block` \(=0\) must be a positive integer"),
        ({"convs_per_block": ()}, r"`len\(convs_per_block\)` \(=0\) must be"),
        ({"dropout_rate": 1}, r"`dropout_rate` \(=1\) must be at least 0 and below 1"),
        ({"hidden_units": (8, 0)}, r"`hidden_units` \(=0\) must be a positive integer"),
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        ({"include_top": False, "pooling": "sum"}, r"`pooling` \(='sum'\) must be one of None, 'avg', 'max'"),
        ({"input_shape": (1, 8, 3)}, r"`input_shape` \(=\(1, 8, 3\)\) must be at least .* total stride \(=2\)"),
        ({"input_shape": (8, 3, 3), "last_pool": True}, r"\(=\(8, 3, 3\)\) must be at least .* total stride \(=4\)"),
        ({"input_shape": (8, None, 3)}, r"\(=\(8, None, 3\)\) must have a known .* for `last_pool` \(=None\)"),
        ({"input_shape": (8, None, 3), "last_pool": True}, r"must have a known height and width for the dense layers"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        ShardVGGNet(**{**TINY, **changes})
