from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.layers.channel_shuffle import shuffle
from keras_sharenets.ops import permutations


@keras.saving.register_keras_serializable("keras_sharenets")
class StridedChannelShuffle(keras.layers.Layer):
    """Reads the channels with a stride of `groups`: `0, groups, 2 groups ...`, then `1, 1 + groups ...`, and so on.

    Each of the `groups` groups gets channels from all parts of the input. If `groups` divides the number of channels,
    the layer equals `ChannelShuffle(channels / groups)`; otherwise the first groups get one channel more.

    Args:
        groups: int, number of groups; at most the number of channels.

    Input and output shape: `(..., channels)`. The layer has no weights.

    Raises:
        ValueError: `groups` is not a positive integer, or is larger than the number of channels.

    >>> import numpy as np
    >>> np.asarray(StridedChannelShuffle(groups=3)(np.arange(7.0)[None])).tolist()
    [[0.0, 3.0, 6.0, 1.0, 4.0, 2.0, 5.0]]
    """

    def __init__(self, groups: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.groups = _checks.positive("groups", groups)

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        channels = inputs.shape[-1]
        if channels % self.groups == 0:
            return shuffle(inputs, channels // self.groups)
        return ops.take(inputs, permutations.strided_shuffle(channels, self.groups), axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        permutations.strided_shuffle(input_shape[-1], self.groups)  # Raises an error.
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}


# For files saved under the former name of this layer.
keras.saving.get_custom_objects()["keras_sharenets>ChannelDeal"] = StridedChannelShuffle
