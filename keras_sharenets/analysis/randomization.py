"""Untrained networks like trained ones, as far as their speed and their files go."""

import keras
import numpy as np

# Share of the normalizations' scales that are negative: training makes some so.
SCALES = {"positive": 0.0, "mixed": 0.02}


def randomize_batchnorm(model, scales="positive"):
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
