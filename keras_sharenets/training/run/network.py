"""A named network for a data set: raw pixels in, class probabilities out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import keras
import numpy as np

from keras_sharenets.layers.whitening import Whitening, whitening_statistics
from keras_sharenets.models import create_model
from keras_sharenets.models.registry import current_arguments, own_arguments
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.data.dataset import Dataset, chunks
from keras_sharenets.training.recipes.recipe import Recipe

FROM_DATA = ("num_classes", "input_shape", "input_tensor", "include_preprocessing")
FIXED = ("include_top", "pooling", "classifier_activation", "name")
FANS = {"he_fan_in": "fan_in", "he_fan_out": "fan_out"}


def build(
    model_name: str,
    dataset: Dataset,
    options: Mapping[str, object] | None = None,
    recipe: Recipe | None = None,
) -> keras.Model:
    """The network, with a normalization of the data set's pixels as its first layer.

    Args:
        model_name: one of `keras_sharenets.list_models()`.
        dataset: gives the number of classes, the shape, the mean and the variance.
        options: further arguments of the family's factory.
        recipe: gives the size of crops, the dropout, the normalization and the initialization. `None`: the data set's
            shape, the network's own initialization, mean 0 and variance 1.

    Returns:
        A functional model from float images with values from 0 to 255 to probabilities.

    Raises:
        ValueError: the model or an option is unknown (the nearest names are offered), an option is not to be chosen, or
            breaks a rule of the network, or the recipe does not fit network or data.
    """
    options = current_arguments(options or {})
    if recipe is not None and recipe.dropout:
        options = {"dropout_rate": recipe.dropout} | options
    check_options(model_name, options)
    inputs = keras.Input(input_shape(dataset, recipe), name="images")
    if recipe is not None and recipe.normalization == "zca":
        statistics = whitening_statistics(map(np.asarray, chunks(dataset.train)), inputs.shape[1:])
        whitening = Whitening(name="normalize")
        normalized = whitening(inputs)
        whitening.set_weights(statistics)
    else:
        normalized = keras.layers.Normalization(mean=dataset.mean, variance=dataset.variance, name="normalize")(inputs)
    classes = len(dataset.class_names)
    network = create_model(
        model_name, input_tensor=normalized, include_preprocessing=False, num_classes=classes, **options
    )
    initialize(network, "network" if recipe is None else recipe.initialization)
    return network


def check_options(model_name: str, options: Iterable[str]) -> None:
    """Raises a `ValueError` unless the factory of the network takes all these options from a user."""
    known = own_arguments(model_name)
    for name in current_arguments(dict.fromkeys(options)):
        if name in FROM_DATA:
            raise ValueError(f"The model option `{name}` cannot be given: it follows from the data.")
        if name in FIXED:
            raise ValueError(f"The model option `{name}` cannot be given: a trained network is a named classifier.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
            raise ValueError(f"{model_name} has no option `{name}`. Did you mean {', '.join(map(repr, near))}?")


def initialize(network: keras.Model, how: str) -> None:
    """Draws the kernels of all convolutions anew: normal, with a variance of 2 / fan.

    Args:
        network: its convolutions are all `keras.layers.Conv2D`.
        how: `"network"` for nothing at all, `"he_fan_in"` or `"he_fan_out"`.

    Raises:
        ValueError: a layer with filters is of another kind: what its fan is, only its own initializer knows. Nothing
            has been changed then.
    """
    if how == "network":
        return
    layers = [layer for layer in network.layers if any(len(weight.shape) > 2 for weight in layer.trainable_weights)]
    for layer in layers:
        if type(layer) is not keras.layers.Conv2D:
            raise ValueError(
                f"`initialization` (={how!r}) is for ordinary convolutions, and {layer.name!r} is a "
                f"{type(layer).__name__}: choose 'network'."
            )
    for layer in layers:
        initializer = keras.initializers.VarianceScaling(2, FANS[how], "untruncated_normal")
        layer.kernel.assign(initializer(layer.kernel.shape))
