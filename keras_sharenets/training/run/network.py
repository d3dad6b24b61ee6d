"""A named network for a data set: raw pixels in, class probabilities out."""

import difflib
import inspect

import keras

from keras_sharenets.layers.whitening import Whitening, whitening_statistics
from keras_sharenets.models import create_model, find_variant
from keras_sharenets.training.data.dataset import chunks
from keras_sharenets.training.run.initialization import initialize

FROM_DATA = ("num_classes", "input_shape", "input_tensor")
FIXED = ("include_top", "pooling", "classifier_activation", "name")


def input_shape(dataset, recipe=None):
    """`(height, width, channels)` of what the network sees: the recipe's crops, or the pictures of the `Dataset`.

    Raises:
        ValueError: the pictures have many sizes and are not cropped.
    """
    *sides, channels = dataset.shape
    if recipe is not None and recipe.crop_size:
        sides = [recipe.crop_size] * 2
    if None in sides:
        raise ValueError(
            f"The pictures of {dataset.name} have sizes of their own: give an `input_shape` to which all are resized, "
            "or a recipe with a `crop_size`."
        )
    return (*sides, channels)


def build(model_name, dataset, options=None, recipe=None):
    """The network, with a normalisation of the data set's pixels as its first layer.

    Args:
        model_name: str, one of `keras_sharenets.list_models()`.
        dataset: `Dataset`; gives the number of classes, the shape, the mean and the variance.
        options: dict, further arguments of the family's factory.
        recipe: `Recipe`; gives the size of crops, the dropout, the normalisation and the initialisation. `None`: the
            data set's shape, the network's own initialisation, mean 0 and variance 1.

    Returns:
        A functional `keras.Model` from float pictures with values from 0 to 255 to probabilities.

    Raises:
        ValueError: the model or an option is unknown (the nearest names are offered), an option is not to be chosen, or
            breaks a rule of the network, or the recipe does not fit network or data.
    """
    options = dict(options or {})
    if recipe is not None and recipe.dropout:
        options = {"dropout_rate": recipe.dropout} | options
    check_options(model_name, options)
    inputs = keras.Input(input_shape(dataset, recipe), name="images")
    if recipe is not None and recipe.normalization == "zca":
        statistics = whitening_statistics(chunks(dataset.train), dataset.shape)
        whitening = Whitening(name="normalise")
        normalised = whitening(inputs)
        whitening.set_weights(statistics)
    else:
        normalised = keras.layers.Normalization(mean=dataset.mean, variance=dataset.variance, name="normalise")(inputs)
    network = create_model(model_name, input_tensor=normalised, num_classes=len(dataset.class_names), **options)
    initialize(network, "network" if recipe is None else recipe.initialization)
    return network


def check_options(model_name, options):
    """Raises a `ValueError` unless the factory of the network takes all these options from a user."""
    known = set(inspect.signature(find_variant(model_name).factory).parameters) - {*FROM_DATA, *FIXED}
    for name in options:
        if name in FROM_DATA:
            raise ValueError(f"The model option `{name}` cannot be given: it follows from the data.")
        if name in FIXED:
            raise ValueError(f"The model option `{name}` cannot be given: a trained network is a named classifier.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
            raise ValueError(f"{model_name} has no option `{name}`. Did you mean {', '.join(map(repr, near))}?")
