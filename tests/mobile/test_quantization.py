"""How integers stand for the values of a graph: what every scale and zero point must keep."""

import numpy as np
import pytest

from keras_sharenets.mobile.graph.quantization import _value_quantization


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 0.0), (-1.0, 2.0), (-0.1, 25.4), (-128.0, 127.0)])
def test_a_range_has_all_256_integers_and_0_is_one_of_them(low, high):
    quantization = _value_quantization(low, high)
    assert quantization.integers(np.array([low, high])).tolist() == [-128, 127]
    unclipped = quantization.integers(np.array([low, high]), low=-1000, high=1000)
    # A 0 that is an integer moves both ends by half a step at most.
    assert np.abs(unclipped - [-128, 127]).max() <= 1
    back = quantization.scale * (unclipped - quantization.zero_point)
    np.testing.assert_allclose(back, [low, high], atol=quantization.scale / 2)
    assert quantization.integers(0.0) == quantization.zero_point


def test_whole_steps_are_exact():
    assert (_value_quantization(0.0, 255.0).scale, _value_quantization(0.0, 255.0).zero_point) == (1.0, -128)
    assert (_value_quantization(-128.0, 127.0).scale, _value_quantization(-128.0, 127.0).zero_point) == (1.0, 0)
