from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import permutations


@keras.saving.register_keras_serializable("keras_sharenets")
class ChannelShuffle(keras.layers.Layer):
    """Interleaves the channels of `groups` groups: read a table of `groups` rows column by column.

    Args:
        groups: int, rows of the table.
        block_size: int, neighboring channels that stay together. `groups * block_size` must divide the channels.

    Input and output shape: `(..., channels)`. It stores nothing.

    Raises:
        ValueError: an argument is not a positive integer, or their product does not divide the channels.

    >>> import numpy as np
    >>> np.asarray(ChannelShuffle(groups=2)(np.arange(6.0)[None])).tolist()
    [[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]]

    Reference: Zhang et al., "ShuffleNet", CVPR 2018, figure 1.
    """

    def __init__(self, groups: int, *, block_size: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.groups = _checks.positive("groups", groups)
        self.block_size = _checks.positive("block_size", block_size)

    def _order(self, channels: int) -> np.ndarray:
        return permutations.channel_shuffle(channels, self.groups, self.block_size)

    def build(self, input_shape: Shape) -> None:
        self._order(input_shape[-1])

    def call(self, inputs: Tensor) -> Tensor:
        return ops.take(inputs, self._order(inputs.shape[-1]), axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups, "block_size": self.block_size}
