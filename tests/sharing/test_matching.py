"""Reordering of inner channels: outputs do not change, and kernels that differ only in channel order become equal."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of
from sharing_networks import images, residual_network, set_trained_statistics

import keras_sharenets as ksn
from keras_sharenets.sharing import ShareDepth
from keras_sharenets.sharing.conversion import convert, inspect_network
from keras_sharenets.sharing.matching import match_channels


def with_permuted_blocks(stages):
    """Equivalent blocks in each stage, which differ only in the order of their inner channels."""
    model, random = residual_network(stages=stages), np.random.default_rng(0)
    for stage in range(stages):
        inner, wider = (random.permutation(16) for _ in range(2))
        for part, reads, gives in (
            ("expand", np.arange(8), inner),
            ("spatial", inner, wider),
            ("reduce", wider, np.arange(8)),
        ):
            names = [f"stage{stage}_block{block}_{part}" for block in (0, 1)]
            first, second = (model.get_layer(name) for name in names)
            second.kernel.assign(first.kernel.numpy()[:, :, reads][..., gives])
            first, second = (model.get_layer(f"{name}_norm") for name in names)
            second.set_weights([weight[gives] for weight in first.get_weights()])
    return model


@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_blocks_with_permuted_channels_are_shared_without_loss(stages):
    model = with_permuted_blocks(stages)
    given = images(model)
    shared = ksn.share(model, ShareDepth("stage"), where="stage*")
    assert shared.parameters < shared.parameters_before
    assert max(layer.kernel_error for layer in shared.layers) < 1e-5
    assert_close(outputs_of(shared.model, given), outputs_of(model, given), 1e-5)
    assert {"stage0_block1_expand_norm", "stage0_block1_spatial"} <= set(shared.reordered)
    assert not {"stage0_block1_reduce", "stage0_block1_add", "stem"} & set(shared.reordered)
    assert "reordered channels: " in str(shared)
    unmatched = ksn.share(model, ShareDepth("stage", match_channels=False), where="stage*")
    assert max(layer.kernel_error for layer in unmatched.layers) > 0.1
    assert unmatched.reordered == ()


@keras.saving.register_keras_serializable("tests")
def mirrored_channels(x):
    return x[..., ::-1]


def network_with_various_layers(more_weights):
    """Various layers between convolutions, an activation that mixes channels, and a residual connection.

    With `more_weights`, a normalization has those of renormalization, and a dense layer those of LoRA.
    """
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 3))
    for number, between in enumerate(
        [
            [layers.BatchNormalization(renorm=more_weights), layers.LeakyReLU(), layers.ZeroPadding2D()],
            [layers.DepthwiseConv2D(3, padding="same", activation="relu"), layers.MaxPooling2D()],
            [layers.Activation(mirrored_channels)],
            [layers.Dropout(0.5), layers.UpSampling2D()],
        ]
    ):
        x = layers.Conv2D(8, 3, padding="same", activation="relu" if number == 1 else None, name=f"conv{number}")(x)
        for layer in between:
            x = layer(x)
    y = layers.Conv2D(8, 3, padding="same", name="conv4")(x)
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name="conv5")(layers.ELU()(y))])
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="conv6")(x))
    model = set_trained_statistics(keras.Model(inputs, layers.Dense(3, name="scores")(x)))
    if more_weights:
        scores = model.get_layer("scores")
        scores.enable_lora(2)
        scores.lora_kernel_b.assign([[1, -2, 3], [4, 5, 6]])
    return model


@pytest.mark.parametrize("more_weights", [False, True])
def test_reordering_does_not_change_outputs(more_weights):
    model = network_with_various_layers(more_weights)
    given = images(model)
    network = inspect_network(model, given)
    sets = [[place for place in network.places if place.layer.kernel.shape == (3, 3, 8, 8)]]
    matched = match_channels(network, sets)
    shared = convert(matched, [], {})
    assert_close(outputs_of(shared.model, given), outputs_of(model, given), 1e-5)
    moved = {path for path in shared.reordered if path.startswith(("conv", "grouped"))}
    # Inputs and outputs of custom functions, residual connections, grouped convolutions, and the network are not moved.
    assert moved == ({"conv1", "conv4"} if more_weights else {"conv0", "conv1", "conv4", "conv6"})
    # Statistics measured on images are reordered like the weights.
    again = inspect_network(shared.model, given)
    for path, moments in matched.samples.moments.items():
        np.testing.assert_allclose(moments, again.samples.moments[path], rtol=1e-3, atol=1e-3 * np.abs(moments).max())


def test_constant_channel_of_sample_images():
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, use_bias=False)(x)))
    pixels = np.random.default_rng(0).random((40, 6, 6, 4)).astype("float32")
    pixels[..., 3] = 0.1  # As of opaque images; rounding leaves a variance of about -1e-18.
    shared = ksn.share(model, ShareDepth("all"), sample_images=pixels, where="*")
    assert shared.parameters == 9 * 4 * 4 + 4 * 4
    assert np.isfinite(outputs_of(shared.model, pixels)).all()
