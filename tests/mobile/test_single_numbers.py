"""Scales and shifts with one number for all channels, and separate ReLUs, in files: which operators compute them."""

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random
from mobile_networks import convert, lower, run

from keras_sharenets.mobile.graph.passes import fold_common_factors
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.benchmark import delegation


def operators(data):
    return [name for name, *_ in file.operators(file.parse(data))]


def kinds(graph):
    return [operation.kind for operation in graph.operations]


def prepared(shift=0.0, scale=1 / 127.5, reader=None, **options):
    """A convolution, or another layer, of pixels with a scale and a shift."""
    inputs = keras.Input((5, 5, 3))
    layer = reader or keras.layers.Conv2D(4, 3, padding="same", bias_initializer="ones", **options)
    return keras.Model(inputs, layer(keras.layers.Rescaling(scale, shift)(inputs)))


@pytest.mark.parametrize(
    ("arguments", "expected", "of_devices"),
    [
        ({}, ["CONV_2D"], ["CONV_2D"]),
        ({"shift": -1.0}, ["ADD", "CONV_2D"], ["DEPTHWISE_CONV_2D", "CONV_2D"]),
        # A zero would be lost, and so would float16 kernels with such a factor.
        ({"scale": 1e-5, "shift": 2.0}, ["ADD", "MUL", "CONV_2D"], ["DEPTHWISE_CONV_2D", "CONV_2D"]),
        ({"scale": 0.0, "shift": 2.0}, ["DEPTHWISE_CONV_2D", "CONV_2D"], ["DEPTHWISE_CONV_2D", "CONV_2D"]),
        (
            {"scale": [0.1, 0.2, 0.3], "shift": 1.0},
            ["DEPTHWISE_CONV_2D", "CONV_2D"],
            ["DEPTHWISE_CONV_2D", "CONV_2D"],
        ),
        ({"reader": keras.layers.MaxPooling2D()}, ["MUL", "MAX_POOL_2D"], ["DEPTHWISE_CONV_2D", "MAX_POOL_2D"]),
    ],
    ids=["factor", "factor and shift", "small factor", "zero", "by channel", "no kernel"],
)
def test_operators_of_a_scale_and_shift(arguments, expected, of_devices):
    """One number for all channels needs no depthwise convolution, which is slow for three channels."""
    model, images = prepared(**arguments), pseudo_random((4, 5, 5, 3), seed=1)
    graph = lower(model)
    assert_close(run(fold_common_factors(graph), images), np.asarray(model(images)), 1e-6)
    plain = convert(model)
    assert operators(plain) == expected
    for prefer in ("memory", "gpu"):
        assert operators(convert(model, prefer=prefer)) == of_devices
    integers = convert(model, images, quantization="int8", input_type="int8", output_type="int8")
    assert operators(integers) == expected
    for data, bound in ((plain, 1e-6), (integers, 0.03)):
        interpreter = file.open_bytes(data, "The file")
        (end,) = interpreter.get_output_details()
        assert_close(file.run_examples(interpreter, (images,), [end["index"]])[0], np.asarray(model(images)), bound)


def test_factor_of_a_learned_range_or_a_shared_kernel_is_kept():
    graph = lower(prepared())
    (factor,) = (operation for operation in graph.operations if operation.kind == "affine")
    graph.ranges[factor.output.number] = 0.0, 1.0
    assert "affine" in kinds(fold_common_factors(graph))
    layer = keras.layers.Conv2D(3, 3, padding="same")
    assert "affine" in kinds(fold_common_factors(lower(prepared(reader=keras.Sequential([layer, layer])))))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_separate_relu_of_integers_is_delegated(activation):
    """LiteRT's integer RELU takes a hundred times as long as XNNPACK's equal product with 1."""
    inputs = keras.Input((5, 5, 4))
    x = keras.layers.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, keras.layers.Concatenate()([x, keras.layers.Activation(activation)(x)]))
    images = 9 * pseudo_random((4, 5, 5, 4), seed=1)
    types = {"quantization": "int8", "input_type": "int8", "output_type": "int8"}
    assert activation.upper() in operators(convert(model, images, prefer="memory", **types))
    data = convert(model, images, **types)
    assert operators(data) == ["CONV_2D", "MUL", "CONCATENATION"]
    interpreter = file.open_bytes(data, "The file")
    assert delegation(interpreter) == (1, {})
    (end,) = interpreter.get_output_details()
    (found,) = file.run_examples(interpreter, (images,), [end["index"]])
    assert_close(found, np.asarray(model(images)), 0.03)
