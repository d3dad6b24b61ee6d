"""The rules by which papers count parameters. A shared tensor counts once, moving statistics never."""

import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets.analysis.filters import is_convolution
from keras_sharenets.layers.quantized_kernels import inner

# Convolutions that `is_convolution` does not cover: their filters are not those of one two-dimensional kernel.
_OTHER_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def _parameters(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, keras.Variable]]:
    """The parameters of a model with their layers; nested models are expanded."""
    # A subclass may have weights of its own.
    yield from ((model, weight) for weight in model._trainable_variables if weight.trainable or not model.trainable)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _parameters(layer)
        else:
            yield from ((layer, weight) for weight in parameters_of(layer))


def parameters_of(operation: Any) -> tuple[keras.Variable, ...]:
    """The trainable weights of a layer, including those that are frozen with the layer or with a layer inside it."""
    if not isinstance(operation, keras.layers.Layer):
        return ()
    # `weights` of a frozen layer are all non-trainable. A layer keeps those that it would train in a separate list.
    frozen = {
        id(weight)
        for layer in operation._flatten_layers()
        if not layer.trainable
        for weight in layer._trainable_variables
    }
    return tuple(
        weight
        for weight in operation.weights
        # The scales of float8 are trainable for Keras, but replaced in each step.
        if (weight.trainable or id(weight) in frozen) and not getattr(weight, "overwrite_with_gradient", False)
    )


def _is_convolution(layer: keras.layers.Layer) -> bool:
    return is_convolution(layer) or isinstance(inner(layer), _OTHER_CONVOLUTIONS)


def _is_normalization(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


# Each rule decides whether a weight of a layer counts.
RULES = {
    "trainable": lambda layer, weight: True,
    "trainable_without_bn": lambda layer, weight: not _is_normalization(layer),
    "conv_kernels": lambda layer, weight: _is_convolution(layer) and len(weight.shape) > 1,
    "conv_kernels_and_biases": lambda layer, weight: _is_convolution(layer),
}


def count_parameters(model: keras.Model, rule: str = "trainable") -> int:
    """Counts the parameters of a model by the rule of a paper. Frozen layers count like others.

    Args:
        model: built `keras.Model`. Nested models are expanded; any other layer with sublayers counts as one layer.
        rule: `"trainable"` (all), `"trainable_without_bn"` (without scales and offsets of batch normalization),
            `"conv_kernels"` (convolutions of any kind without biases; no dense layers) or
            `"conv_kernels_and_biases"`.

    Returns:
        An int.

    Raises:
        ValueError: the rule is unknown, or the model is not built.

    >>> inputs = keras.Input((8, 8, 3))
    >>> model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs)))
    >>> [count_parameters(model, rule) for rule in RULES]
    [120, 112, 108, 112]
    """
    _checks.one_of("rule", rule, tuple(RULES))
    _checks.loaded("model", model)
    if not model.built:
        raise ValueError(f"`model` (='{model.name}') must be built: it has no weights yet.")
    counted = {
        id(weight): math.prod(weight.shape) for layer, weight in _parameters(model) if RULES[rule](layer, weight)
    }
    return sum(counted.values())
