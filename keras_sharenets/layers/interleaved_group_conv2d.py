from collections.abc import Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Tensor
from keras_sharenets.layers.bases import ComposedPointwise
from keras_sharenets.ops import interleaved, permutations


@keras.saving.register_keras_serializable("keras_sharenets")
class InterleavedGroupConv2D(ComposedPointwise):
    """1x1 convolution whose kernel is a product of sparse kernels: group convolutions with shuffles between (IGC-V2).

    Each branch of a group convolution reads from different branches of the previous one. If the product of
    `branch_channels` equals the number of input channels, exactly one path leads from each input to each output (the
    paper's complementary condition). A larger product gives a few paths; a smaller one leaves some inputs unconnected.
    There is no nonlinearity between the convolutions. If the layer does not widen, it keeps the order of the channels,
    so that a shortcut around it adds matching channels.

    With `branch_channels=(channels,)` the layer equals `keras.layers.Conv2D(filters, 1)`.

    Args:
        filters: int, number of output channels; at least the number of input channels, and a multiple of the number of
            branches of the last group convolution, which is the one that widens.
        kernel_size: as in `keras.layers.Conv2D`; must be 1.
        branch_channels: tuple or list of ints, number of input channels per branch for each group convolution (the
            paper's K); each must divide the number of input channels.
        activation: activation function or its name, or `None`.
        use_bias: bool, whether to add one bias per output channel.
        implementation: how the layer is computed: `"composed"` (the kernels are multiplied into one, then applied as
            one convolution), `"multiplied"` (the same, as a matrix product), `"factored"` (one group convolution after
            the other, as in the paper) or `"auto"` (the fastest according to the measurements in `ops.choices`). The
            weights are the same for all, and the results differ only by rounding.
        kernel_initializer: as in `keras.layers.Conv2D`, applied to each stored tensor, with the fan-in of a branch.
            `None` gives each of the n kernels the variance `2 ** (1 / n) / fan-in`: the product has the factor 2 of He
            initialization once, since only one ReLU follows.
        bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Conv2D`, applied to each stored tensor.

    Input shape: `(batch, height, width, channels)`; always channels last, whatever the Keras setting.
    Output shape: `(batch, height, width, filters)`.

    Stored parameters:
        `channels * (K_1 + ... + K_(n-1)) + filters * K_n`, in one kernel per group convolution, plus `filters` with a
        bias.

    Raises:
        ValueError: an argument violates one of these rules. The message names the argument, its value and the rule.

    >>> import keras
    >>> layer = InterleavedGroupConv2D(64, branch_channels=(8, 8))
    >>> tuple(layer(keras.ops.ones((1, 4, 4, 64))).shape)
    (1, 4, 4, 64)
    >>> layer.count_params() == 64 * 8 + 64 * 8
    True
    >>> tuple(layer.effective_kernel().shape)
    (1, 1, 64, 64)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 3.2,
    equation 4, condition 1 and figure 1.
    """

    kind = "interleaved"
    division = "branch_channels"

    def __init__(
        self,
        filters: int,
        kernel_size: Any = 1,
        *,
        branch_channels: Sequence[int] = (8, 8),
        kernel_initializer: Configured = None,
        **kwargs: Any,
    ):
        branch_channels = _checks.sizes("branch_channels", branch_channels)
        if kernel_initializer is None:
            gain = 2 ** (1 / len(branch_channels))
            kernel_initializer = keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal")
        super().__init__(filters, kernel_size, kernel_initializer=kernel_initializer, **kwargs)
        self.branch_channels = branch_channels

    def plan(self, channels: int) -> Sequence[tuple[int, ...]]:
        self.channels = channels
        self.shuffles = permutations.interleaving(channels, self.branch_channels, self.filters)
        return interleaved.kernel_shapes(channels, self.branch_channels, self.filters)

    def run(self, inputs: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        return interleaved.factored(inputs, kernels, self.shuffles)

    def compose(self, kernels: Sequence[Tensor]) -> Tensor:
        return interleaved.compose(self.channels, kernels, self.shuffles)
