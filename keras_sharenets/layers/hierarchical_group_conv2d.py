from collections.abc import Sequence

import keras

from keras_sharenets._types import Tensor
from keras_sharenets.layers.bases import GroupPointwise
from keras_sharenets.ops import hierarchical


@keras.saving.register_keras_serializable("keras_sharenets")
class HierarchicalGroupConv2D(GroupPointwise):
    """1x1 group convolution in which every group also reads the output of the previous group (HGC).

    The outputs are `Y_1 = X_1 W_1` and `Y_i = [X_i, Y_(i-1)] W_i`, concatenated to `[Y_1 ... Y_G]`. The last group thus
    depends on all channels, at little more than the cost of a group convolution. If `groups` does not divide the
    number of input channels, the first groups have one channel more. With `groups=1` the layer equals
    `keras.layers.Conv2D(filters, 1)`.

    Args:
        filters: int, number of output channels (the paper's O).
        kernel_size: as in `keras.layers.Conv2D`; must be 1.
        groups: int, number of groups of input and output channels (the paper's G); must divide `filters` and be at most
            the number of input channels.
        activation: activation function or its name, or `None`.
        use_bias: bool, whether to add one bias per output channel.
        implementation: how the layer is computed: `"composed"` (the kernels are multiplied into one, then applied as
            one convolution), `"multiplied"` (the same, as a matrix product), `"factored"` (group by group, as in the
            paper) or `"auto"` (the fastest according to the measurements in `ops.choices`). The weights are the same
            for all, and the results differ only by rounding.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as in `keras.layers.Conv2D`, applied to each stored tensor. The fan-in of a kernel is the number of channels
            that it reads.

    Input shape: `(batch, height, width, channels)`; always channels last, whatever the Keras setting.
    Output shape: `(batch, height, width, filters)`.

    Stored parameters:
        With `p = filters / groups`: `channels * p + (groups - 1) * p * p`, in one kernel per group, plus `filters` with
        a bias.

    Raises:
        ValueError: an argument violates one of these rules. The message names the argument, its value and the rule.

    >>> import keras
    >>> layer = HierarchicalGroupConv2D(48, groups=4)
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 88))).shape)
    (1, 8, 8, 48)
    >>> layer.count_params() == 88 * 12 + 3 * 12 * 12
    True
    >>> tuple(layer.effective_kernel().shape)
    (1, 1, 88, 48)

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, section 3.2,
    equations 1 and 2 and figure 2.
    """

    kind = "hierarchical"
    kernel_inputs = staticmethod(hierarchical.chain_inputs)

    def run(self, inputs: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        return hierarchical.chain(inputs, kernels, self.sizes)

    def compose(self, kernels: Sequence[Tensor]) -> Tensor:
        return hierarchical.chain_kernel(kernels, self.sizes)
