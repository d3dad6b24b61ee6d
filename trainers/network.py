"""A named network for a data set: raw pixels in, class probabilities out."""

import difflib
import inspect

import keras

from keras_sharenets.models import create_model, find_variant

FROM_DATA = ("num_classes", "input_shape", "input_tensor")
FIXED = ("include_top", "pooling", "classifier_activation", "name")


def build(model_name, dataset, options=None):
    """The network, with a normalisation of the data set's pixels as its first layer.

    Args:
        model_name: str, one of `keras_sharenets.list_models()`.
        dataset: `Dataset`; gives the number of classes, the shape, the mean and the variance.
        options: dict, further arguments of the family's factory.

    Returns:
        A functional `keras.Model` from float pictures with values from 0 to 255 to probabilities.

    Raises:
        ValueError: the model or an option is unknown (the nearest names are offered), an option is not to be chosen, or
            breaks a rule of the network.
    """
    options = dict(options or {})
    check_options(model_name, options)
    inputs = keras.Input(dataset.shape, name="images")
    normalised = keras.layers.Normalization(mean=dataset.mean, variance=dataset.variance, name="normalise")(inputs)
    return create_model(model_name, input_tensor=normalised, num_classes=len(dataset.class_names), **options)


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
