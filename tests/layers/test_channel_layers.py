"""The layers without weights."""

import keras
import numpy as np
import pytest
from harness import check_layer, pseudo_random

from keras_sharenets.layers import ChannelPadding, ChannelShuffle, PaddedMaxPooling2D


@pytest.mark.parametrize(
    ("layer_class", "arguments", "input_shape", "output_shape"),
    [
        (ChannelShuffle, {"groups": 3}, (2, 4, 4, 12), (2, 4, 4, 12)),
        (ChannelShuffle, {"groups": 2, "block_size": 3}, (2, 12), (2, 12)),
        (ChannelPadding, {"channels": 7}, (2, 4, 4, 5), (2, 4, 4, 7)),
        (ChannelPadding, {"channels": 5}, (2, 5), (2, 5)),
        (PaddedMaxPooling2D, {"pool_size": 3, "strides": 2}, (2, 8, 7, 3), (2, 4, 4, 3)),
        (PaddedMaxPooling2D, {"pool_size": 5, "strides": 1}, (2, 8, 7, 3), (2, 8, 7, 3)),
    ],
)
def test_harness(layer_class, arguments, input_shape, output_shape, tmp_path, other_backend):
    check_layer(layer_class, arguments, input_shape, output_shape, 0, tmp_path, other_backend)


def test_shuffle_transposes_the_table_of_groups():
    channels = pseudo_random((2, 3, 12))
    shuffled = keras.ops.convert_to_numpy(ChannelShuffle(4)(channels))
    assert np.array_equal(shuffled, channels.reshape(2, 3, 4, 3).swapaxes(2, 3).reshape(2, 3, 12))


def test_padding_keeps_the_input_in_front_of_zeros():
    channels = pseudo_random((2, 3))
    padded = keras.ops.convert_to_numpy(ChannelPadding(5)(channels))
    assert np.array_equal(padded, np.concatenate([channels, np.zeros((2, 2), "float32")], axis=1))


@pytest.mark.parametrize(
    ("pool_size", "strides", "sides"),
    [(3, 2, (8, 8)), (3, 2, (7, 7)), (5, 3, (9, 9)), (1, 2, (4, 4)), (3, 1, (1, 1)), (7, 1, (2, 8)), (9, 2, (5, 1))],
)
def test_pooling_equals_padding_with_minus_infinity(pool_size, strides, sides):
    """Also of images smaller than half of the window."""
    images = pseudo_random((2, *sides, 3))
    border = pool_size // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), constant_values=-np.inf)
    pooled = keras.ops.convert_to_numpy(PaddedMaxPooling2D(pool_size, strides=strides)(images))
    rows, columns = (range(0, side, strides) for side in sides)
    expected = [[padded[:, y : y + pool_size, x : x + pool_size].max((1, 2)) for x in columns] for y in rows]
    assert np.array_equal(pooled, np.moveaxis(np.array(expected), 2, 0))


def called_twice(layer, first, second):
    for channels in (first, second):
        layer(np.zeros((2, channels)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChannelShuffle(0), r"`groups` \(=0\) must be a positive integer"),
        (lambda: ChannelShuffle(2, block_size=-1), r"`block_size` \(=-1\) must be a positive integer"),
        (lambda: ChannelShuffle(4).build((None, 6)), r"`groups` \(=4\) must divide the number of channels \(=6\)"),
        # Called again, on other channels: the pixels of two images would be mixed.
        (lambda: called_twice(ChannelShuffle(4), 8, 6), r"`groups` \(=4\) must divide the number of channels \(=6\)"),
        (lambda: ChannelPadding(4).build((None, 6)), r"`channels` \(=4\) must be at least .* \(=6\)"),
        (lambda: called_twice(ChannelPadding(4), 3, 6), r"`channels` \(=4\) must be at least .* \(=6\)"),
        (lambda: ChannelPadding(4)(keras.Input((None,))), r"`input_shape\[-1\]` \(=None\) must be a positive integer"),
        (lambda: PaddedMaxPooling2D(2, strides=2), r"`pool_size` \(=2\) must be odd"),
        (lambda: PaddedMaxPooling2D(3, strides=0), r"`strides` \(=0\) must be a positive integer"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
