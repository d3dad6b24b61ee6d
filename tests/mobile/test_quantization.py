"""Quantization parameters: properties of scales and zero points."""

import keras
import numpy as np
import pytest
from keras import ops
from mobile_networks import convert_with_graph, operators_and_types

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.graph.quantization import _value_quantization, filter_limits
from keras_sharenets.mobile.graph.rounding_error import rounding_error
from keras_sharenets.mobile.inspect.file import open_bytes, open_tflite, run_examples

RANGES = [(0.0, 6.0), (-3.0, 0.0), (-1.0, 2.0), (-0.1, 25.4), (-128.0, 127.0), (-1.0, 1.0), (-2.1, 1.9), (-0.303, 2.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_range_fits_into_int8_and_zero_is_exact(low, high):
    quantization = _value_quantization(low, high)
    unclipped = quantization.integers(np.array([low, high]), low=-1000, high=1000)
    assert unclipped.min() >= -128
    assert unclipped.max() <= 127
    # One limit is reached; an exact zero moves the other by at most one step.
    assert sorted(np.abs(unclipped - [-128, 127]))[0] == 0
    assert np.abs(unclipped - [-128, 127]).max() <= 1
    back = quantization.scale * (unclipped - quantization.zero_point)
    np.testing.assert_allclose(back, [low, high], atol=quantization.scale / 2)
    assert quantization.integers(0.0) == quantization.zero_point


def test_integer_steps_are_exact():
    assert (_value_quantization(0.0, 255.0).scale, _value_quantization(0.0, 255.0).zero_point) == (1.0, -128)
    assert (_value_quantization(-128.0, 127.0).scale, _value_quantization(-128.0, 127.0).zero_point) == (1.0, 0)


def test_rescaled_pixels_are_not_halfway_between_two_steps(tmp_path):
    """With a step of 2 / 255, the rescaled values -127.5, -126.5, ... would be, and XNNPACK rounds them either way."""
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 127.5, -1)(inputs))
    images = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(4)]).reshape(4, 16, 16, 1)
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images)
    difference = predict_tflite(tmp_path / "net.tflite", images) - (images / 127.5 - 1)
    # The root mean square error of uniform values is 0.29 steps, and 0.5 for values halfway between two steps.
    np.testing.assert_allclose(np.sqrt(np.mean(difference**2)) * 127, np.sqrt(1 / 12), rtol=0.1)


def small_network(kernel, bias):
    """A convolution of two filters with given weights, followed by global average pooling."""
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 1, name="convolution")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.set_weights([np.reshape(kernel, (1, 1, 1, 2)).astype("float32"), np.asarray(bias, "float32")])
    return model


IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 4, 4, 1)).astype("float32")


def test_report_says_if_probabilities_are_too_small_to_rank_classes(tmp_path):
    """600 nearly equal probabilities are about half a step of 1/256: in the file, most are equal."""
    keras.utils.set_random_seed(0)
    inputs, path = keras.Input((4, 4, 1)), tmp_path / "net.tflite"
    scores = keras.layers.Dense(600)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    best, reports, right = np.asarray(keras.Model(inputs, scores)(IMAGES)).argmax(-1), [], []
    for outputs in (keras.layers.Softmax()(scores), scores):
        reports.append(export_tflite(keras.Model(inputs, outputs), path, "int8", representative_data=IMAGES))
        right.append((predict_tflite(path, IMAGES).argmax(-1) == best).mean())
    assert reports[0].probability_steps < 2
    assert reports[1].probability_steps is None
    assert ["1/256" in report.in_words for report in reports] == [True, False]
    assert right[0] < 0.5 < right[1]


def test_bias_of_a_filter_with_tiny_weights(tmp_path):
    model = small_network(kernel=[0.01, 1e-14], bias=[0.0, -1.5])
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=IMAGES)
    expected = np.stack([0.01 * IMAGES.mean((1, 2, 3)), np.full(8, -1.5)], axis=1)
    np.testing.assert_allclose(predict_tflite(tmp_path / "net.tflite", IMAGES), expected, atol=0.05)


def test_weights_too_small_for_int8(tmp_path):
    model = small_network(kernel=[0.01, 1e-37], bias=[0.0, 0.0])
    with pytest.raises(ValueError, match="'convolution' cannot be written in int8"):
        export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=IMAGES)
    assert not any(tmp_path.iterdir())


# Eight bits cannot represent scales that differ by a factor of 1000 with one step.
@pytest.mark.parametrize(("smallest", "steps"), [(0.1, 1), (0.001, 5)])
def test_channel_scales_are_per_tensor_if_the_next_kernel_takes_the_remainder(tmp_path, smallest, steps):
    """Normalization, ReLU, and convolution, as in a pre-activation block, compared with float64."""
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
    (found,) = run_examples(interpreter, (images,), [end["index"]])
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    (constant,) = (each for each in interpreter.get_tensor_details() if each["name"].endswith("/s"))
    assert len(constant["quantization_parameters"]["scales"]) == steps


def test_layer_error_accumulates_over_its_operations(tmp_path):
    """Layer normalization divides by small values if channels are nearly equal; each operation alone loses little."""
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.LayerNormalization(epsilon=1, name="normalized")(inputs))
    random = np.random.default_rng(0)
    # Integer pixel values are exact at the input, so the layer causes the whole error.
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


# XNNPACK has no int8 hard swish; microcontrollers and Vela do.
@pytest.mark.parametrize(("prefer", "operators"), [("size", {"DEPTHWISE_CONV_2D", "MUL"}), ("memory", {"HARD_SWISH"})])
@pytest.mark.parametrize("shape", [(4, 4, 3), (6,)])
def test_hard_swish_uses_operators_of_the_target(tmp_path, prefer, operators, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Activation("hard_swish")(inputs))
    values = np.random.default_rng(0).uniform(-8, 8, (16, *shape)).astype("float32")
    ends = {"input_type": "int8", "output_type": "int8"}
    export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=values, prefer=prefer, **ends)
    names, _ = operators_and_types((tmp_path / "net.tflite").read_bytes())
    assert operators <= set(names)
    assert operators & {"HARD_SWISH"} == set(names) & {"HARD_SWISH"}
    interpreter = open_tflite(tmp_path / "net.tflite")
    (outputs,) = run_examples(interpreter, (values,), [interpreter.get_output_details()[0]["index"]])
    expected = values * np.clip(values.astype("float64") / 6 + 0.5, 0, 1)
    # Half a step each of the input (with slope at most 1.5), of the gate (times 8), and of the output.
    np.testing.assert_allclose(outputs, expected, atol=(1.5 * 16 + 8 + 8.375) / 510)


def test_limits_of_pruned_and_clustered_kernels():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 32, 8)) * np.geomspace(0.01, 1, 8)
    kernel[random.random(kernel.shape) < 0.95] = 0
    np.testing.assert_allclose(filter_limits(kernel, "conv"), np.abs(kernel).max((0, 1, 2)), rtol=1e-6)
    clustered = np.sign(kernel) * np.geomspace(0.01, 1, 8)
    np.testing.assert_array_equal(filter_limits(clustered, "conv"), np.ones(8))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1e6)], ids=["far inside the values", "far outside"])
def test_bounds_do_not_determine_the_scale(bounds):
    """A convolution may be clipped to the result's range, and a bound outside the values does not matter."""
    inputs = keras.Input((4, 4, 1))
    convolution = keras.layers.Conv2D(
        1, 1, kernel_initializer="ones", bias_initializer=keras.initializers.Constant(0.3)
    )
    model = keras.Model(inputs, ops.clip(convolution(inputs), *bounds))
    images = np.arange(-80.0, 176, 16, dtype="float32").reshape(1, 4, 4, 1) / (20 if bounds[1] == 1 else 100)
    data, quantized = convert_with_graph(model, images, quantization="int8")
    interpreter = open_bytes(data, "The file")
    (result,) = run_examples(interpreter, (images,), [interpreter.get_output_details()[0]["index"]])
    np.testing.assert_allclose(result, np.clip(images + 0.3, *bounds), atol=0.01)
    assert rounding_error(quantized, (images,)).layers.get(convolution.name, 0) < 0.02
