"""Random weights that make an untrained network resemble a trained one in speed and file size."""

from __future__ import annotations

import keras
import numpy as np


def randomize_batchnorm(model: keras.Model, *, negative_share: float = 0.0, images: np.ndarray | None = None) -> None:
    """Sets random scales and offsets, and matching moving statistics, in every `BatchNormalization` of a model.

    Args:
        model: functional model for images; its normalizations are changed in place.
        negative_share: share of negative scales. Training produces some, and they can make a file larger.
        images: `(n, height, width, channels)`, which determine the statistics; `None` for [`random_images`].
    """
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        channels = norm.moving_mean.shape[0]
        sign = np.where(random.random(channels) < negative_share, -1, 1)
        # With offsets around 0, rounding errors would grow a hundredfold with depth, unlike in a trained network.
        scales, offsets = sign * random.uniform(0.5, 1.5, channels), random.normal(0.5, 0.3, channels)
        if norm.scale:
            norm.gamma.assign(scales)
        if norm.center:
            norm.beta.assign(offsets)
        # Without momentum, a single batch sets the statistics.
        norm.momentum = 0.0
    model(random_images(model) if images is None else images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def random_images(model: keras.Model, count: int = 16) -> np.ndarray:
    """Normally distributed random images `(count, height, width, channels)` for a model, as float32."""
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")
