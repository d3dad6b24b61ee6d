from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import precision


class _FloatDense(keras.layers.Dense):
    """A dense layer that `model.quantize` skips with a warning, like any layer that it does not support.

    `SqueezeExcite` builds its dense layers in float, so it could not load quantized ones from a file.
    """

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        raise NotImplementedError(f"'{self.path}', a part of `SqueezeExcite`, stays in float.")


@keras.saving.register_keras_serializable("keras_sharenets")
class SqueezeExcite(keras.layers.Layer):
    """Squeeze-and-excitation: scales each channel by a factor between 0 and 1 computed from the whole image.

    The factors are computed by global average pooling, a dense layer with `channels / reduction` units and ReLU, and a
    dense layer with `channels` units and a sigmoid. Both dense layers have a bias.

    Args:
        reduction: int, ratio of the number of channels to the number of units of the first dense layer; must divide
            the number of channels.

    Input and output shape: `(batch, height, width, channels)`; always channels last, whatever the Keras setting.

    Stored parameters:
        With `h = channels / reduction`: `2 * channels * h + channels + h`.

    Raises:
        ValueError: `reduction` is not a positive integer, or does not divide the number of channels.

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
        dense.trainable = self.trainable  # A layer that is frozen before it is built does not freeze its parts.
        return dense

    def call(self, inputs: Tensor) -> Tensor:
        # In full precision: the mean over pixels, and the scales, whose gradients are sums over pixels.
        pixels = precision.full(inputs)
        scales = precision.full(self.excite(self.squeeze(ops.mean(pixels, axis=(1, 2)))))
        outputs = ops.multiply(pixels, ops.reshape(scales, (-1, 1, 1, inputs.shape[-1])))
        return ops.cast(outputs, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}
