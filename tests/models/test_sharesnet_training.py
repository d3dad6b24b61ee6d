"""Training of a ShaResNet: gradients, regularizers, initial weights and dropout."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_and_gradients, pseudo_random
from sharesnet_networks import LARGE, WIDE

from keras_sharenets.models import PreActResNet, ResNet, WideResNet


def test_gradient_of_a_shared_kernel_is_the_sum_over_its_uses():
    keras.utils.set_random_seed(2)
    arguments = {**LARGE, "depth": 50, "blocks_per_stage": (2, 3), "classifier_activation": None}
    model, untied = ResNet(**arguments, share="stride1"), ResNet(**arguments, share="none")
    names = {layer.name for layer in model.layers}
    origin = {layer.name: layer.name if layer.name in names else f"{layer.name[:6]}_shared" for layer in untied.layers}
    for name, source in origin.items():
        untied.get_layer(name).set_weights(model.get_layer(source).get_weights())
    images = pseudo_random((4, 32, 32, 3))

    def gradients(network):
        outputs, values = outputs_and_gradients(network, images, training=True)
        return outputs, {v.path: value for v, value in zip(network.trainable_variables, values, strict=True)}

    outputs, tied = gradients(model)
    outputs_untied, separate = gradients(untied)
    assert_close(outputs, outputs_untied, 1e-5)
    summed = {}
    for path, value in separate.items():
        layer, weight = path.split("/")
        summed.setdefault(f"{origin[layer]}/{weight}", []).append(value)
    assert {path: len(values) for path, values in summed.items() if len(values) > 1} == {
        "stage1_shared/kernel": 2,
        "stage2_shared/kernel": 2,
    }
    assert set(summed) == set(tied)
    for path, values in summed.items():
        assert_close(tied[path], sum(values), 1e-4)


def test_regularizer_of_a_shared_kernel_counts_once():
    model = WideResNet(**WIDE, share="all")
    shared = [model.get_layer(f"stage{stage}_shared").kernel for stage in (1, 2, 3)]
    for kernel in shared:
        kernel.regularizer = keras.regularizers.L2(0.5)
    expected = sum(0.5 * np.sum(np.asarray(kernel, "float64") ** 2) for kernel in shared)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_initial_weights_are_he_normal_by_fan_out_and_differ_between_layers():
    keras.utils.set_random_seed(0)
    model = PreActResNet(depth=20, share="rest", input_shape=(8, 8, 3))
    names = ("block1_spatial", "shared", "block2_expand")
    own, shared, expand = (np.asarray(model.get_layer(f"stage3_{name}").kernel) for name in names)
    for kernel, fan_out in [(own, 3 * 3 * 64), (shared, 3 * 3 * 64), (expand, 256)]:
        deviation = np.sqrt(2 / fan_out)
        assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
        # A truncated normal distribution with this standard deviation would end at 2.3 times it.
        assert np.max(np.abs(kernel)) > 3 * deviation
    assert np.corrcoef(own.ravel(), shared.ravel())[0, 1] == pytest.approx(0, abs=0.05)
    assert np.all(np.asarray(model.get_layer("predictions").bias) == 0)


def test_dropout_stands_between_the_convolutions_of_every_block():
    model = WideResNet(**WIDE, dropout_rate=0.3)
    names = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
    dropouts = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert list(dropouts) == [f"{name}_dropout" for name in names]
    for name, layer in zip(names, dropouts.values(), strict=True):
        assert layer.rate == 0.3
        assert layer.input is model.get_layer(f"{name}_middle_relu").output
        assert layer.output is model.get_layer(f"{name}_spatial").input
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in WideResNet(**WIDE).layers)
