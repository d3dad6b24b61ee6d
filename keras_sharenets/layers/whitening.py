"""Whitening: contrast normalization of each image, then decorrelation of its values."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor

LIMIT = 4096  # Values per image. The matrix has the square of that: 64 MiB.
# As far as known, the constants of PyLearn2, whose whitened CIFAR the ShaResNet paper trained on.
CONTRAST, FILTER = 10.0, 0.1


@keras.saving.register_keras_serializable("keras_sharenets")
class Whitening(keras.layers.Layer):
    """Global contrast normalization followed by ZCA whitening: `(g(x) - mean) @ matrix` over all values of an image.

    `g` subtracts the mean of the image and divides by `sqrt(10 + variance)`. The non-trainable weights are `mean`
    `(d,)` and `matrix` `(d, d)` for `d` values per image. They are initialized to 0 and the identity;
    `whitening_statistics` computes them for a data set.

    Input and output shape: `(batch, height, width, channels)`.

    Raises:
        ValueError: a side is unknown, or an image has more than 4,096 values.

    >>> layer = Whitening()
    >>> tuple(layer(keras.ops.ones((1, 4, 4, 3))).shape), layer.count_params() == 48 + 48**2
    ((1, 4, 4, 3), True)
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        values = math.prod(_checks.positive("input_shape[1:]", side) for side in input_shape[1:])
        if values > LIMIT:
            raise ValueError(f"`input_shape` (={tuple(input_shape)}) must have at most {LIMIT} values per image.")
        self.mean = self.add_weight(shape=(values,), initializer="zeros", trainable=False, name="mean")
        self.matrix = self.add_weight(shape=(values, values), initializer="identity", trainable=False, name="matrix")

    def call(self, inputs: Tensor) -> Tensor:
        flat = ops.reshape(inputs, (-1, self.mean.shape[0]))
        flat = flat - ops.mean(flat, axis=1, keepdims=True)
        flat = flat / ops.sqrt(CONTRAST + ops.mean(ops.square(flat), axis=1, keepdims=True))
        return ops.reshape(ops.matmul(flat - self.mean, self.matrix), (-1, *inputs.shape[1:]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def whitening_statistics(chunks: Iterable[np.ndarray], shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Computes the weights of `Whitening` for a data set.

    Args:
        chunks: iterable of uint8 arrays `(n, *shape)`, the training images.
        shape: `(height, width, channels)` of an image.

    Returns:
        `(mean, matrix)`, float32 arrays.

    Raises:
        ValueError: an image has more than 4,096 values.
    """
    values = int(np.prod(shape))
    if values > LIMIT:
        raise ValueError(f"`normalization` (='zca') is for images of at most {LIMIT} values; these have {values}.")
    count, total, products = 0, np.zeros(values), np.zeros((values, values))
    for pixels in chunks:
        flat = pixels.reshape(len(pixels), -1).astype("float64")
        flat -= flat.mean(axis=1, keepdims=True)
        flat /= np.sqrt(CONTRAST + np.square(flat).mean(axis=1, keepdims=True))
        count += len(flat)
        total += flat.sum(axis=0)
        products += flat.T @ flat
    mean = total / count
    variances, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    matrix = (directions / np.sqrt(np.maximum(variances, 0) + FILTER)) @ directions.T
    return mean.astype("float32"), matrix.astype("float32")
