import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.layers import QuantizedKernels, SqueezeExcite
from keras_sharenets.ops import choices

LAYERS = {
    "dense": (lambda: keras.layers.Dense(5), -1),
    "convolution": (lambda: keras.layers.Conv2D(6, 3, strides=2, padding="same", name="c"), -1),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(3, padding="same"), 2),
    "shared": (lambda: ksn.layers.HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, arrangements=2), -1),
    "hierarchical": (lambda: ksn.layers.HierarchicalGroupConv2D(8, groups=4, use_bias=True), -1),
    "interleaved": (lambda: ksn.layers.InterleavedGroupConv2D(8, branch_channels=(4, 2)), -1),
    "squeeze": (lambda: SqueezeExcite(2), -1),
}


def rounded(kernel, axis):
    """Each filter in 127ths of its largest magnitude."""
    moved = np.moveaxis(kernel, axis, -1)
    steps = np.abs(moved).reshape(-1, moved.shape[-1]).max(0) / 127
    return np.moveaxis(np.round(moved / steps) * steps, -1, axis)


@pytest.mark.parametrize("name", LAYERS)
def test_is_the_layer_with_rounded_kernels(name):
    build, axis = LAYERS[name]
    inputs = keras.Input((4, 4, 8))
    layer = build()
    wrapper = QuantizedKernels(layer)
    model = keras.Model(inputs, wrapper(inputs))
    for place, weight in enumerate(layer.weights):
        weight.assign(pseudo_random(weight.shape, seed=place))
    unquantized = keras.Model(inputs, layer(inputs))
    images = pseudo_random((2, 4, 4, 8), seed=9)
    actual, plain = outputs_of(model, images), outputs_of(unquantized, images)
    stored = unquantized.get_weights()
    kernels = {id(kernel) for kernel, _ in wrapper.kernels}
    assert len(kernels) == {"hierarchical": 4, "interleaved": 2, "squeeze": 2}.get(name, 1)
    for weight, value in zip(unquantized.weights, stored, strict=True):
        if id(weight) in kernels:
            weight.assign(rounded(value, axis))
    expected = outputs_of(unquantized, images)
    assert_close(actual, expected, 1e-5)
    assert np.abs(plain - expected).max() > 1e-4 * np.abs(expected).max()
    assert model.count_params() == unquantized.count_params()


class Block(keras.layers.Layer):
    """A layer of several layers, with statistics, random numbers, and a loss of its activations."""

    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(4, 1, activity_regularizer="l2")
        self.norm = keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.5, seed=1)

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], 4))

    def call(self, inputs, training=None):
        return self.dropout(self.norm(self.conv(inputs), training=training), training=training)


def test_state_and_losses_of_the_layer_are_as_without_the_wrapper():
    blocks = [Block(), Block()]
    wrapper = QuantizedKernels(blocks[1])
    layers, images = (blocks[0], wrapper), pseudo_random((2, 4, 4, 3))
    for layer, block in zip(layers, blocks, strict=True):
        layer.build((None, 4, 4, 3))
        block.conv.kernel.assign(np.tile([[1.0], [-1.0], [0.0]], 4)[None, None])  # Rounding does not change it.
    for _ in range(2):  # The second mask of the dropout differs from the first.
        expected, found = (keras.ops.convert_to_numpy(layer(images, training=True)) for layer in layers)
        assert_close(found, expected, 1e-6)
    for mine, own in zip(blocks[1].norm.weights, blocks[0].norm.weights, strict=True):
        assert_close(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(own), 1e-6)
    assert float(wrapper.losses[0]) == pytest.approx(float(blocks[0].losses[0])) != 0
    conv = keras.layers.Conv2D(4, 1, activity_regularizer="l2")
    model = keras.Sequential([keras.Input((4, 4, 3)), QuantizedKernels(conv)])
    outputs = outputs_of(model, images)
    # Keras divides the penalty of activations by the number of images.
    model(images)
    assert float(sum(model.losses)) == pytest.approx(0.01 * np.square(outputs).sum() / 2, rel=1e-4)


def test_call_arguments_reach_the_layer():
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=4, channel_repeats=2)
    inputs = keras.Input((8, 8, 8))
    wrapper = QuantizedKernels(shared)
    model = keras.Model(inputs, wrapper(wrapper(inputs), strides=2))
    assert model.output_shape == (None, 4, 4, 8)
    assert model.count_params() == shared.count_params()


@pytest.mark.parametrize("training", [True, False])
def test_training_argument_reaches_the_layer(training, monkeypatch):
    seen = []
    monkeypatch.setattr(choices, "choose", lambda kind, *_: seen.append(_[2]) or "composed")
    wrapper = QuantizedKernels(ksn.layers.HierarchicalGroupConv2D(8, groups=4))
    wrapper.build((None, 4, 4, 8))
    seen.clear()
    wrapper(pseudo_random((1, 4, 4, 8)), training=training)
    assert seen == [training]


def trained(layer, preserve, kernel, steps=5):
    """The kernel after training, with weight decay, momentum and a moving target."""
    inputs = keras.Input((6,))
    wrapper = QuantizedKernels(layer, preserve=preserve)
    model = keras.Model(inputs, wrapper(inputs))
    layer.kernel.assign(kernel)
    if preserve == "clusters":
        wrapper.find_clusters()
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.01), "mse")
    model.fit(pseudo_random((40, 6)), pseudo_random((40, 4), seed=1), epochs=steps, verbose=0)
    return keras.ops.convert_to_numpy(layer.kernel), [
        keras.ops.convert_to_numpy(k) for k in wrapper.preserved_kernels()
    ]


def test_zeros_stay_zeros():
    kernel = pseudo_random((6, 4)) * (np.arange(24).reshape(6, 4) % 3 == 0)
    after, (preserved,) = trained(keras.layers.Dense(4), "zeros", kernel)
    np.testing.assert_array_equal(after == 0, kernel == 0)
    np.testing.assert_array_equal(preserved, after)
    assert np.abs(after - kernel)[kernel != 0].min() > 1e-3


def test_clusters_stay_clusters_and_their_zeros_zeros():
    values = np.array([-1.0, 0.0, 0.25, 2.0], "float32")
    members = np.random.default_rng(0).integers(0, 4, (6, 4))
    after, (preserved,) = trained(keras.layers.Dense(4), "clusters", values[members])
    assert len(np.unique(preserved)) == 4
    for cluster, value in enumerate(values):
        (moved,) = np.unique(preserved[members == cluster])
        assert (moved == 0) == (value == 0)
        assert_close(after[members == cluster], np.full_like(after[members == cluster], moved), 1e-5)
    assert np.abs(preserved - values[members]).max() > 1e-2


def test_a_clustered_kernel_has_one_range_and_as_few_integers():
    kernel = np.array([[0.1, 1.0], [0.05, -1.0]], "float32")
    layer = QuantizedKernels(keras.layers.Dense(2, use_bias=False), preserve="clusters")
    layer.build((None, 2))
    layer.layer.kernel.assign(kernel)
    layer.find_clusters()
    with layer.rounded():
        actual = keras.ops.convert_to_numpy(layer.layer.kernel.value)
    assert_close(actual, np.round(kernel * 127) / 127, 1e-6)


def test_a_file_keeps_the_clusters(tmp_path):
    inputs = keras.Input((6,))
    wrapper = QuantizedKernels(keras.layers.Dense(4), preserve="clusters")
    model = keras.Model(inputs, wrapper(inputs))
    wrapper.layer.kernel.assign(np.arange(24).reshape(6, 4) % 5 - 1.0)
    wrapper.find_clusters()
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    images = pseudo_random((3, 6))
    assert_close(outputs_of(reloaded, images), outputs_of(model, images), 1e-6)
    assert reloaded.layers[-1].preserve == "clusters"


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`preserve` \(='all'\) must be one of None, 'zeros', 'clusters'\."):
        QuantizedKernels(keras.layers.Dense(4), preserve="all")
    layer = QuantizedKernels(keras.layers.Dense(20), preserve="clusters")
    layer.build((None, 30))
    with pytest.raises(ValueError, match=r"at most 256 distinct values, and .* has 600: cluster the network first"):
        layer.find_clusters()
