"""Hard swish in any notation becomes one operator in a float file and two in an int8 file."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from mobile_networks import convert, lower

from keras_sharenets.mobile.graph import passes
from keras_sharenets.mobile.inspect import file

SHAPE = (6, 6, 4)


def network(function):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Conv2D(3, 3)(function(layers.Conv2D(8, 3)(inputs))))


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(-9, 9, (count, *SHAPE)).astype("float32")


def operators(data):
    return [name for name, *_ in file.operators(file.parse(data))]


WAYS = {
    "activation": layers.Activation("hard_silu"),
    "divided": lambda x: x * ops.relu6(x + 3) / 6,
    "divided, reversed operands": lambda x: ops.relu6(3 + x) * x / 6.0,
    "multiplied": lambda x: x * ops.relu6(x + 3.0) * (1.0 / 6.0),
    "gate first": lambda x: x * (ops.relu6(x + 3) / 6),
    "layers": lambda x: layers.Multiply()([x, layers.Rescaling(1 / 6)(layers.ReLU(6.0)(layers.Rescaling(1, 3)(x)))]),
    "gate activation": lambda x: layers.Multiply()([layers.Activation("hard_sigmoid")(x), x]),
}


@pytest.mark.parametrize("way", WAYS)
def test_notations_become_one_operation(way):
    model = network(WAYS[way])
    assert [step.kind for step in passes.simplify(lower(model)).operations] == ["conv", "hard_swish", "conv"]


def test_operators_and_outputs_of_files():
    model, given, fresh = network(WAYS["divided"]), images(64), images(16, seed=1)
    expected = np.asarray(model(fresh))
    plain = convert(model, given)
    assert operators(plain) == ["CONV_2D", "HARD_SWISH", "CONV_2D"]
    integers = convert(model, given, quantization="int8")
    assert operators(integers) == ["QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "MUL", "CONV_2D", "QUANTIZE"]
    for data, bound in ((plain, 1e-6), (integers, 0.02)):
        interpreter = file.open_bytes(data, "The file")
        (end,) = interpreter.get_output_details()
        (found,) = file.run_examples(interpreter, (fresh,), [end["index"]])
        assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * ops.relu6(x + 2) / 6,
        lambda x: x * ops.relu6(x + 3) / 5,
        lambda x: x * ops.relu6(x + 3),
        lambda x: x * ops.relu(x + 3) / 6,
        lambda x: ops.tanh(x) * ops.relu6(x + 3) / 6,
        lambda x: (x * ops.relu6(x + 3) + 1) / 6,
        lambda x: ops.relu(x * ops.relu6(x + 3)) / 6,
    ],
    ids=[
        "other shift",
        "other factor",
        "no factor",
        "relu",
        "other gated value",
        "shift in between",
        "relu in between",
    ],
)
def test_similar_functions_are_not_merged(function):
    graph = passes.simplify(lower(network(function)))
    assert "hard_swish" not in [step.kind for step in graph.operations]


def test_intermediate_values_used_elsewhere_prevent_merging():
    inputs = keras.Input(SHAPE)
    gate = ops.relu6(inputs + 3)
    model = keras.Model(inputs, [inputs * gate / 6, gate])
    assert "hard_swish" not in [step.kind for step in passes.simplify(lower(model)).operations]
