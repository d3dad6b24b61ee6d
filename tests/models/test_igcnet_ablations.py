"""Ablations of IGC-V2's blocks: paths, the widening convolution, shortcuts, branches."""

import keras
import numpy as np
import pytest
from harness import outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.models import IGCNet, PlainIGCNet, find_variant
from keras_sharenets.ops.connectivity import connectivity

SMALL = {"include_preprocessing": False, "width": 8, "input_shape": (8, 8, 3), "num_classes": 5}


@pytest.mark.parametrize("width", [64, 80])
def test_one_path_networks_have_one_path_in_every_block(width):
    (branches,) = {
        variant.arguments["branch_channels"]
        for variant in map(find_variant, ksn.list_models(f"igcv2_c{width}_one_path*"))
    }
    read = (width, width, 2 * width, 2 * width, 4 * width)
    made = (width, 2 * width, 2 * width, 4 * width, 4 * width)
    for channels, sizes, filters in zip(read, branches, made, strict=True):
        assert connectivity(channels, sizes, filters).one_path
    counted = find_variant(f"igcv2_c{width}_d8").arguments["branch_channels"]
    assert [connectivity(width * 2**stage, sizes).one_path for stage, sizes in enumerate(counted)] == [
        width == 64,
        False,
        False,
    ]


def reach(model, name):
    """The outputs of a block that change with each input channel, at a single pixel."""
    part = keras.Model(model.get_layer(f"{name}_spatial").output, model.get_layer(f"{name}_norm").input)
    _, *sides, channels = part.input_shape
    units = np.broadcast_to(np.eye(channels, dtype="float32")[:, None, None], (channels, *sides, channels))
    return outputs_of(part, units)[:, 0, 0] != 0


def test_blocks_that_widen_first_connect_all_channels():
    arguments = {**SMALL, "block": "igcv2", "width": 16, "branch_channels": ((4, 4), (4, 4), (8, 4), (8, 4), (16, 4))}
    model = IGCNet(**arguments, widens="first")
    for stage, channels in ((2, 16), (3, 32)):
        first, second = (model.get_layer(f"stage{stage}_block1_pointwise{place}") for place in (1, 2))
        assert (first.input.shape[-1], first.filters, second.filters) == (channels, 2 * channels, 2 * channels)
        assert reach(model, f"stage{stage}_block1").all()
    assert IGCNet(**arguments).get_layer("stage2_block1_interleaved").filters == 32


def test_branches_of_the_3x3_convolution_and_the_dense_1x1_of_deep_roots():
    arguments = {**SMALL, "block": "igcv1", "spatial_branches": (4, 8, 16)}
    model = IGCNet(**arguments)
    layers = [
        model.get_layer(f"stage{stage}_block2_{part}") for stage in (1, 2, 3) for part in ("spatial", "pointwise")
    ]
    # Two channels per branch, and two branches that read half of the channels each.
    assert [layer.groups for layer in layers] == [4, 2, 8, 2, 16, 2]
    assert reach(model, "stage3_block2").mean() == 0.5
    roots = IGCNet(**{**SMALL, "block": "deep_roots"})
    assert roots.get_layer("stage1_block1_spatial").groups == 4
    assert reach(roots, "stage1_block1").all()
    plain = PlainIGCNet(**{**SMALL, "block": "igcv1", "spatial_branches": 2, "blocks_per_stage": 1})
    assert plain.get_layer("block1_spatial").groups == 2


def test_shortcuts_without_weights_keep_every_second_pixel():
    model = IGCNet(**SMALL, block="igcv2", branch_channels=((4, 2), (4, 4), (8, 4, 2)), shortcut="pad")
    part = keras.Model(model.get_layer("stage1_block2_relu").output, model.get_layer("stage2_block1_subsample").output)
    images = pseudo_random((1, 8, 8, 8))
    expected = np.concatenate([images[:, ::2, ::2], np.zeros((1, 4, 4, 8))], axis=-1)
    np.testing.assert_array_equal(outputs_of(part, images), expected)
    assert not any("shortcut" in layer.name and layer.weights for layer in model.layers)
