"""Untrained networks like trained ones, as far as their speed and their files go."""

from __future__ import annotations

import keras
import numpy as np


def randomize_batchnorm(model: keras.Model, *, negative_share: float = 0.0) -> None:
    """Gives every `BatchNormalization` of a model statistics of what flows through it, and random scales and offsets.

    Args:
        model: functional model for images; its normalizations are changed.
        negative_share: share of the scales that are negative: training makes some so, and a file may hold more for
            them.
    """
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        channels = norm.moving_mean.shape[0]
        sign = np.where(random.random(channels) < negative_share, -1, 1)
        # With offsets around 0, depth makes a difference of rounding a hundred times as large: training tames that.
        scales, offsets = sign * random.uniform(0.5, 1.5, channels), random.normal(0.5, 0.3, channels)
        if norm.scale:
            norm.gamma.assign(scales)
        if norm.center:
            norm.beta.assign(offsets)
        # Without momentum a single batch sets them.
        norm.momentum = 0.0
    model(random_images(model), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_images(model: keras.Model, count: int = 16) -> np.ndarray:
    """Random images `(count, height, width, channels)` for a model, float32, normally distributed."""
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")
