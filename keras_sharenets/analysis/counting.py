"""What papers count when they count the parameters of a network. A shared tensor counts once, statistics never."""

import math
from collections.abc import Iterator

import keras

from keras_sharenets import _checks
from keras_sharenets.analysis.filters import is_convolution


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model, those of models inside it in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _is_normalization(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


# Rule: does this weight of this layer count?
RULES = {
    "trainable": lambda layer, weight: True,
    "trainable_without_bn": lambda layer, weight: not _is_normalization(layer),
    "conv_kernels": lambda layer, weight: is_convolution(layer) and len(weight.shape) > 1,
    "conv_kernels_and_biases": lambda layer, weight: is_convolution(layer),
}


def count_parameters(model: keras.Model, rule: str = "trainable") -> int:
    """The trainable parameters of a model that a paper's rule counts.

    Args:
        model: `keras.Model`, built. Models inside it are opened; any other layer of layers counts as a whole.
        rule: `"trainable"` (all), `"trainable_without_bn"` (without scales and offsets of batch normalization),
            `"conv_kernels"` (convolutions of any kind without their biases; no dense layer) or
            `"conv_kernels_and_biases"`.

    Returns:
        An int.

    Raises:
        ValueError: the rule is unknown.

    >>> inputs = keras.Input((8, 8, 3))
    >>> model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs)))
    >>> [count_parameters(model, rule) for rule in RULES]
    [120, 112, 108, 112]
    """
    _checks.one_of("rule", rule, tuple(RULES))
    counted = {
        id(weight): math.prod(weight.shape)
        for layer in _layers(model)
        for weight in layer.trainable_weights
        if RULES[rule](layer, weight)
    }
    return sum(counted.values())
