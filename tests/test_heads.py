"""The kind of head of a network, inferred from its last layers, and the decisions of each kind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_sharenets.heads import SIGMOID, SOFTMAX, head_of, head_of_end
from keras_sharenets.layers import FakeQuantize


def ending_in(*end):
    return keras.Sequential([keras.Input((4, 4, 3)), layers.GlobalAveragePooling2D(), *end])


def one_layer_a_label(activations=("sigmoid",) * 3):
    inputs = keras.Input((4, 4, 3))
    x = layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, layers.Concatenate()([layers.Dense(1, activation=each)(x) for each in activations]))


def as_an_operation():
    inputs = keras.Input((4, 4, 3))
    x = layers.Dense(1)(layers.GlobalAveragePooling2D()(inputs))
    return keras.Model(inputs, keras.ops.sigmoid(x))


class Subclassed(keras.Model):
    """A model with unknown calls."""

    output_shape = (None, 3)


@pytest.mark.parametrize(
    ("model", "kind", "classes"),
    [
        (lambda: ending_in(layers.Dense(3, activation="softmax")), "multiclass", 3),
        (lambda: ending_in(layers.Dense(3), layers.Softmax()), "multiclass", 3),
        (lambda: ending_in(layers.Dense(2)), "multiclass", 2),
        (lambda: ending_in(layers.Dense(1, activation="sigmoid")), "binary", 2),
        (lambda: ending_in(layers.Dense(1, activation=keras.ops.sigmoid)), "binary", 2),
        (lambda: ending_in(layers.Dense(1, activation=tf.nn.sigmoid)), "binary", 2),
        (lambda: ending_in(layers.Dense(3, activation=tf.nn.softmax)), "multiclass", 3),
        (lambda: ending_in(layers.Dense(3, activation=layers.Activation("sigmoid"))), "multilabel", 3),
        (lambda: ending_in(layers.Dense(1), layers.Activation("sigmoid", dtype="float32")), "binary", 2),
        (lambda: ending_in(layers.Dense(1, "sigmoid"), FakeQuantize()), "binary", 2),
        (
            lambda: ending_in(keras.Sequential([layers.Dense(1, activation="sigmoid")]), layers.Dropout(0.5)),
            "binary",
            2,
        ),
        (as_an_operation, "binary", 2),
        (lambda: ending_in(layers.Dense(3, activation="sigmoid"), layers.Activation("linear")), "multilabel", 3),
        (one_layer_a_label, "multilabel", 3),
        (lambda: one_layer_a_label(("sigmoid", None)), "multiclass", 2),
        (lambda: ending_in(layers.Dense(1)), "value", 0),
        (lambda: ending_in(layers.Dense(1, activation="softmax")), "value", 0),
        (lambda: ending_in(layers.Dense(1, activation="sigmoid"), layers.Rescaling(100)), "value", 0),
        (Subclassed, "multiclass", 3),
    ],
)
def test_kind(model, kind, classes):
    head = head_of(model())
    assert (head.kind, head.classes) == (kind, classes)


BINARY, MULTILABEL, VALUE = head_of_end(SIGMOID, 1), head_of_end(SIGMOID, 3), head_of_end(None, 1)


def test_one_sigmoid_distinguishes_two_classes():
    outputs = np.array([[0.1], [0.5], [0.500001], [0.9]], "float32")
    assert BINARY.decide(outputs).tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(BINARY.by_class(outputs)[:, ::-1], np.concatenate([outputs, 1 - outputs], axis=1))
    assert BINARY.correct(outputs, np.array([0, 1, 1, 0])).tolist() == [True, False, True, False]
    assert BINARY.agreement(outputs, outputs) == 1.0
    assert BINARY.agreement(outputs, 1 - outputs) == 0.25


def test_multilabel_classes_are_independent():
    outputs = np.array([[0.9, 0.8, 0.1], [0.1, 0.6, 0.2], [0.1, 0.2, 0.3]])
    assert MULTILABEL.decide(outputs).tolist() == [[True, True, False], [False, True, False], [False, False, False]]
    assert MULTILABEL.correct(outputs, np.array([0, 1, 2])).tolist() == [False, True, False]
    # The largest output is the same, but a class below 0.5 is absent.
    assert MULTILABEL.agreement(outputs, outputs * [1, 0.5, 1]) == pytest.approx(1 / 3)


def test_a_value_has_no_classes():
    outputs = np.array([[3.0], [-2.0]])
    assert VALUE.decide(outputs) is VALUE.agreement(outputs, outputs) is None
    with pytest.raises(ValueError, match="it has no classes"):
        VALUE.correct(outputs, np.array([0, 1]))


@pytest.mark.parametrize(
    ("head", "names", "message"),
    [
        (BINARY, ["dog"], r"has 1 entry, but the network has 2 classes, since its single sigmoid distinguishes two"),
        (MULTILABEL, ["a", "b"], "has 2 entries, but the network has 3 classes"),
        (head_of_end(SOFTMAX, 3), "abc", "must be a sequence of strings, not one string"),
        (head_of_end(SOFTMAX, 3), {"a", "b", "c"}, "in the order of the classes, not a set"),
        (head_of_end(SOFTMAX, 2), {"a": 1, "b": 0}, "in the order of the classes, not a dict"),
        (head_of_end(SOFTMAX, 2), ["a", "b\0c"], "must be a non-empty single-line string"),
        (VALUE, ["cat", "dog"], "one unit without a sigmoid, a regression or a logit, which has no classes: add a"),
    ],
)
def test_names_that_do_not_fit(head, names, message):
    with pytest.raises(ValueError, match=message):
        head.check_names(names)
