"""The networks that are measured: with random weights, and statistics as after training."""

import keras

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import SCALES, pictures, randomize_batchnorm  # noqa: F401
from keras_sharenets.models import find_variant
from keras_sharenets.models.registry import VARIANTS


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
    randomize_batchnorm(model, scales)
    return model


def find_twin(name):
    """The named network that differs from another in nothing but that it shares nothing; `None` if there is none.

    >>> find_twin("sharesnet_164"), find_twin("hgcnet_42_g4")
    ('resnet_164', None)
    """
    variant = find_variant(name)
    if variant.arguments.get("share", "none") == "none":
        return None
    unshared = {**variant.arguments, "share": "none"}
    twins = (key for key, other in VARIANTS.items() if (other.factory, other.arguments) == (variant.factory, unshared))
    return next(twins, None)
