import keras
import numpy as np
import pytest
from harness import assert_close, check_model, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import calls
from keras_sharenets.layers import HighlySharedConv2D, ParallelConv2D

RANDOM = np.random.default_rng(0)


def make(padding="same", implementation="auto", **more):
    sharing = {"channel_repeats": 2, "padding": padding, "implementation": implementation}
    spatial = HighlySharedConv2D(8, 3, groups=4, **sharing, **more)
    return ParallelConv2D(spatial, HighlySharedConv2D(8, 1, groups=4))


def by_loops(layer, x, strides):
    """The two sums over pixels and planes, one output value at a time."""
    kernels = [keras.ops.convert_to_numpy(part.effective_kernel()) for part in (layer.spatial, layer.pointwise)]
    batch, height, width, channels = x.shape
    groups, filters = layer.spatial.groups, layer.spatial.filters
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    outputs = np.zeros((batch, -(-height // strides), -(-width // strides), filters))
    for row, column, channel in np.ndindex(*outputs.shape[1:]):
        first = channel // (filters // groups) * (channels // groups)
        planes = slice(first, first + channels // groups)
        window = padded[:, row * strides : row * strides + 3, column * strides : column * strides + 3, planes]
        pixel = x[:, row * strides, column * strides, planes]
        outputs[:, row, column, channel] = (window * kernels[0][..., channel]).sum(axis=(1, 2, 3))
        outputs[:, row, column, channel] += pixel @ kernels[1][0, 0, :, channel]
    return outputs


@pytest.mark.parametrize("implementation", ["auto", "grouped", "folded"])
@pytest.mark.parametrize(("padding", "strides"), [("same", 1), ("valid", 1), ("valid", 2)])
def test_is_the_sum_of_both(padding, strides, implementation):
    layer = make(padding, implementation)
    x = RANDOM.normal(size=(2, 6, 7, 8)).astype("float32")
    outputs = keras.ops.convert_to_numpy(layer(x, strides=strides))
    assert outputs.shape == layer.compute_output_shape(x.shape, strides)
    np.testing.assert_allclose(outputs, by_loops(layer, x, strides), atol=1e-5)


def test_runs_as_one_native_convolution():
    # One kernel for both: only the kernels of the two layers are used.
    layer = make(implementation="grouped")
    layer.build((None, 6, 6, 8))
    layer.spatial.call = layer.pointwise.call = None
    assert tuple(layer(np.ones((1, 6, 6, 8), "float32")).shape) == (1, 6, 6, 8)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_profile_sees_both_layers(padding):
    inputs = keras.Input((6, 6, 8))
    layer = make(padding)
    outputs = layer(layer(inputs), training=False)
    model = keras.Model(inputs, outputs)
    names = [layer.spatial.name, layer.pointwise.name, f"{layer.name}_sum"]
    names = [f"{layer.name}_pad", *names] if padding == "valid" else names
    assert [(call.path, call.index) for call in calls(model)] == [(name, use) for use in (0, 1) for name in names]
    profile = ksn.profile(model)
    # Two calls of 6 * 6 pixels and 8 filters of 2 planes, 3x3 and 1x1; stored: half of the 3x3 ones.
    assert profile.multiply_adds == 2 * 6 * 6 * 8 * 2 * (9 + 1)
    assert profile.stored_parameters == 9 * 2 * 8 // 2 + 2 * 8 == model.count_params()


def classifier(classifier_activation):
    inputs = keras.Input((6, 6, 8))
    layer = make("valid")
    x = layer(keras.layers.ReLU()(layer(inputs)), strides=2)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(4, activation=classifier_activation)(x))


def test_in_a_network(tmp_path, other_backend):
    check_model(classifier, {}, tmp_path, other_backend, classifier=None)


def test_quantization_of_keras_skips_the_layer(tmp_path):
    model = classifier("softmax")
    with pytest.warns(UserWarning, match="Layer Add does not have a `quantize` method"):
        model.quantize("int8")
    assert model.layers[-1].kernel.dtype == "int8"
    model.save(tmp_path / "model.keras")
    images = pseudo_random((2, 6, 6, 8))
    assert_close(outputs_of(keras.saving.load_model(tmp_path / "model.keras"), images), outputs_of(model, images), 1e-6)


BAD = {
    "filters": (HighlySharedConv2D(8, 3), HighlySharedConv2D(4, 1)),
    "groups": (HighlySharedConv2D(8, 3, groups=4), HighlySharedConv2D(8, 1, groups=2)),
    "kernel_size": (HighlySharedConv2D(8, 3), HighlySharedConv2D(8, 3)),
    "odd": (HighlySharedConv2D(8, 2), HighlySharedConv2D(8, 1)),
    "bias": (HighlySharedConv2D(8, 3, use_bias=True), HighlySharedConv2D(8, 1)),
    "activation": (HighlySharedConv2D(8, 3), HighlySharedConv2D(8, 1, activation="relu")),
    "activity regularizer": (HighlySharedConv2D(8, 3), HighlySharedConv2D(8, 1, activity_regularizer="l2")),
    "strides": (HighlySharedConv2D(8, 3, strides=2), HighlySharedConv2D(8, 1)),
}


@pytest.mark.parametrize("rule", BAD)
def test_bad_pairs(rule):
    with pytest.raises(ValueError, match=rule):
        ParallelConv2D(*BAD[rule])


def test_parts_of_another_one():
    """Keras would save the spatial layer once, and load it as two layers, one of them without weights."""
    first = make()
    first.build((None, 6, 6, 8))
    second = ParallelConv2D(first.spatial, HighlySharedConv2D(8, 1, groups=4))
    with pytest.raises(ValueError, match=rf"`spatial` \(='{first.spatial.name}'\) must not be part of another"):
        second.build((None, 6, 6, 8))


@pytest.mark.parametrize("implementation", ["grouped", "folded"])
def test_dtype_and_frozen_parts(implementation):
    common = {"groups": 4, "dtype": "mixed_bfloat16", "implementation": implementation}
    parts = HighlySharedConv2D(8, 3, **common), HighlySharedConv2D(8, 1, **common)
    layer = ParallelConv2D(*parts, trainable=False)
    inputs = keras.Input((4, 4, 8))
    outputs = layer(inputs)
    assert outputs.dtype == keras.backend.standardize_dtype(layer(np.ones((1, 4, 4, 8))).dtype) == "bfloat16"
    assert keras.Model(inputs, outputs).trainable_weights == []


def test_strides_need_a_centered_kernel():
    with pytest.raises(ValueError, match="padding='valid'"):
        make("same")(np.ones((1, 6, 6, 8), "float32"), strides=2)
