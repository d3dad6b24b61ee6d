import json

import keras
import numpy as np
import pytest
from harness import assert_close, check_layer

from keras_sharenets.layers import FakeQuantize


def batch(*numbers):
    return np.array([numbers], "float32")


def limits(layer):
    return [float(limit) for limit in layer.range()]


def test_the_first_batch_sets_the_range_and_the_next_move_it():
    layer = FakeQuantize(momentum=0.75)
    layer(batch(-1.0, 4.0), training=True)
    assert limits(layer) == [-1, 4]
    layer(batch(-3.0, 2.0), training=True)
    assert_close(limits(layer), [-1 + 0.25 * (-3 + 1), 4 + 0.25 * (2 - 4)], 1e-6)
    layer(batch(100.0))
    assert_close(limits(layer), [-1.5, 3.5], 1e-6)


def test_zero_is_always_inside():
    layer = FakeQuantize()
    layer(batch(2.0, 3.0), training=True)
    assert limits(layer) == [0, 3]


def test_values_pass_before_the_first_batch():
    numbers = batch(-0.123, 0.0, 7.7)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(FakeQuantize()(numbers)), numbers)


def test_several_places_have_the_widest_range_of_any():
    layer = FakeQuantize(places=3)
    layer(batch(-1.0, 1.0), place=0, training=True)
    layer(batch(0.0, 4.1), place=2, training=True)
    assert limits(layer) == [-1, np.float32(4.1)]
    step = (4.1 + 1) / 255
    for place in range(3):
        assert_close(layer(batch(40.3 * step, 99.0), place=place), batch(40 * step, 205 * step), 1e-5)


def test_equals_the_integers_of_a_file():
    """`scale * (integer - zero point)` with 8 bits, as TFLite defines it."""
    layer = FakeQuantize()
    numbers = np.random.default_rng(0).normal(0.7, 1, (1, 500)).astype("float32")
    low, high = numbers.min(), numbers.max()
    scale = (high - low) / 255
    zero_point = np.round(-128 - low / scale)
    integers = np.clip(np.round(numbers / scale) + zero_point, -128, 127)
    assert_close(layer(numbers, training=True), scale * (integers - zero_point), 1e-6)


def test_harness(tmp_path, other_backend):
    shape = (2, 3, 5)
    arguments = {"places": 3, "momentum": 0.5}
    # In float16, one number in twenty is rounded to the next of the 255 levels.
    check_layer(FakeQuantize, arguments, shape, shape, 2 * 3, tmp_path, other_backend, half=1e-2)


def test_config_has_plain_numbers():
    config = FakeQuantize(np.int64(2), momentum=np.float32(0.5)).get_config()
    assert {"places": 2, "momentum": 0.5}.items() <= json.loads(json.dumps(config)).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"places": 0}, r"`places` \(=0\) must be a positive integer\."),
        ({"momentum": 1.0}, r"`momentum` \(=1\.0\) must be at least 0 and below 1\."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FakeQuantize(**arguments)


@pytest.mark.parametrize("inputs", [np.ones((2, 2)), keras.Input((2,))])
@pytest.mark.parametrize("place", [2, -1])
def test_unknown_place(inputs, place):
    with pytest.raises(ValueError, match=rf"`place` \(={place}\) must be at least 0 and below `places` \(=2\)\."):
        FakeQuantize(places=2)(inputs, place=place)
