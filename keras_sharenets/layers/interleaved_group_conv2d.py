import math

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.ops import interleaved, permutations

IMPLEMENTATIONS = ("auto", "composed", "factored")


@keras.saving.register_keras_serializable("keras_sharenets")
class InterleavedGroupConv2D(keras.layers.Layer):
    """1x1 convolution whose kernel is a product of sparse ones: group convolutions with shuffles between them (IGC-V2).

    A branch of each group convolution reads from different branches of the one before. If the product of
    `branch_channels` is the number of input channels, there is exactly one path from each of them to each output (the
    paper's complementary condition). A larger product gives a few paths, a smaller one leaves inputs out. Nothing
    nonlinear lies between the convolutions. Where the layer does not widen, it leaves the channels in their order, so
    that a shortcut around it adds equal ones.

    With `branch_channels=(channels,)` it equals `keras.layers.Conv2D(filters, 1)`.

    Args:
        filters: int, number of output channels; at least the input channels, and a multiple of the branches of the last
            group convolution, which is the one that widens.
        branch_channels: tuple or list of ints, the input channels of a branch in each group convolution (the paper's
            K); each must divide the input channels.
        use_bias: bool, whether to add a bias of one number per output channel.
        implementation: how to run it: `"composed"` (the kernels multiplied into one, then one convolution),
            `"factored"` (one group convolution after the other, as the paper draws it) or `"auto"` (composed). The
            weights are the same, and the results but for rounding.
        kernel_initializer: as in `keras.layers.Conv2D`, for each stored tensor alone: its fan-in is what a branch
            reads. `None` gives all n of them the variance `2 ** (1 / n) / fan-in`: the factor 2 of He's initialisation
            belongs to the product once, for only one ReLU follows.
        bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Conv2D`, for each stored tensor.

    Input shape: `(batch, height, width, channels)`, channels last whatever the Keras setting.
    Output shape: `(batch, height, width, filters)`.

    Stored parameters:
        `channels * (K_1 + ... + K_(n-1)) + filters * K_n`, in one kernel a group convolution, and `filters` more with a
        bias.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

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

    inference_implementation = "composed"

    def __init__(
        self,
        filters,
        branch_channels=(8, 8),
        use_bias=False,
        *,
        implementation="auto",
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _checks.positive("filters", filters)
        _checks.one_of("implementation", implementation, IMPLEMENTATIONS)
        self.filters = filters
        self.branch_channels = _checks.sizes("branch_channels", branch_channels)
        self.use_bias = use_bias
        self.implementation = implementation
        if kernel_initializer is None:
            gain = 2 ** (1 / len(self.branch_channels))
            kernel_initializer = keras.initializers.VarianceScaling(gain, "fan_in", "truncated_normal")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"The last axis of the input must be known, got shape {tuple(input_shape)}.")
        self.deals = permutations.interleaving(channels, self.branch_channels, self.filters)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernels = [
            self.add_weight(
                name=f"kernel_{place}",
                shape=shape,
                initializer=self._fresh_kernel_initializer(),
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                # Composed in full precision also where the convolution runs in half.
                autocast=False,
            )
            for place, shape in enumerate(
                interleaved.kernel_shapes(channels, self.branch_channels, self.filters), start=1
            )
        ]
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _fresh_kernel_initializer(self):
        # One initialiser called twice gives the same numbers twice.
        initializer = self.kernel_initializer
        return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer

    def effective_kernel(self):
        """The kernel of the ordinary 1x1 convolution that this layer is.

        Returns:
            A tensor `(1, 1, channels, filters)` of the type in which the weights are stored.
        """
        kernels = [ops.convert_to_tensor(kernel) for kernel in self.kernels]
        return interleaved.compose(self.input_spec.axes[-1], kernels, self.deals)

    def products_per_pixel(self):
        """Products of weights with activations at each pixel, as the paper draws it: every stored weight once."""
        return sum(math.prod(kernel.shape) for kernel in self.kernels)

    def call(self, inputs):
        if self.implementation == "factored":
            kernels = [ops.cast(kernel, self.compute_dtype) for kernel in self.kernels]
            outputs = interleaved.factored(inputs, kernels, self.deals)
        else:
            outputs = interleaved.convolve(inputs, ops.cast(self.effective_kernel(), self.compute_dtype))
        return outputs if self.bias is None else ops.add(outputs, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "branch_channels": self.branch_channels,
            "use_bias": self.use_bias,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
