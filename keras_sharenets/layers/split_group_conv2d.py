from collections.abc import Sequence

import keras

from keras_sharenets._types import Tensor
from keras_sharenets.layers.bases import GroupPointwise
from keras_sharenets.ops import hierarchical


@keras.saving.register_keras_serializable("keras_sharenets")
class SplitGroupConv2D(GroupPointwise):
    """1x1 group convolution whose groups may differ by one channel: the baseline of `HierarchicalGroupConv2D` (SGC).

    The outputs are `Y_i = X_i W_i`, concatenated to `[Y_1 ... Y_G]`. If `groups` divides the number of input channels,
    the layer equals `keras.layers.Conv2D(filters, 1, groups=groups)`; otherwise the first groups have one channel more.

    Args:
        filters, kernel_size, groups, activation, use_bias, implementation, kernel_initializer, bias_initializer,
            kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: as in `HierarchicalGroupConv2D`.

    Input shape: `(batch, height, width, channels)`; always channels last, whatever the Keras setting.
    Output shape: `(batch, height, width, filters)`.

    Stored parameters:
        `channels * filters / groups`, in one kernel per group, plus `filters` with a bias.

    Raises:
        ValueError: an argument violates a rule. The message names the argument, its value and the rule.

    >>> import keras
    >>> layer = SplitGroupConv2D(48, groups=6)
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 16))).shape)
    (1, 8, 8, 48)
    >>> [kernel.shape[2] for kernel in layer.kernels]
    [3, 3, 3, 3, 2, 2]

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, section 5,
    networks SGCNet.
    """

    kernel_inputs = staticmethod(hierarchical.split_inputs)

    def plan(self, channels: int) -> Sequence[tuple[int, ...]]:
        # Equal groups run as one grouped convolution where TensorFlow supports it.
        self.kind = "uneven split" if channels % self.groups else "split"
        return super().plan(channels)

    def run(self, inputs: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        return hierarchical.split(inputs, kernels, self.sizes)

    def compose(self, kernels: Sequence[Tensor]) -> Tensor:
        return hierarchical.split_kernel(kernels, self.sizes)
