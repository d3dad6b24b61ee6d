"""Sharing in layers equivalent to convolutions: separable convolutions, and dense layers on images."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of
from sharing_networks import images, set_trained_statistics

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import rebuild, trace
from keras_sharenets.sharing import HierarchicalGroups, ShareChannels, ShareDepth
from keras_sharenets.sharing.as_convolutions import parts_of, with_parts

KINDS = {
    "strides": {"strides": 2, "padding": "same", "use_bias": False},
    "multiplier": {"depth_multiplier": 3, "padding": "valid", "activation": "silu"},
    "dilation": {"dilation_rate": 2, "padding": "same"},
}


def network(blocks=3, width=16):
    """Separable convolutions in a nested model that is called twice."""
    keras.utils.set_random_seed(0)
    x = inside = keras.Input((None, None, width))
    for block in range(blocks):
        x = keras.layers.SeparableConv2D(width, 3, padding="same", use_bias=False, name=f"block{block}")(x)
        x = keras.layers.BatchNormalization()(keras.layers.ReLU()(x))
    inner = keras.Model(inside, x, name="inner")
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.SeparableConv2D(width, 3, depth_multiplier=2, name="stem")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(inner(inner(x)))
    return set_trained_statistics(keras.Model(inputs, keras.layers.Dense(3)(x)))


def with_convolutions(model):
    """The network with its layers replaced by their parts."""
    graph = trace(model)
    return rebuild(
        model, with_parts(graph, parts_of(graph)), lambda call, operation, *args, **kwargs: operation(*args, **kwargs)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_parts_match_separable_convolution(kind):
    keras.utils.set_random_seed(0)
    layer = keras.layers.SeparableConv2D(6, 3, bias_initializer="normal", name="layer", **KINDS[kind])
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, layer(inputs))
    parts = with_convolutions(model)
    names = [(call.path, type(call.operation)) for call in trace(parts).calls]
    assert names == [("layer_depthwise", keras.layers.DepthwiseConv2D), ("layer", keras.layers.Conv2D)]
    assert_close(outputs_of(parts, images(model)), outputs_of(model, images(model)), 1e-6)
    for weight, other in zip(model.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_dense_layer_on_images_is_a_convolution():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4, 8))
    x = keras.layers.Dense(6, "gelu", bias_initializer="normal", name="wide")(inputs)
    x = keras.layers.Dense(8, use_bias=False, name="narrow")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="scores")(keras.layers.GlobalAveragePooling2D()(x)))
    plain = with_convolutions(model)
    kinds = {call.path: type(call.operation) for call in trace(plain).calls}
    assert {name for name, kind in kinds.items() if kind is keras.layers.Conv2D} == {"wide", "narrow"}
    assert kinds["scores"] is keras.layers.Dense
    assert_close(outputs_of(plain, images(model)), outputs_of(model, images(model)), 1e-6)
    shared = ksn.share(model, ShareChannels(arrangements=2), where="*")
    assert shared.parameters_before - shared.parameters == (8 * 6 + 6 * 8) / 2


def test_parts_keep_frozen_weights():
    inputs = keras.Input((5, 5, 4))
    layer = keras.layers.SeparableConv2D(4, 3, name="layer")
    model = keras.Model(inputs, layer(inputs))
    layer.depthwise_kernel.trainable = layer.pointwise_kernel.trainable = False
    parts = with_convolutions(model)
    assert [weight.shape for weight in parts.trainable_weights] == [(4,)]
    with pytest.raises(ValueError, match="'layer': one of its weights is frozen, but not the layer"):
        ksn.share(model, ShareChannels(arrangements=2))


def test_network_without_such_layers_is_unchanged():
    inputs = keras.Input((4, 4, 2))
    shared = keras.layers.Dense(2)
    x = shared(keras.layers.Conv2D(2, 1)(inputs))
    model = keras.Model(
        inputs, shared(keras.layers.GlobalAveragePooling2D()(x))
    )  # The dense layer is also called with a vector.
    graph = trace(model)
    assert with_parts(graph, parts_of(graph)) is graph


def test_sharing_nothing_copies_the_network():
    """The copy has the same outputs, and the original is unchanged."""
    model = network()
    before = [weight.copy() for weight in model.get_weights()]
    expected = outputs_of(model, images(model))
    shared = ksn.share(model, HierarchicalGroups(1), where="*", sample_images=images(model))
    assert_close(outputs_of(shared.model, images(model)), expected, 1e-5)
    assert shared.parameters == shared.parameters_before == ksn.profile(model).stored_parameters
    shared.model.set_weights([weight + 1 for weight in shared.model.get_weights()])
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


# Parameters saved in three 1x1 kernels of 16 * 16: one kernel for all, with 16 scales and biases each, since a ReLU
# precedes the normalization; or 8 channels that read the first 8, and 8 that read the first group and the other 8.
SAVED = [(ShareDepth("stage"), 2 * 16 * 16 - 3 * (16 + 16)), (HierarchicalGroups(2), 3 * (16 * 16 - 8 * 8 - 16 * 8))]


@pytest.mark.parametrize(("scheme", "saved"), SAVED)
def test_pointwise_parts_share(scheme, saved, tmp_path):
    model = network()
    shared = ksn.share(model, scheme, where="inner/*", sample_images=images(model))
    assert [layer.path for layer in shared.layers] == ["inner/block0", "inner/block1", "inner/block2"]
    assert shared.parameters_before - shared.parameters == saved
    calls = trace(shared.model).calls
    # Three blocks, called twice each. The stem, which does not match `where`, is not split.
    assert sum(call.path.endswith("_depthwise") for call in calls) == 2 * 3
    whole = [call.path for call in calls if isinstance(call.operation, keras.layers.SeparableConv2D)]
    assert whole == ["stem"]
    shared.model.save(tmp_path / "shared.keras")
    loaded = keras.saving.load_model(tmp_path / "shared.keras")
    assert_close(outputs_of(loaded, images(model)), outputs_of(shared.model, images(model)), 1e-6)
