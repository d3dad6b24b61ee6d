import math

import keras
import numpy as np
from harness import assert_close, pseudo_random
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sharenets.ops import convolution, interleaved, permutations


def shuffled(columns, size):
    """Channel `q * size + r` moves to position `r * (channels / size) + q`."""
    moved = np.zeros_like(columns)
    for place in range(columns.shape[-1]):
        q, r = divmod(place, size)
        moved[..., r * (columns.shape[-1] // size) + q] = columns[..., place]
    return moved


def loop(images, kernels):
    """Equation 4 of the paper, one branch and one output at a time, in float64."""
    outputs, channels = images.astype("float64"), images.shape[-1]
    places = np.arange(channels)
    for number, kernel in enumerate(kernels, start=1):
        _, _, size, filters = kernel.shape
        per_branch = filters // (channels // size)
        inputs, outputs = outputs, np.zeros((*images.shape[:-1], filters))
        for output in range(filters):
            for entry in range(size):
                channel = output // per_branch * size + entry
                outputs[..., output] += inputs[..., channel] * kernel[0, 0, entry, output]
        if number < len(kernels):
            outputs, places = shuffled(outputs, size), shuffled(places, size)
        elif filters > channels:
            outputs = shuffled(outputs, per_branch)
        else:
            restored = np.zeros_like(outputs)
            restored[..., places] = outputs
            outputs = restored
    return outputs


@st.composite
def cases(draw):
    """Channels, branches that divide them, and at least as many filters."""
    channels = math.prod(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    sizes = tuple(draw(st.lists(st.sampled_from(divisors), min_size=1, max_size=3)))
    branches = channels // sizes[-1]
    return channels, sizes, channels + branches * draw(st.integers(0, 3))


# JAX compiles every operation separately for every shape.
@settings(max_examples=settings.default.max_examples // 3)
@given(case=cases())
def test_both_forms_equal_a_loop_written_from_the_equation(case):
    channels, sizes, filters = case
    shapes = interleaved.kernel_shapes(*case)
    kernels = [pseudo_random(shape, seed=place) for place, shape in enumerate(shapes)]
    assert sum(kernel.size for kernel in kernels) == channels * sum(sizes[:-1]) + filters * sizes[-1]
    shuffles = permutations.interleaving(*case)
    images = pseudo_random((2, 2, 3, channels), seed=9)
    expected = loop(images, kernels)
    assert_close(keras.ops.convert_to_numpy(interleaved.factored(images, kernels, shuffles)), expected, 1e-5)
    kernel = interleaved.compose(channels, kernels, shuffles)
    assert kernel.shape == (1, 1, channels, filters)
    assert_close(keras.ops.convert_to_numpy(convolution.pointwise(images, kernel)), expected, 1e-5)
