"""Export of every layer of the library, and the errors of layers without a rule."""

import keras
import numpy as np
import pytest
from mobile_networks import convert, lower, operators_and_types, relative_error

import keras_sharenets as ksn
from keras_sharenets.mobile import predict_tflite
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        ksn.layers.HighlySharedConv2D(
            16, 3, groups=4, channel_repeats=2, arrangements=2, use_bias=True, activation="relu"
        ),
        ksn.layers.HighlySharedConv2D(
            16, 1, groups=2, channel_repeats=1, arrangements=2, use_bias=True, activation="relu", strides=2
        ),
        ksn.layers.HighlySharedConv2D(
            16, 3, groups=1, channel_repeats=1, arrangements=4, use_bias=True, padding="valid"
        ),
        ksn.layers.HighlySharedConv2D(24, 1, groups=2, arrangements=3),
        ksn.layers.HierarchicalGroupConv2D(12, groups=3, use_bias=True, activation="relu"),
        ksn.layers.SplitGroupConv2D(12, groups=3, use_bias=True, activation="relu"),
        ksn.layers.SplitGroupConv2D(16, groups=4, use_bias=True),
        ksn.layers.InterleavedGroupConv2D(16, branch_channels=(4, 4), use_bias=True, activation="relu"),
        ksn.layers.InterleavedGroupConv2D(32, branch_channels=(4, 8), use_bias=True),
        ksn.layers.SqueezeExcite(4),
        ksn.layers.StridedChannelShuffle(3),
        ksn.layers.ChannelShuffle(2, block_size=4),
        ksn.layers.ChannelSlice(3, 9),
        ksn.layers.ChannelPadding(20),
        ksn.layers.PaddedMaxPooling2D(3, strides=2),
        ksn.layers.PaddedMaxPooling2D(19, strides=2),
    ],
    ids=lambda layer: layer.name,
)
def test_file_matches_keras(layer, share, tmp_path):
    inputs = keras.Input((8, 8, 16))
    model = keras.Model(inputs, keras.layers.Flatten()(layer(keras.layers.ReLU()(inputs))))
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float32")
    (tmp_path / "net.tflite").write_bytes(convert(model, prefer="size" if share else "speed"))
    assert relative_error(predict_tflite(tmp_path / "net.tflite", images), np.asarray(model(images))) < 1e-5


@pytest.mark.parametrize(("arrangements", "quantization"), [(3, None), (4, "int8")])
def test_arranged_filters_are_stored_once_and_delegated(arrangements, quantization, tmp_path):
    """More than two arrangements are rotations, which take two slices of the image."""
    inputs = keras.Input((8, 8, 16))
    layer = ksn.layers.HighlySharedConv2D(48, 3, arrangements=arrangements)
    model = keras.Model(inputs, keras.layers.Flatten()(layer(keras.layers.ReLU()(inputs))))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float32")
    given = {"quantization": quantization, "representative_data": images if quantization else None}
    small, large = (convert(model, prefer=prefer, **given) for prefer in ("size", "speed"))
    names, _ = operators_and_types(small)
    assert "GATHER" not in names
    assert names.count("DELEGATE") == 1
    # The saved weights, minus at most 4 kB for additional operators and tensors.
    saved = 9 * 16 * 48 * (1 - 1 / arrangements) * (1 if quantization else 4)
    assert len(large) - len(small) > saved - 4000
    (tmp_path / "net.tflite").write_bytes(small)
    expected = np.asarray(model(images))
    assert relative_error(predict_tflite(tmp_path / "net.tflite", images), expected) < (0.02 if quantization else 1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(16, 3), (16, 6), (15, 4), (7, 5), (9, 2)])
def test_uneven_strided_shuffle_is_delegated(channels, groups, tmp_path):
    inputs = keras.Input((6, 6, channels))
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(ksn.layers.StridedChannelShuffle(groups)(inputs)))
    model = keras.Model(inputs, x)
    images = np.random.default_rng(0).normal(size=(4, 6, 6, channels)).astype("float32")
    for quantization, tolerance in ((None, 1e-6), ("int8", 0.02)):
        data = convert(model, quantization=quantization, representative_data=images)
        names, _ = operators_and_types(data)
        assert "GATHER" not in names
        assert names.count("DELEGATE") == 1
        (tmp_path / "net.tflite").write_bytes(data)
        assert relative_error(predict_tflite(tmp_path / "net.tflite", images), np.asarray(model(images))) < tolerance


@pytest.mark.parametrize(
    ("shuffle", "taken_in"),
    [
        (ksn.layers.StridedChannelShuffle(3), True),
        (ksn.layers.ChannelShuffle(4), True),
        (ksn.layers.StridedChannelShuffle(3), False),
    ],
)
def test_shuffle_is_folded_into_convolutions(shuffle, taken_in, tmp_path):
    inputs = keras.Input((8, 8, 16))
    shuffled = shuffle(keras.layers.Conv2D(16, 1)(inputs))
    paths = [keras.layers.Conv2D(8, 3, padding="same")(shuffled), keras.layers.Conv2D(8, 1, strides=1)(shuffled)]
    if not taken_in:
        paths.append(keras.layers.MaxPooling2D(1)(shuffled))
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Concatenate()(paths)))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float32")
    data = convert(model)
    assert ({"GATHER", "TRANSPOSE"}.isdisjoint(operators_and_types(data)[0])) == taken_in
    (tmp_path / "net.tflite").write_bytes(data)
    assert relative_error(predict_tflite(tmp_path / "net.tflite", images), np.asarray(model(images))) < 1e-5


def test_layer_without_a_rule_is_named(tmp_path, rules_only):
    inputs = keras.Input((8, 8, 3))
    odd = keras.layers.Lambda(keras.ops.erf, name="odd")
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(odd(inputs)))
    with pytest.raises(UnsupportedLayerError, match=r"'odd', a Lambda, has no lowering rule"):
        ksn.mobile.export_tflite(model, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.UpSampling2D(interpolation="bicubic", name="grow"), r"has `interpolation` \(='bicubic'\)"),
        (
            keras.layers.Conv2D(4, 1, activation="sparsemax", name="few"),
            "'few', a Conv2D, has the activation `sparsemax`",
        ),
        (keras.layers.ReLU(threshold=0.1, name="late"), "'late', a ReLU, has a threshold"),
        (keras.layers.Conv2D(4, 3, data_format="channels_first", name="first"), r"`data_format` \(='channels_first'\)"),
        (keras.layers.Softmax(axis=0, name="batch"), r"'batch', a Softmax, has `axis` \(=0\)"),
        (keras.layers.BatchNormalization(axis=2, name="columns"), r"'columns', a .*, has `axis` \(=2\)"),
    ],
)
def test_setting_without_a_rule_is_named(layer, message, rules_only):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    with pytest.raises(UnsupportedLayerError, match=message):
        lower(model)
