from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import precision


class _FloatDense(keras.layers.Dense):
    """A dense layer that `model.quantize` leaves out, as it does layers that it does not know, with a warning.

    `SqueezeExcite` builds its dense layers itself, in float: from a file it could not build them otherwise.
    """

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        raise NotImplementedError(f"'{self.path}', a part of `SqueezeExcite`, stays in float.")


@keras.saving.register_keras_serializable("keras_sharenets")
class SqueezeExcite(keras.layers.Layer):
    """Scales every channel by a number between 0 and 1 that depends on the whole image.

    Global average pooling, a dense layer to `channels / reduction` with ReLU, a dense layer back with a sigmoid, both
    with bias; then the input times the result.

    Args:
        reduction: int, channels of the input divided by those between the dense layers; must divide the channels.

    Input and output shape: `(batch, height, width, channels)`, channels last whatever the Keras setting.

    Stored parameters:
        With `h = channels / reduction`: `2 * channels * h + channels + h`.

    Raises:
        ValueError: `reduction` is not a positive integer, or does not divide the channels.

    >>> import keras
    >>> layer = SqueezeExcite(reduction=8)
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 48))).shape)
    (1, 8, 8, 48)
    >>> layer.count_params() == 2 * 48 * 6 + 48 + 6
    True

    Reference: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
    """

    def __init__(self, reduction: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.reduction = _checks.positive("reduction", reduction)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"The last axis of the input must be known, got shape {tuple(input_shape)}.")
        _checks.positive("input_shape[-1]", channels)
        _checks.divides("reduction", self.reduction, "the number of input channels", channels)
        hidden = channels // self.reduction
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.squeeze = self._dense(channels, hidden, "relu", "squeeze")
        self.excite = self._dense(hidden, channels, "sigmoid", "excite")

    def _dense(self, inputs: int, units: int, activation: str, name: str) -> keras.layers.Dense:
        dense = _FloatDense(units, activation, kernel_initializer="he_normal", dtype=self.variable_dtype, name=name)
        dense.build((None, inputs))
        return dense

    def call(self, inputs: Tensor) -> Tensor:
        # Means over pixels, and scales whose gradients are sums over pixels, in full precision.
        pixels = precision.full(inputs)
        scales = precision.full(self.excite(self.squeeze(ops.mean(pixels, axis=(1, 2)))))
        outputs = ops.multiply(pixels, ops.reshape(scales, (-1, 1, 1, inputs.shape[-1])))
        return ops.cast(outputs, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}
