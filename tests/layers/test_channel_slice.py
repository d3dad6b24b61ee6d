import keras
import numpy as np
import pytest
from harness import check_layer, pseudo_random

from keras_sharenets.layers import ChannelSlice


@pytest.mark.parametrize(
    ("start", "stop", "input_shape", "output_shape"),
    [(0, 3, (2, 4, 4, 7), (2, 4, 4, 3)), (3, 7, (2, 4, 4, 7), (2, 4, 4, 4)), (1, 2, (2, 6), (2, 1))],
)
def test_harness(start, stop, input_shape, output_shape, tmp_path, other_backend):
    check_layer(ChannelSlice, {"start": start, "stop": stop}, input_shape, output_shape, 0, tmp_path, other_backend)


def test_two_slices_split_the_channels():
    channels = pseudo_random((2, 3, 6))
    halves = [keras.ops.convert_to_numpy(ChannelSlice(*ends)(channels)) for ends in ((0, 3), (3, 6))]
    expected = np.split(channels, 2, axis=-1)
    assert all(np.array_equal(actual, half) for actual, half in zip(halves, expected, strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChannelSlice(0, 0), r"`stop` \(=0\) must be a positive integer"),
        (lambda: ChannelSlice(-1, 2), r"`start` \(=-1\) must be an integer of at least 0 and below `stop` \(=2\)"),
        (lambda: ChannelSlice(2, 2), r"`start` \(=2\) must be .* below `stop` \(=2\)"),
        (lambda: ChannelSlice(0, 4).build((None, 3)), r"`stop` \(=4\) must be at most the number of channels \(=3\)"),
        (
            lambda: [layer(np.ones((1, n))) for layer in [ChannelSlice(0, 4)] for n in (4, 3)],
            r"`stop` \(=4\) .* \(=3\)",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
