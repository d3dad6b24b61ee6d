import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random

from keras_sharenets.analysis.copying import copy_network
from keras_sharenets.analysis.graph import rebuild, trace


def same(call, operation, *args, **kwargs):
    return operation(*args, **kwargs)


def nested():
    """Two inputs, a layer called twice, call arguments, a nested model, two outputs."""
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, keras.layers.Dense(4, name="inside")(inner_input), name="inner")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = keras.layers.Dense(4, name="shared")
    x = keras.layers.Concatenate(name="both", axis=-1)([shared(left), inner(shared(right))])
    return keras.Model([left, right], [x, keras.layers.Dense(2, name="end")(x)], name="whole")


def test_the_same_layers_give_the_same():
    model = nested()
    again = rebuild(model, trace(model), same)
    assert again.name == "whole"
    assert [layer.name for layer in again.layers[:2]] == ["left", "right"]
    assert {id(weight) for weight in again.weights} == {id(weight) for weight in model.weights}
    data = [pseudo_random((3, 4)), pseudo_random((3, 4), seed=1)]
    for actual, expected in zip(again(data), model(data), strict=True):
        assert_close(keras.ops.convert_to_numpy(actual), keras.ops.convert_to_numpy(expected), 1e-6)


@pytest.mark.parametrize("mode", [True, False])
def test_nested_models_stay_in_the_mode_of_their_call(mode):
    """As for Monte Carlo dropout; the mode of an outer call overrides that of an inner one, as in Keras."""
    x, inputs = keras.Input((100,)), keras.Input((100,))
    inner = keras.Model(x, keras.layers.Dropout(0.5)(keras.layers.ReLU()(x), training=not mode))
    middle = keras.Sequential([keras.Input((100,)), inner])
    model = keras.Model(inputs, middle(inputs, training=mode))
    for network in (model, rebuild(model, trace(model), same)):
        assert (keras.ops.convert_to_numpy(network(np.ones((1, 100)))) == 0).any() == mode


def test_calls_and_inputs_can_be_changed():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(keras.layers.ReLU()(inputs)))
    seen = []

    def call(each, operation, *args, **kwargs):
        seen.append((each.path, each.index))
        return args[0] if isinstance(operation, keras.layers.ReLU) else operation(*args, **kwargs)

    again = rebuild(model, trace(model), call, start=lambda tensor, symbol: keras.layers.Rescaling(2.0)(symbol))
    data = pseudo_random((5, 4))
    kernel, bias = model.get_weights()
    assert_close(outputs_of(again, data), 2 * data @ kernel + bias, 1e-5)
    assert [path for path, _ in seen][1] == "dense"
    assert np.all([index == 0 for _, index in seen])


def test_layers_of_nested_models_with_the_same_name_are_reported():
    inputs = keras.Input((4,))
    inner = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="dense")], name=name) for name in "ab"]
    model = keras.Model(inputs, inner[1](inner[0](inputs)), name="double")
    with pytest.raises(ValueError, match=r"`model` \(='double'\) must have different names.*: a/dense, b/dense\."):
        rebuild(model, trace(model), same)


def test_sequential():
    model = keras.Sequential([keras.Input((4,), name="start"), keras.layers.Dense(3)])
    again = rebuild(model, trace(model), same)
    data = pseudo_random((5, 4))
    assert_close(outputs_of(again, data), outputs_of(model, data), 1e-6)
    assert again.layers[0].name == "start"


def test_inputs_and_outputs_stay_in_their_lists_and_dicts():
    """A loss by output name needs the key of the output."""
    given = {name: keras.Input((4,), name=name) for name in ("right", "left")}
    x = keras.layers.Concatenate()(list(given.values()))
    model = keras.Model(given, {"kind": keras.layers.Dense(3)(x), "box": [keras.layers.Dense(2)(x), x]})
    data = {name: pseudo_random((3, 4), seed=len(name)) for name in given}
    expected = model(data)
    for again in (rebuild(model, trace(model), same), copy_network(model)):
        results = again(data)
        assert set(results) == {"kind", "box"}
        assert isinstance(results["box"], list)
        for actual, right in zip(keras.tree.flatten(results), keras.tree.flatten(expected), strict=True):
            assert_close(keras.ops.convert_to_numpy(actual), keras.ops.convert_to_numpy(right), 1e-6)


def test_a_copy_has_the_vocabulary_of_an_adapted_lookup():
    lookup = keras.layers.IntegerLookup(output_mode="one_hot")
    lookup.adapt(np.array([30, 10, 10, 20, 20, 20]))
    model = keras.Sequential([keras.Input((1,), dtype="int64"), lookup])
    # The most frequent value first, after the place of unknown values.
    expected = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    for network in (model, copy_network(model), copy_network(copy_network(model))):
        assert_close(network.predict(np.array([[20], [10], [30], [7]]), verbose=0), np.array(expected), 0)


def test_input_names_do_not_depend_on_the_order_of_use():
    """Also those of a nested model that gets its inputs by name."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    inner = keras.Model([right, left], keras.layers.Subtract()([left, right]), name="inner")
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    model = keras.Model([first, second], inner({"left": keras.layers.Dense(4)(second), "right": first}))
    data = {name: pseudo_random((3, 4), seed=seed) for seed, name in enumerate(("first", "second"))}
    kernel, bias = model.get_weights()
    expected = data["second"] @ kernel + bias - data["first"]
    assert_close(keras.ops.convert_to_numpy(rebuild(model, trace(model), same)(data)), expected, 1e-5)
