from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_sharenets")
class ChannelPadding(keras.layers.Layer):
    """Appends zero channels: the parameter-free shortcut of a residual network that widens.

    Args:
        channels: int, number of output channels; at least the number of input channels.

    Input shape: `(..., input channels)`. Output shape: `(..., channels)`. The layer has no weights.

    Raises:
        ValueError: `channels` is not a positive integer, or the input has more channels.

    >>> import numpy as np
    >>> np.asarray(ChannelPadding(3)(np.ones((1, 2)))).tolist()
    [[1.0, 1.0, 0.0]]

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, option A of section 4.2.
    """

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = _checks.positive("channels", channels)

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        self.compute_output_shape(inputs.shape)
        widths = [(0, 0)] * (len(inputs.shape) - 1) + [(0, self.channels - inputs.shape[-1])]
        return ops.pad(inputs, widths)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if _checks.positive("input_shape[-1]", input_shape[-1]) > self.channels:
            raise ValueError(
                f"`channels` (={self.channels}) must be at least the number of input channels (={input_shape[-1]})."
            )
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}
