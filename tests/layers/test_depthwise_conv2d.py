import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, outputs_of, pseudo_random
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sharenets.layers import DepthwiseConv2D
from keras_sharenets.ops import choices
from keras_sharenets.ops.convolution import depthwise_by_places


def network(layer_class, arguments, shape, seed=0):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer_class(**arguments)(inputs))
    model.set_weights([pseudo_random(weight.shape, seed + place) for place, weight in enumerate(model.weights)])
    return model


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(7, 6, 3), (8, 8, 2)])
def test_equals_the_layer_of_keras(shape, padding, strides):
    arguments = {"kernel_size": 3, "strides": strides, "padding": padding, "activation": "relu"}
    images = pseudo_random((4, *shape), seed=5)
    ours, theirs = (
        outputs_and_gradients(network(layer, arguments, shape), images)
        for layer in (DepthwiseConv2D, keras.layers.DepthwiseConv2D)
    )
    assert_close(ours[0], theirs[0], 1e-5)
    for actual, expected in zip(ours[1], theirs[1], strict=True):
        assert_close(actual, expected, 1e-5)


@settings(max_examples=settings.default.max_examples // 2)
@given(
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["same", "valid"]),
)
def test_sum_over_places_equals_a_loop(sides, size, strides, padding):
    images, kernel = pseudo_random((2, *sides, 3)), pseudo_random((*size, 3, 1), seed=1)
    padded = images
    if padding == "same":
        # As many outputs as strides fit; an odd zero goes after.
        both = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sides, size, strides, strict=True)]
        padded = np.pad(images, ((0, 0), *((zeros // 2, zeros - zeros // 2) for zeros in both), (0, 0)))
    starts = [range(0, n - k + 1, s) for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)]
    expected = np.zeros((2, len(starts[0]), len(starts[1]), 3))
    for y, top in enumerate(starts[0]):
        for x, left in enumerate(starts[1]):
            window = padded[:, top : top + size[0], left : left + size[1]]
            expected[:, y, x] = (window * kernel[..., 0]).sum((1, 2))
    actual = depthwise_by_places(
        keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(kernel), strides, padding
    )
    assert_close(keras.ops.convert_to_numpy(actual), expected, 1e-5)


@pytest.mark.parametrize("arguments", [{"depth_multiplier": 2}, {"dilation_rate": np.int64(2)}])
def test_options_that_use_the_implementation_of_keras(arguments):
    images = pseudo_random((2, 6, 6, 2), seed=5)
    outputs = [
        outputs_of(network(layer, {"kernel_size": 3, **given}, (6, 6, 2)), images)
        for layer, given in (
            (DepthwiseConv2D, arguments),
            (keras.layers.DepthwiseConv2D, {name: int(value) for name, value in arguments.items()}),
        )
    ]
    assert_close(outputs[0], outputs[1], 1e-5)


@pytest.mark.skipif(not choices.xla_optional(), reason="elsewhere XLA is welcome")
def test_requested_xla_is_skipped_where_it_is_optional():
    model = network(DepthwiseConv2D, {"kernel_size": 3}, (4, 4, 2))
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile is False


def test_channels_first_with_bias():
    settings = {"kernel_size": 3, "data_format": "channels_first", "activation": "relu"}
    inputs = keras.Input((2, 5, 5))
    ours, theirs = (layer(**settings) for layer in (DepthwiseConv2D, keras.layers.DepthwiseConv2D))
    outputs = [keras.Model(inputs, layer(inputs)).output_shape for layer in (ours, theirs)]
    assert outputs == [(None, 2, 3, 3)] * 2
    weights = [pseudo_random(weight.shape, place) for place, weight in enumerate(ours.weights)]
    for layer in (ours, theirs):
        layer.set_weights(weights)
    images = pseudo_random((1, 2, 5, 5))
    assert_close(keras.ops.convert_to_numpy(ours(images)), keras.ops.convert_to_numpy(theirs(images)), 1e-5)


def test_unknown_sides():
    model = network(DepthwiseConv2D, {"kernel_size": 3}, (None, None, 2))
    assert model(pseudo_random((1, 5, 7, 2))).shape == (1, 3, 5, 2)


def test_harness(tmp_path, other_backend):
    arguments = {"kernel_size": (3, 3), "padding": "same", "use_bias": False}
    check_layer(DepthwiseConv2D, arguments, (2, 5, 5, 4), (2, 5, 5, 4), 3 * 3 * 4, tmp_path, other_backend)
