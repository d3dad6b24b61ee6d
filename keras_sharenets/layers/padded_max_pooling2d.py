from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_sharenets")
class PaddedMaxPooling2D(keras.layers.Layer):
    """Max pooling with `(pool_size - 1) / 2` pixels of padding on every side, as in the stems of ImageNet networks.

    `keras.layers.MaxPooling2D(padding="same")` pads an even image only at the bottom and right, which shifts a 3x3
    window at stride 2 by one pixel. This layer pads with the neighboring pixels. They lie in the same window, so the
    maximum is the same as with a padding of minus infinity, without an infinity in the graph.

    Args:
        pool_size: int, odd, size of the pooling window.
        strides: int, strides of the pooling.

    Input shape: `(batch, height, width, channels)`. The layer has no weights.
    Output shape: `(batch, (height - 1) // strides + 1, (width - 1) // strides + 1, channels)`.

    Raises:
        ValueError: `pool_size` is even, or an argument is not a positive integer.

    >>> import keras
    >>> tuple(PaddedMaxPooling2D(3, strides=2)(keras.ops.ones((1, 112, 112, 64))).shape)
    (1, 56, 56, 64)
    """

    def __init__(self, pool_size: int, *, strides: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.pool_size = _checks.positive("pool_size", pool_size)
        self.strides = _checks.positive("strides", strides)
        if pool_size % 2 == 0:
            raise ValueError(f"`pool_size` (={pool_size}) must be odd.")
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs: Tensor) -> Tensor:
        borders = self.borders(inputs.shape)
        inputs = ops.pad(inputs, ((0, 0), *((border, border) for border in borders), (0, 0)), mode="symmetric")
        windows = tuple(2 * border + 1 for border in borders)
        return ops.max_pool(inputs, windows, self.strides, padding="valid", data_format="channels_last")

    def borders(self, input_shape: Shape) -> tuple[int, int]:
        """The pixels of padding at the top and bottom, and at the left and right.

        The window has `2 * border + 1` pixels. On a side of at most half of `pool_size`, each window covers the whole
        side: a smaller window has the same maximum, and its border can be mirrored.
        """
        half = self.pool_size // 2
        rows, columns = (half if side is None else min(half, side - 1) for side in input_shape[1:3])
        return rows, columns

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, channels = input_shape
        return (batch, *[side and (side - 1) // self.strides + 1 for side in sides], channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool_size": self.pool_size, "strides": self.strides}
