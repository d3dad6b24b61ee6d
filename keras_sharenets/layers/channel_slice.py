import numbers
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_sharenets")
class ChannelSlice(keras.layers.Layer):
    """Selects the channels from `start` (inclusive) to `stop` (exclusive).

    Two such layers split the channels: one part goes through a branch, the other bypasses it.

    Args:
        start: int, first channel; at least 0.
        stop: int, end of the slice; above `start` and at most the number of channels.

    Input shape: `(..., channels)`. Output shape: `(..., stop - start)`. The layer has no weights.

    Raises:
        ValueError: an argument violates one of these rules.

    >>> import numpy as np
    >>> np.asarray(ChannelSlice(1, 3)(np.arange(4.0)[None])).tolist()
    [[1.0, 2.0]]

    Reference: Ma et al., "ShuffleNet V2", ECCV 2018, figure 3c.
    """

    def __init__(self, start: int, stop: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.stop = _checks.positive("stop", stop)
        if isinstance(start, bool) or not isinstance(start, numbers.Integral) or not 0 <= start < stop:
            raise ValueError(f"`start` (={start!r}) must be an integer of at least 0 and below `stop` (={stop}).")
        self.start = int(start)

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        self.compute_output_shape(inputs.shape)
        return inputs[..., self.start : self.stop]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if _checks.positive("input_shape[-1]", input_shape[-1]) < self.stop:
            raise ValueError(f"`stop` (={self.stop}) must be at most the number of channels (={input_shape[-1]}).")
        return (*input_shape[:-1], self.stop - self.start)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "start": self.start, "stop": self.stop}
