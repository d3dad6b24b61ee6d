from collections.abc import Sequence

import keras

from keras_sharenets._types import Tensor
from keras_sharenets.layers.bases import GroupPointwise
from keras_sharenets.ops import hierarchical


@keras.saving.register_keras_serializable("keras_sharenets")
class HierarchicalGroupConv2D(GroupPointwise):
    """1x1 convolution in groups, where every group also reads the output of the group before it (HGC).

    `Y_1 = X_1 W_1` and `Y_i = [X_i, Y_(i-1)] W_i`, the output `[Y_1 ... Y_G]`: the last group sees all channels, at
    little more than the cost of a group convolution. Channels that `groups` does not divide are split as evenly as
    possible, the first groups one larger. With `groups=1` it equals `keras.layers.Conv2D(filters, 1)`.

    Args:
        filters: int, number of output channels (the paper's O).
        kernel_size: 1, as in `keras.layers.Conv2D`; nothing else.
        groups: int, groups of input and output channels (the paper's G); must divide `filters`, and be at most the
            number of input channels.
        use_bias: bool, whether to add a bias of one number per output channel.
        implementation: how to run it: `"composed"` (the kernels multiplied into one, then one convolution),
            `"multiplied"` (the same, with a matrix product in the convolution's place), `"factored"` (group by group,
            as in the paper) or `"auto"` (the fastest as measured, `ops.choices`). The weights are the same, and the
            results but for rounding.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as in `keras.layers.Conv2D`, for each stored tensor alone: the fan-in of a kernel is what it reads.

    Input shape: `(batch, height, width, channels)`, channels last whatever the Keras setting.
    Output shape: `(batch, height, width, filters)`.

    Stored parameters:
        With `p = filters / groups`: `channels * p + (groups - 1) * p * p`, in one kernel a group, and `filters` more
        with a bias.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

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
