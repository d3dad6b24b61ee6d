"""The networks that are measured: with random weights, and statistics as after training."""

import keras

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import random_images as pictures  # noqa: F401
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.models import find_variant

# Share of the normalizations' scales that are negative: training makes some so.
SCALES = {"positive": 0.0, "mixed": 0.02}


def build(name, scales="positive", **overrides):
    """A named network like a trained one, as far as its speed and its files go.

    Args:
        name: str, one of `keras_sharenets.list_models()`.
        scales: a key of `SCALES`.
        **overrides: as for `keras_sharenets.create_model`.

    Returns:
        A functional `keras.Model`.
    """
    keras.utils.set_random_seed(0)
    model = ksn.create_model(name, **overrides)
    randomize_batchnorm(model, negative_share=SCALES[scales])
    return model


def find_twin(name):
    """The name of a named network's unshared baseline; `None` if there is none.

    >>> find_twin("sharesnet_164"), find_twin("hgcnet_42_g4")
    ('resnet_164', None)
    """
    return find_variant(name).unshared
