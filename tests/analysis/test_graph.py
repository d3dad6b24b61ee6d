import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_sharenets.analysis.graph import calls, trace
from keras_sharenets.layers import HighlySharedConv2D


def rows(model, **arguments):
    return [(call.path, call.index, call.input_shapes, call.output_shapes) for call in calls(model, **arguments)]


def test_a_layer_called_several_times_is_one_object_with_a_call_each():
    shared = HighlySharedConv2D(4, 3, name="shared")
    inputs = keras.Input((8, 6, 4))
    found = calls(keras.Model(inputs, shared(shared(shared(inputs)), strides=2)))
    assert [(call.path, call.index, call.kwargs) for call in found] == [
        ("shared", 0, {}),
        ("shared", 1, {}),
        ("shared", 2, {"strides": 2}),
    ]
    assert all(call.operation is shared for call in found)
    assert [call.output_shapes for call in found] == [((None, 8, 6, 4),), ((None, 8, 6, 4),), ((None, 4, 3, 4),)]


def test_a_nested_model_is_opened_at_each_of_its_calls():
    inside = keras.Input((None, None, 3), name="inside")
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    inner = keras.Model(inside, conv(conv(inside)), name="inner")
    inputs = keras.Input((8, 8, 3))
    half = layers.MaxPooling2D(2, name="half")(inner(inputs))
    outer = keras.Model(inputs, inner(half), name="outer")
    large, small = (None, 8, 8, 3), (None, 4, 4, 3)
    assert rows(outer) == [
        ("inner/conv", 0, (large,), (large,)),
        ("inner/conv", 1, (large,), (large,)),
        ("half", 0, (large,), (small,)),
        ("inner/conv", 2, (small,), (small,)),
        ("inner/conv", 3, (small,), (small,)),
    ]


def test_sequential_models_alone_nested_and_in_each_other():
    block = keras.Sequential([layers.Dense(4, name="first"), layers.ReLU(name="second")], name="block")
    outer = keras.Sequential([keras.Input((4,)), block, layers.Dense(2, name="last")], name="outer")
    assert [row[:2] for row in rows(outer)] == [("block/first", 0), ("block/second", 0), ("last", 0)]
    deferred = keras.Sequential([block, block, layers.Dense(2, name="last")], name="deferred")
    deferred(np.zeros((1, 4), "float32"))
    paths = ["block/first", "block/second"] * 2 + ["last"]
    assert [(call.path, call.index) for call in calls(deferred)] == list(zip(paths, [0, 0, 1, 1, 0], strict=True))


def test_several_inputs_and_outputs():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    inside = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    inner = keras.Model(
        inside,
        [layers.Add(name="add")([inside["a"], inside["b"]]), layers.ReLU(name="relu")(inside["a"])],
        name="inner",
    )
    first, second = inner(inputs={"a": left, "b": right})
    model = keras.Model([left, right], {"x": layers.Dense(3, name="dense")(second), "y": first, "z": right})
    graph = trace(model)
    by_path = {call.path: call for call in graph.calls}
    assert set(by_path) == {"inner/add", "inner/relu", "dense"}
    assert by_path["inner/add"].inputs == graph.inputs
    assert by_path["inner/relu"].inputs == graph.inputs[:1]
    assert by_path["dense"].inputs == by_path["inner/relu"].outputs
    assert graph.outputs == (*by_path["dense"].outputs, *by_path["inner/add"].outputs, graph.inputs[1])


def test_functions_of_keras_are_operations_that_are_no_layers():
    inputs = keras.Input((8, 3))
    x = keras.ops.add(layers.Dense(3, name="dense")(inputs), inputs)
    outputs = (x * 2)[:, ::2]
    found = calls(keras.Model(inputs, outputs))
    assert [type(call.operation).__name__ for call in found] == ["Dense", "Add", "Multiply", "GetItem"]
    assert [isinstance(call.operation, keras.Layer) for call in found] == [True, False, False, False]
    assert found[1].inputs[0] == found[0].outputs[0]
    assert found[2].args == (found[1].outputs[0], 2)
    assert found[3].output_shapes == ((None, 4, 3),)


def test_every_input_of_a_call_is_made_before_it():
    inputs = keras.Input((4,))
    a, b = layers.Dense(4, name="a"), layers.Dense(4, name="b")
    outputs = layers.Add()([a(b(a(inputs))), b(inputs), inputs])
    graph = trace(keras.Model(inputs, outputs))
    made = {tensor.number for tensor in graph.inputs}
    for call in graph.calls:
        assert {tensor.number for tensor in call.inputs} <= made
        made |= {tensor.number for tensor in call.outputs}
    assert len(made) == 1 + len(graph.calls)


def test_calls_of_another_model_do_not_appear():
    shared = layers.Dense(4, name="shared")
    other_inputs = keras.Input((4,))
    keras.Model(other_inputs, shared(shared(other_inputs)))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(inputs))
    keras.Model(model.inputs, shared(model.output))
    assert rows(model) == [("shared", 0, ((None, 4),), ((None, 4),))]


def test_unknown_dimensions_stay_unknown_or_are_given():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 3, strides=2, name="conv")(inputs))
    assert rows(model) == [("conv", 0, ((None, None, None, 3),), ((None, None, None, 2),))]
    assert rows(model, input_shape=(9, 7, 3)) == [("conv", 0, ((None, 9, 7, 3),), ((None, 4, 3, 2),))]
    assert rows(model, input_shape=[9, None, 3]) == [("conv", 0, ((None, 9, None, 3),), ((None, 4, None, 2),))]


def test_a_fixed_batch_is_kept():
    inputs = keras.Input(batch_shape=(5, 4))
    assert rows(keras.Model(inputs, layers.Dense(2, name="dense")(inputs))) == [("dense", 0, ((5, 4),), ((5, 2),))]


def test_types_of_numbers():
    inputs = keras.Input((6,), dtype="int32")
    looked_up = layers.Embedding(10, 4, dtype="mixed_bfloat16")(inputs)
    graph = trace(keras.Model(inputs, looked_up))
    assert [tensor.dtype for tensor in (*graph.inputs, *graph.outputs)] == ["int32", "bfloat16"]


def test_a_nested_model_casts_its_inputs():
    inside = keras.Input((4,))
    inner = keras.Model(inside, keras.ops.add(inside, inside))
    inputs = keras.Input((4,), dtype="uint8")
    graph = trace(keras.Model(inputs, inner(inputs)))
    assert [tensor.dtype for tensor in (*graph.inputs, *graph.outputs)] == ["uint8", "float32"]


def test_the_model_is_left_as_it_was():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(inner(layers.Dropout(0.5)(inputs))))
    model.compile("sgd", "mse")
    before = json.dumps(model.get_config()), [variable.numpy() for variable in model.variables]
    layer = inner.layers[0]
    output = layer.output
    calls(model)
    assert json.dumps(model.get_config()) == before[0]
    assert layer.output is output  # raises if the layer has been called again
    for variable, value in zip(model.variables, before[1], strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_names_that_keras_gives_to_later_layers_do_not_depend_on_it():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.Sequential([layers.Dense(4)])(inputs) + 1)

    def numbers():
        parts = layers.Dense(1), layers.InputLayer((4,)), keras.Sequential(), keras.Model(inputs, layers.ReLU()(inputs))
        return np.array([int(part.name.rsplit("_", 1)[-1]) for part in parts])

    numbers()  # the first layer of a kind has no number
    before = numbers()
    calls(model)
    np.testing.assert_array_equal(numbers(), before + 1)


def subclassed():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    return Subclassed(name="mine")


class Doubled(keras.Model):
    """A functional model that does not only compute its graph."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


class DoubledSequence(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def doubled():
    inputs = keras.Input((4,))
    return Doubled(inputs, layers.Dense(2)(inputs), name="double")


def test_a_functional_model_with_a_call_of_its_own_is_one_call():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, doubled()(inputs))
    assert [call.path for call in calls(model)] == ["double"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (subclassed, r"`model` \(='mine', a Subclassed\) must be a functional Keras model"),
        (doubled, r"`model` \(='double', a Doubled\) must be .* without a `call` of its own"),
        (
            lambda: DoubledSequence([keras.Input((4,)), layers.Dense(2)], name="twice"),
            r"`model` \(='twice', a DoubledSequence\) must be",
        ),
        (lambda: keras.Sequential([layers.Dense(2)], name="unbuilt"), r"`model` \(='unbuilt'\) must be built"),
        (lambda: "hscnet", r"`model` \(='hscnet'\) must be a Keras model, not its name or file: create it with "),
        (lambda: layers.Dense(2, name="dense"), r"`model` \(=<Dense name=dense.*\) must be a functional Keras model"),
    ],
)
def test_non_functional_model_raises_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        calls(make())


@pytest.mark.parametrize("input_shape", [(8, 8, 4), (8, 3), 8, (0, 8, 3), ("8", 8, 3), (None, 8, 8, 3)])
def test_an_input_shape_that_does_not_match_raises_an_error(input_shape):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.ReLU()(inputs), name="open")
    with pytest.raises(
        ValueError, match=r"`input_shape` \(=.*\) must agree with the inputs of 'open' \(=\(None, None, 3\)"
    ):
        calls(model, input_shape=input_shape)


def test_one_input_shape_for_each_input():
    left, right = keras.Input((None, 2)), keras.Input((None, 3))
    single = keras.Model(left, layers.ReLU(name="relu")(left))
    assert rows(single, input_shape=tuple(np.array([7, 2]))) == [("relu", 0, ((None, 7, 2),), ((None, 7, 2),))]
    model = keras.Model([left, right], layers.Concatenate(name="joined")([left, right]), name="two")
    shapes = ((None, 7, 2), (None, 7, 3))
    assert rows(model, input_shape=[(7, 2), (7, 3)]) == [("joined", 0, shapes, ((None, 7, 5),))]
    for wrong in [(7, 2), ((7, 2),), ((7, 2), (7, 2)), 7]:
        with pytest.raises(ValueError, match=r"`input_shape` .* must agree with the inputs of 'two'"):
            calls(model, input_shape=wrong)
