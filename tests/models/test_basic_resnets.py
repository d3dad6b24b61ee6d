"""Residual networks of basic blocks for small images: counts by arithmetic, shortcuts in NumPy, the harness."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.models import BasicResNet

TINY = {"blocks_per_stage": (1, 1), "width": 4, "include_preprocessing": False, "input_shape": (8, 8, 3)}
CHOICES = {
    "padded": {},
    "preactivated": {"order": "norm_conv", "shortcut": "projection", "stem_strides": 2},
    "projection": {"shortcut": "projection"},
    "preactivated-padded": {"order": "norm_conv", "blocks_per_stage": (1, 2)},
    "shared": {"share": "both", "blocks_per_stage": (2, 2)},
    "shared-second": {"share": "all", "order": "norm_conv", "blocks_per_stage": (2, 2)},
}


def counted(blocks_per_stage, width, classes, order="conv_norm", shortcut="padded", share="none", **_):
    """The trainable parameters, summed layer by layer."""
    shared = {"none": (), "all": ("second",), "both": ("first", "second")}[share]
    inputs, total = width, 27 * width + (2 * width if order == "conv_norm" else 0)
    for stage, blocks in enumerate(blocks_per_stage):
        filters = width * 2**stage
        total += 9 * filters**2 if shared else 0
        for _ in range(blocks):
            total += 0 if "first" in shared and inputs == filters else 9 * inputs * filters
            total += 0 if "second" in shared else 9 * filters**2
            total += 4 * filters if order == "conv_norm" else 2 * inputs + 2 * filters
            if inputs != filters and shortcut == "projection":
                total += inputs * filters + (2 * filters if order == "conv_norm" else 0)
            inputs = filters
    return total + (0 if order == "conv_norm" else 2 * inputs) + classes * (inputs + 1)


@counts_only
@pytest.mark.parametrize("choice", CHOICES)
def test_counts(choice):
    model = BasicResNet(**{**TINY, "num_classes": 5, **CHOICES[choice]})
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trained == counted(**{**TINY, "classes": 5, **CHOICES[choice]})


@pytest.mark.parametrize(
    ("name", "statistics", "printed"),
    [
        ("resnet_56", 0, 0.85e6),
        ("resnet_110", 0, 1.7e6),
        ("resnet_18_cifar", 9_600, 11.18e6),
        ("resnet_34_cifar", 17_024, 21.30e6),
        ("preact_resnet_18", 0, 11.2e6),
    ],
)
def test_counts_of_the_named_networks_are_those_printed(name, statistics, printed):
    """Up to rounding; two printed counts include the moving statistics of batch normalization."""
    (counts,) = ksn.models.list_counts(name)
    variant = ksn.models.find_variant(name)
    assert counts.stored_parameters == counted(**{"width": 16, **variant.arguments}, classes=10)
    digits = 10_000 if printed % 100_000 else 100_000
    assert abs(counts.stored_parameters + statistics - printed) <= digits / 2


@pytest.mark.parametrize("order", ["conv_norm", "norm_conv"])
def test_shared_convolutions_compute_what_equal_kernels_compute(order):
    keras.utils.set_random_seed(0)
    arguments = {**TINY, "blocks_per_stage": (2, 2), "order": order}
    shared, separate = BasicResNet(**arguments, share="both"), BasicResNet(**arguments)
    for layer in separate.layers:
        is_shared = layer.name.endswith(("_first", "_spatial")) and layer.name != "stage2_block1_first"
        source = f"{layer.name.split('_')[0]}_shared" if is_shared else layer.name
        layer.set_weights(shared.get_layer(source).get_weights())
    images = pseudo_random((2, 8, 8, 3))
    assert_close(outputs_of(shared, images), outputs_of(separate, images), 1e-6)


@pytest.mark.parametrize("order", ["conv_norm", "norm_conv"])
def test_padded_shortcuts_keep_pixels_and_add_channels_of_zeros(order):
    keras.utils.set_random_seed(0)
    arguments = {**TINY, "blocks_per_stage": (1, 1, 1), "order": order, "include_top": False}
    model = BasicResNet(**arguments)
    for layer in model.layers:
        if layer.name.endswith("_spatial"):
            layer.set_weights([np.zeros_like(layer.get_weights()[0])])
    images = pseudo_random((2, 8, 8, 3))
    stem = keras.Model(model.input, model.get_layer("stem").output)
    # Untrained normalizations divide by the square root of 1 + epsilon, once in either order.
    expected = np.maximum(outputs_of(stem, images), 0)[:, ::4, ::4] / np.sqrt(1 + 1e-5)
    assert_close(outputs_of(model, images), np.pad(expected, ((0, 0), (0, 0), (0, 0), (0, 12))), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_harness(choice, tmp_path, other_backend):
    check_model(BasicResNet, {**TINY, "num_classes": 5, **CHOICES[choice]}, tmp_path, other_backend)


@pytest.mark.parametrize("choice", slow_after(1, CHOICES))
def test_choices(choice, tmp_path):
    check_choice(BasicResNet, {**TINY, "num_classes": 5, **CHOICES[choice]}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks_per_stage": ()}, r"`blocks_per_stage` \(=\(\)\) must be a .* of at least one positive integer"),
        ({"share": "first"}, r"`share` \(='first'\) must be one of 'none', 'rest', 'stride1', 'all', 'both'"),
        ({"order": "pre"}, r"`order` \(='pre'\) must be one of 'conv_norm', 'norm_conv'"),
        ({"shortcut": "none"}, r"`shortcut` \(='none'\) must be one of 'padded', 'projection'"),
        ({"stem_strides": 8}, r"`input_shape` \(=\(8, 8, 3\)\) must be .* total stride \(=16\)"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        BasicResNet(**{**TINY, **changes})
