"""The rules by which papers count parameters. A shared tensor counts once, moving statistics never."""

import math
from collections.abc import Iterator

import keras

from keras_sharenets import _checks
from keras_sharenets.analysis.filters import is_convolution


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model, with nested models expanded."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _is_normalization(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


# Each rule decides whether a weight of a layer counts.
RULES = {
    "trainable": lambda layer, weight: True,
    "trainable_without_bn": lambda layer, weight: not _is_normalization(layer),
    "conv_kernels": lambda layer, weight: is_convolution(layer) and len(weight.shape) > 1,
    "conv_kernels_and_biases": lambda layer, weight: is_convolution(layer),
}


def count_parameters(model: keras.Model, rule: str = "trainable") -> int:
    """Counts the trainable parameters of a model by the rule of a paper.

    Args:
        model: built `keras.Model`. Nested models are expanded; any other layer with sublayers counts as one layer.
        rule: `"trainable"` (all), `"trainable_without_bn"` (without scales and offsets of batch normalization),
            `"conv_kernels"` (convolutions of any kind without biases; no dense layers) or
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
