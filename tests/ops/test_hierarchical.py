import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_sharenets.ops import convolution, hierarchical


def loop(images, kernels, sizes, hierarchy):
    """Equations 1 and 2 of the paper, one filter and one input channel at a time, in float64."""
    images = images.astype("float64")
    filters = kernels[0].shape[-1]
    outputs = np.zeros((*images.shape[:-1], len(sizes) * filters))
    for group, kernel in enumerate(kernels):
        own = list(range(sum(sizes[:group]), sum(sizes[: group + 1])))
        for place in range(filters):
            output = group * filters + place
            for row, channel in enumerate(own):
                outputs[..., output] += images[..., channel] * kernel[0, 0, row, place]
            if hierarchy and group > 0:
                for previous in range(filters):
                    before = outputs[..., (group - 1) * filters + previous]
                    outputs[..., output] += before * kernel[0, 0, len(own) + previous, place]
    return outputs


@st.composite
def cases(draw):
    groups = draw(st.integers(1, 6))
    return groups + draw(st.integers(0, 9)), groups, draw(st.integers(1, 4))


@given(case=cases())
def test_sizes_are_as_even_as_possible_with_the_larger_first(case):
    channels, groups, _ = case
    sizes = hierarchical.split_sizes(channels, groups)
    assert len(sizes) == groups
    assert sum(sizes) == channels
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


# JAX compiles every operation separately for every shape.
@pytest.mark.parametrize("hierarchy", [True, False])
@settings(max_examples=settings.default.max_examples // 3)
@given(case=cases())
def test_both_forms_equal_a_loop_written_from_the_equations(hierarchy, case):
    channels, groups, filters = case
    sizes = hierarchical.split_sizes(channels, groups)
    extra = filters if hierarchy else 0
    shapes = [(1, 1, size + (extra if group else 0), filters) for group, size in enumerate(sizes)]
    names = ("chain_inputs", "chain", "chain_kernel") if hierarchy else ("split_inputs", "split", "split_kernel")
    kernel_inputs, run, compose = (getattr(hierarchical, name) for name in names)
    assert list(kernel_inputs(sizes, filters)) == [shape[2] for shape in shapes]
    kernels = [pseudo_random(shape, seed=group) for group, shape in enumerate(shapes)]
    images = pseudo_random((2, 2, 3, channels), seed=9)
    expected = loop(images, kernels, sizes, hierarchy)
    assert_close(keras.ops.convert_to_numpy(run(images, kernels, sizes)), expected, 1e-5)
    kernel = compose(kernels, sizes)
    assert kernel.shape == (1, 1, channels, groups * filters)
    assert_close(keras.ops.convert_to_numpy(convolution.pointwise(images, kernel)), expected, 1e-5)


@pytest.mark.parametrize(
    ("channels", "groups", "message"),
    [
        (4, 5, r"`groups` \(=5\) must be at most the number of input channels \(=4\)\."),
        (4, 0, r"`groups` \(=0\) must be a positive integer\."),
        (4.0, 2, r"`channels` \(=4\.0\) must be a positive integer\."),
    ],
)
def test_bad_arguments(channels, groups, message):
    with pytest.raises(ValueError, match=message):
        hierarchical.split_sizes(channels, groups)
