"""The networks that are measured: with random weights, and statistics as after training."""

import keras
import numpy as np

import keras_sharenets as ksn
from keras_sharenets.models import find_variant
from keras_sharenets.models.registry import VARIANTS

# Share of the normalisations' scales that are negative: training makes some so.
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
    like_trained(model, scales)
    return model


def like_trained(model, scales="positive"):
    """Gives every `BatchNormalization` of a model random scales and shifts, and statistics of what flows through it."""
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        channels = norm.moving_mean.shape[0]
        sign = np.where(random.random(channels) < SCALES[scales], -1, 1)
        norm.gamma.assign(sign * random.uniform(0.5, 1.5, channels))
        # With shifts around 0, depth makes a difference of rounding a hundred times as large: training tames that.
        norm.beta.assign(random.normal(0.5, 0.3, channels))
        # Without momentum a single batch sets them.
        norm.momentum = 0.0
    model(pictures(model), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def pictures(model, count=16):
    """Random pictures `(count, height, width, channels)` for a model, float32."""
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")


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
