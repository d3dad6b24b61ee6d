import keras
import numpy as np
import pytest
from harness import check_layer, pseudo_random
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.layers import ChannelShuffle, StridedChannelShuffle
from keras_sharenets.ops import permutations


@given(groups=st.integers(1, 8), more=st.integers(0, 20))
def test_channels_are_assigned_to_the_groups_in_turn(groups, more):
    hands = [[] for _ in range(groups)]
    for channel in range(groups + more):
        hands[channel % groups].append(channel)
    assert permutations.strided_shuffle(groups + more, groups).tolist() == [
        channel for hand in hands for channel in hand
    ]


@pytest.mark.parametrize("groups", [1, 3, 4, 12])
def test_equals_a_shuffle_where_the_groups_divide(groups):
    channels = pseudo_random((2, 3, 12))
    strided = keras.ops.convert_to_numpy(StridedChannelShuffle(groups)(channels))
    assert np.array_equal(strided, keras.ops.convert_to_numpy(ChannelShuffle(12 // groups)(channels)))


@pytest.mark.parametrize("input_shape", [(2, 4, 4, 7), (2, 6)])
def test_harness(input_shape, tmp_path, other_backend):
    check_layer(StridedChannelShuffle, {"groups": 3}, input_shape, input_shape, 0, tmp_path, other_backend)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StridedChannelShuffle(0), r"`groups` \(=0\) must be a positive integer"),
        (
            lambda: StridedChannelShuffle(4).build((None, 3)),
            r"`groups` \(=4\) must be at most the number of channels \(=3\)",
        ),
        (lambda: permutations.strided_shuffle(4.0, 2), r"`channels` \(=4\.0\) must be a positive integer"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_files_with_the_former_name_are_read(tmp_path):
    inputs = keras.Input((4, 4, 7))
    model = keras.Model(inputs, StridedChannelShuffle(3)(inputs))
    text = model.to_json().replace("keras_sharenets>StridedChannelShuffle", "keras_sharenets>ChannelDeal")
    text = text.replace("strided_channel_shuffle", "channel_deal").replace("StridedChannelShuffle", "ChannelDeal")
    again = keras.models.model_from_json(text)
    assert isinstance(again.layers[1], StridedChannelShuffle)
    images = pseudo_random((1, 4, 4, 7))
    assert np.array_equal(keras.ops.convert_to_numpy(again(images)), keras.ops.convert_to_numpy(model(images)))
