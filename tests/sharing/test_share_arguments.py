"""Arguments and networks that `share` rejects, and convolutions that it leaves unchanged."""

import functools
import re

import keras
import numpy as np
import pytest
from sharing_networks import nested_network, residual_network, set_trained_statistics

import keras_sharenets as ksn
from keras_sharenets.sharing import HierarchicalGroups, InterleavedGroups, ShareChannels, ShareDepth


@functools.cache
def cached_network():
    """A network that all invalid calls use, since they do not change it."""
    return residual_network(stages=1)


def network_of_wrappers():
    """A layer in two wrappers, whose copies would have a layer each."""
    x = inputs = keras.Input((2, 6, 6, 4))
    conv = keras.layers.Conv2D(4, 3, padding="same")
    for name in ("first", "second"):
        x = keras.layers.TimeDistributed(conv, name=name)(x)
    return keras.Model(inputs, x)


def diverged_network():
    model = residual_network(blocks=1, stages=1)
    model.layers[-1].set_weights([np.full(weight.shape, np.inf) for weight in model.layers[-1].get_weights()])
    model.get_layer("stem").kernel.assign(np.full((3, 3, 3, 8), np.nan))
    return model


def network_of_sequences():
    inputs = keras.Input((8, 4))
    return keras.Model(inputs, keras.layers.Conv1D(4, 3, name="conv")(inputs))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "scheme", "arguments", "said"),
    [
        (Subclassed, ShareDepth(), {}, "`model`"),
        (network_of_wrappers, ShareDepth("none"), {}, "must not have weights in common, as 'first' and 'second' have"),
        (cached_network, "stage", {}, "`scheme` (='stage')"),
        (cached_network, None, {}, "one of `scheme`, `max_parameters` and `max_tflite_bytes` must be given, got {}."),
        (cached_network, None, {"max_parameters": 1.5}, "`max_parameters` (=1.5) must be a positive integer."),
        (cached_network, ShareChannels(arrangements=7), {}, "does not divide its filters (=16)"),
        (cached_network, InterleavedGroups((5, 5)), {}, "does not divide its input channels (=8)"),
        (diverged_network, ShareChannels(arrangements=2), {}, "must be finite: those of 'stem' are not."),
        (network_of_sequences, ShareDepth(), {}, "'conv': its type is Conv1D, not `keras.layers.Conv2D`."),
        (cached_network, ShareDepth(), {"where": "nothing*"}, "`where` (='nothing*')"),
        (cached_network, ShareDepth(), {"where": 3}, "`where` (=3) must be a name or pattern, a sequence of them, or"),
        (cached_network, ShareDepth(), {"where": ["stem", 3]}, "`where` (=['stem', 3]) must be a name or pattern"),
        (cached_network, ShareDepth(), {"where": keras.layers.ReLU()}, "must be a name or pattern"),
        (cached_network, ShareDepth(), {"where": lambda layer: False}, "`where` selects none of its convolutions"),
        (cached_network, ShareDepth(), {"sample_images": np.zeros((4, 5, 5, 3))}, "`sample_images`"),
        (cached_network, ShareDepth(), {"sample_images": np.full((4, 12, 12, 3), np.nan)}, "only finite numbers"),
        (nested_network, HierarchicalGroups(2), {}, "its kernel is 3x3"),
        (nested_network, ShareDepth(), {"where": "conv0"}, "no other convolution of its shape in its stage"),
    ],
)
def test_bad_arguments(make, scheme, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ksn.share(make(), scheme, **arguments)


def test_constrained_layer_is_skipped_with_a_reason():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, kernel_constraint="non_neg", name="bounded")(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv1", padding="same")(x)
    x = keras.layers.Conv2D(4, 3, name="conv2", padding="same")(x)
    x = keras.layers.Conv2D(4, 3, name="adapted", padding="same")(x)
    x = keras.layers.Conv2D(4, 3, name="sparse", padding="same", activity_regularizer="l1")(x)
    model = set_trained_statistics(keras.Model(inputs, x))
    model.get_layer("adapted").enable_lora(2)
    shared = ksn.share(model, ShareDepth("all"))
    assert "constraint" in shared.left["bounded"]
    assert "LoRA" in shared.left["adapted"]
    assert "activity regularizer" in shared.left["sparse"]
    assert [layer.path for layer in shared.layers] == ["conv1", "conv2"]
