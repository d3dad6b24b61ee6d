"""The papers' blocks in custom networks."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.models import HGCModule, HSCModule, IGCBlock, SharedResidualBlock, SLBlock


def _hsc(x):
    x = HSCModule(width=16, groups=2, channel_repeats=2, name="first")(x)
    return HSCModule(width=16, groups=2, channel_repeats=2, strides=2, name="second")(x)


def _hgc(x):
    x = HGCModule(growth=4, groups=4, bottleneck=2, name="first")(x)
    return HGCModule(growth=4, groups=2, bottleneck=3, hierarchical=False, name="second")(x)


def _igc(x):
    x = IGCBlock(width=16, branch_channels=(4, 4), name="first")(x)
    return IGCBlock(width=32, block="igcv1", strides=2, name="second")(x)


def _sharesnet(x):
    shared = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="shared")
    x = SharedResidualBlock(width=16, shared=shared, name="first")(x)
    return SharedResidualBlock(width=16, shared=shared, strides=2, block="bottleneck", name="second")(x)


def _shardnet(x):
    shared = keras.layers.Conv2D(16, 3, padding="same", name="shared")
    x = SLBlock(shared=shared, name="first")(x)
    x = keras.layers.MaxPooling2D()(x)
    return SLBlock(shared=shared, block="residual", count=1, linear_bias=False, name="second")(x)


# Convolutions, and trainable parameters of normalizations.
CASES = {
    "hsc": (_hsc, (4, 4, 16), 2 * (2 * 16 * 8 // 2 + 16 * 8 + 9 * 8**2 // (2 * 2 * 2) + 8**2 // 2 + 4 * 16 + 8 * 8)),
    "hgc": (
        *(_hgc, (8, 8, 24)),
        (16 * 8 // 4 + 3 * (8 // 4) ** 2 + 9 * 8 + 8 * 4 + 2 * 16 + 4 * 8)
        + (20 * 12 // 2 + 9 * 12 + 12 * 4 + 2 * 20 + 4 * 12),
    ),
    # IGC-V1: 16 branches from 1 to 2 channels, then 2 branches of 16.
    "igc": (_igc, (4, 4, 32), 16 * (9 + 4 + 4) + (9 * 32 + 16 * 32)),
    # The second block has 16 input and 64 output channels: 1x1 to 16, 1x1 to 64, and a projection.
    "sharesnet": (
        *(_sharesnet, (4, 4, 64)),
        9 * 16**2 + (9 * 16**2 + 4 * 16) + (16 * 16 + 2 * 16 * 64 + 2 * (16 + 16 + 64 + 64)),
    ),
    "shardnet": (_shardnet, (4, 4, 16), (9 * 16**2 + 16) + (16**2 + 16 + 2 * 2 * 16) + (16**2 + 2 * 2 * 16)),
}


def _network(blocks):
    images = keras.Input((8, 8, 16))
    return keras.Model(images, blocks(images))


@pytest.mark.parametrize(("blocks", "shape", "count"), CASES.values(), ids=CASES)
def test_network_of_blocks_has_its_count_and_loads_from_a_file(blocks, shape, count, tmp_path):
    model = _network(blocks)
    assert model.output_shape == (None, *shape)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == count
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the interpreter is TensorFlow's")
@pytest.mark.parametrize("blocks", [case[0] for case in CASES.values()], ids=CASES)
def test_file_and_export_of_a_network_of_blocks_compute_the_same(blocks, tmp_path):
    model = _network(blocks)
    randomize_batchnorm(model)
    images = pseudo_random((2, 8, 8, 16))
    expected = outputs_of(model, images)
    model.save(tmp_path / "net.keras")
    assert_close(outputs_of(keras.models.load_model(tmp_path / "net.keras"), images), expected, 1e-6)
    vectors = keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))
    ksn.mobile.export_tflite(vectors, tmp_path / "net.tflite")
    assert_close(ksn.mobile.predict_tflite(tmp_path / "net.tflite", images), expected.mean((1, 2)), 1e-5)


@pytest.mark.slow
def test_module_by_itself_has_the_layers_that_it_has_in_its_network():
    network = ksn.models.HGCNet(blocks_per_stage=1, growth=4, stem_filters=16, input_shape=(8, 8, 3))
    images = keras.Input((8, 8, 16))
    alone = keras.Model(images, HGCModule(growth=4, name="stage1_module1")(images)).layers[1:]
    inside = {layer.name: layer.get_config() for layer in network.layers if layer.name.startswith("stage1_module1")}
    assert {layer.name: layer.get_config() for layer in alone} == inside


@pytest.mark.parametrize("block", ["preactivated_basic", "preactivated_bottleneck", "basic", "bottleneck"])
def test_residual_blocks_that_halve_the_image_at_the_same_width(block):
    images = keras.Input((9, 9, 16))
    width = 4 if "bottleneck" in block else 16
    outputs = SharedResidualBlock(width=width, block=block, strides=2, name="block")(images)
    assert outputs.shape == (None, 5, 5, 16)
    assert keras.Model(images, outputs).get_layer("block_projection").strides == (2, 2)


SHARED = keras.layers.Conv2D(8, 3, padding="same")


@pytest.mark.parametrize(
    ("block", "arguments", "message"),
    [
        (HSCModule, {"width": 18}, r"`groups` \(=16\) must divide the bottleneck of a stage of width 18 \(=9\)"),
        (HSCModule, {"width": 64, "strides": 0}, r"`strides` \(=0\) must be a positive integer"),
        (HSCModule, {"width": 8, "groups": 1, "channel_repeats": 1, "shortcut": "pad"}, r"`width` \(=8\) must be at"),
        (HGCModule, {"growth": 5, "bottleneck": 1}, r"`groups` \(=4\) must divide `growth` \* `bottleneck` \(=5\)"),
        (IGCBlock, {"width": 48, "block": "igcv1"}, r"`spatial_branches` \(=24\) must divide .* \(=16\)"),
        (IGCBlock, {"width": 16, "block": "igcv3"}, r"`block` \(='igcv3'\) must be one of 'xception'"),
        (SharedResidualBlock, {"width": 16, "shared": SHARED}, r"`shared` \(='.*'\) must keep the shape of its input"),
        (SharedResidualBlock, {"width": 16, "shared": "conv"}, r"`shared` \(='conv'\) must be a Keras layer"),
        (SharedResidualBlock, {"width": 8, "stride_on": "spatial"}, r"`stride_on` \(='spatial'\) must be 'reduce' un"),
        (
            SharedResidualBlock,
            {"width": 8, "block": "basic", "dropout_rate": 0.1},
            r"`dropout_rate` \(=0.1\) must be 0",
        ),
        (SLBlock, {"shared": SHARED}, r"`shared` \(='.*'\) must keep the shape of its input, \(None, 8, 8, 16\)"),
        (SLBlock, {"shared": SHARED, "block": "vgg"}, r"`block` \(='vgg'\) must be one of 'plain', 'residual'"),
    ],
)
def test_bad_arguments(block, arguments, message):
    with pytest.raises(ValueError, match=message):
        block(name="block", **arguments)(keras.Input((8, 8, 16)))


def test_input_that_is_not_a_feature_map_raises_an_error():
    with pytest.raises(ValueError, match=r"`x` \(of shape \(None, 16\)\) must be `\(batch, height"):
        HGCModule(growth=4, name="block")(keras.Input((16,)))
