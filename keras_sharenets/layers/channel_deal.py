import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.ops import permutations


@keras.saving.register_keras_serializable("keras_sharenets")
class ChannelDeal(keras.layers.Layer):
    """Deals the channels to `groups` groups like cards, and puts the groups one after the other.

    Where `groups` divides the channels it equals `ChannelShuffle(channels / groups)`; otherwise the first groups get
    one channel more.

    Args:
        groups: int; at most the number of channels.

    Input and output shape: `(..., channels)`. It stores nothing.

    Raises:
        ValueError: `groups` is not a positive integer, or there are fewer channels.

    >>> import numpy as np
    >>> np.asarray(ChannelDeal(groups=3)(np.arange(7.0)[None])).tolist()
    [[0.0, 3.0, 6.0, 1.0, 4.0, 2.0, 5.0]]
    """

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        _checks.positive("groups", groups)
        self.groups = groups

    def build(self, input_shape):
        permutations.deal(input_shape[-1], self.groups)

    def call(self, inputs):
        return ops.take(inputs, permutations.deal(inputs.shape[-1], self.groups), axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}
