"""How integers stand for the values of a graph: what every scale and zero point must keep."""

import keras
import numpy as np
import pytest
from mobile_networks import parts

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.graph.quantization import _value_quantization
from keras_sharenets.mobile.inspect.file import open_tflite, run_images

RANGES = [(0.0, 6.0), (-3.0, 0.0), (-1.0, 2.0), (-0.1, 25.4), (-128.0, 127.0), (-1.0, 1.0), (-2.1, 1.9), (-0.303, 2.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_range_is_within_the_256_integers_and_0_is_one_of_them(low, high):
    quantization = _value_quantization(low, high)
    unclipped = quantization.integers(np.array([low, high]), low=-1000, high=1000)
    assert unclipped.min() >= -128
    assert unclipped.max() <= 127
    # One end is reached; a 0 that is an integer moves the other by one step at most.
    assert sorted(np.abs(unclipped - [-128, 127]))[0] == 0
    assert np.abs(unclipped - [-128, 127]).max() <= 1
    back = quantization.scale * (unclipped - quantization.zero_point)
    np.testing.assert_allclose(back, [low, high], atol=quantization.scale / 2)
    assert quantization.integers(0.0) == quantization.zero_point


def test_whole_steps_are_exact():
    assert (_value_quantization(0.0, 255.0).scale, _value_quantization(0.0, 255.0).zero_point) == (1.0, -128)
    assert (_value_quantization(-128.0, 127.0).scale, _value_quantization(-128.0, 127.0).zero_point) == (1.0, 0)


def test_pixel_values_around_0_are_not_all_halfway_between_two_steps(tmp_path):
    """With a step of 2 / 255 the rescaled pixel values -127.5, -126.5, ... are, and XNNPACK rounds them either way."""
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 127.5, -1)(inputs))
    images = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(4)]).reshape(4, 16, 16, 1)
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images)
    difference = predict_tflite(tmp_path / "net.tflite", images) - (images / 127.5 - 1)
    # Rounding evenly spread numbers makes a root mean square of 0.29 of a step, and of halfway ones 0.5.
    np.testing.assert_allclose(np.sqrt(np.mean(difference**2)) * 127, np.sqrt(1 / 12), rtol=0.1)


def small_network(kernel, bias):
    """A convolution of two filters, whose numbers are given, and their means over the image."""
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 1, name="convolution")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.set_weights([np.reshape(kernel, (1, 1, 1, 2)).astype("float32"), np.asarray(bias, "float32")])
    return model


IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 4, 4, 1)).astype("float32")


def test_bias_of_a_filter_that_has_all_but_died_fits(tmp_path):
    model = small_network(kernel=[0.01, 1e-14], bias=[0.0, -1.5])
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=IMAGES)
    expected = np.stack([0.01 * IMAGES.mean((1, 2, 3)), np.full(8, -1.5)], axis=1)
    np.testing.assert_allclose(predict_tflite(tmp_path / "net.tflite", IMAGES), expected, atol=0.05)


def test_numbers_that_no_integers_stand_for(tmp_path):
    model = small_network(kernel=[0.01, 1e-37], bias=[0.0, 0.0])
    with pytest.raises(ValueError, match="'convolution' cannot be written in int8"):
        export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=IMAGES)
    assert not any(tmp_path.iterdir())


# Of a scale that is 1000 times smaller than another one no integer of eight bits is a good multiple.
@pytest.mark.parametrize(("smallest", "steps"), [(0.1, 1), (0.001, 5)])
def test_scales_that_stand_alone_have_one_step_where_a_kernel_takes_the_rest(tmp_path, smallest, steps):
    """Normalization, ReLU, convolution, as where a block begins with its normalization: computed here in float64."""
    random = np.random.default_rng(0)
    scale, shift = np.array([1.0, -0.77, 0.313, smallest, -0.52]), random.uniform(-1, 1, 5)
    kernel, images = random.normal(size=(5, 3)), random.normal(size=(64, 4, 4, 5))
    x = inputs = keras.Input((4, 4, 5))
    for layer in (keras.layers.BatchNormalization(epsilon=0), keras.layers.ReLU(), keras.layers.Conv2D(3, 1)):
        x = layer(x)
    model = keras.Model(inputs, x)
    numbers = [scale, shift, np.zeros(5), np.ones(5), kernel[None, None], np.zeros(3)]
    model.set_weights([each.astype("float32") for each in numbers])
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images.astype("float32"))
    expected = np.maximum(images * scale + shift, 0) @ kernel
    interpreter = open_tflite(tmp_path / "net.tflite")
    (end,) = interpreter.get_output_details()
    (found,) = run_images(interpreter, images, [end["index"]])
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    (constant,) = (each for each in interpreter.get_tensor_details() if each["name"].endswith("/s"))
    assert len(constant["quantization_parameters"]["scales"]) == steps


def test_a_layer_of_several_steps_loses_what_all_of_them_lose(tmp_path):
    """A layer normalization divides by what is small where channels are nearly equal: each step alone loses little."""
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.LayerNormalization(epsilon=1, name="normalized")(inputs))
    random = np.random.default_rng(0)
    # Whole pixel values are exact at the input: what the file is wrong by, the layer has lost.
    images = random.integers(0, 56, (16, 4, 4, 3)) + random.integers(0, 201, (16, 4, 4, 1))
    images[0, 0, 0, :2] = 0, 255
    images = images.astype("float32")
    report = export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images)
    x = images.astype("float64")
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1)
    difference = predict_tflite(tmp_path / "net.tflite", images) - expected
    error = np.linalg.norm(difference) / np.linalg.norm(expected)
    assert report.worst_layer == "normalized"
    np.testing.assert_allclose(report.worst_layer_error, error, rtol=0.1)


# XNNPACK has no hard swish of integers; microcontrollers and Vela have one.
@pytest.mark.parametrize(("prefer", "operators"), [("size", {"DEPTHWISE_CONV_2D", "MUL"}), ("memory", {"HARD_SWISH"})])
@pytest.mark.parametrize("shape", [(4, 4, 3), (6,)])
def test_hard_swish_is_in_operators_that_a_device_has(tmp_path, prefer, operators, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Activation("hard_swish")(inputs))
    values = np.random.default_rng(0).uniform(-8, 8, (16, *shape)).astype("float32")
    ends = {"input_type": "int8", "output_type": "int8"}
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=values, prefer=prefer, **ends)
    names, _ = parts((tmp_path / "net.tflite").read_bytes())
    assert operators <= set(names)
    assert operators & {"HARD_SWISH"} == set(names) & {"HARD_SWISH"}
    interpreter = open_tflite(tmp_path / "net.tflite")
    (outputs,) = run_images(interpreter, values, [interpreter.get_output_details()[0]["index"]])
    expected = values * np.clip(values.astype("float64") / 6 + 0.5, 0, 1)
    # Half a step of 255 of the input, where the slope is 1.5 at most, of the gate beside 8, and of the output.
    np.testing.assert_allclose(outputs, expected, atol=(1.5 * 16 + 8 + 8.375) / 510)
