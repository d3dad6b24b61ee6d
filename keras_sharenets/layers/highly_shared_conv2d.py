import warnings
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Shape, Size, Tensor
from keras_sharenets.layers.bases import SharedConvolution
from keras_sharenets.ops import choices, convolution, kernels, permutations, precision


@keras.saving.register_keras_serializable("keras_sharenets")
class HighlySharedConv2D(SharedConvolution):
    """2D convolution that stores few filters and reuses them along the channels, and in new arrangements.

    The stored filters become the kernel of an ordinary grouped convolution in two steps, each of which can be off:

    * arranged shared filters (ASF): inside each group, every stored filter appears `arrangements` times, its input
      planes in another order in every copy;
    * channel repeated filters (CRF): the bank of `groups / channel_repeats` distinct group filters is used
      `channel_repeats` times along the channels.

    Call the layer in several places for layer repeated filters (LRF): the weights are stored, trained and saved once.
    With `groups=channel_repeats=arrangements=1` it equals `keras.layers.Conv2D`; with `channel_repeats=arrangements=1`
    it equals `keras.layers.Conv2D(groups=groups)`, and trains faster on a CPU: there Keras hands groups to XLA, which
    is slow at them, and this layer to what is fast, under XLA something else than outside.

    Args:
        filters: int, number of output channels.
        kernel_size: int or pair of ints.
        groups: int, groups of input and output channels (the paper's G).
        channel_repeats: int, uses of each group filter along the channels (the paper's R); must divide `groups`.
        arrangements: int, uses of each filter under different orders of its input planes (the paper's T); must divide
            `filters / groups`.
        strides: int or pair of ints.
        padding: `"same"` or `"valid"`.
        data_format, dilation_rate: as in `keras.layers.Conv2D`; only `"channels_last"` and 1.
        use_bias: bool, whether to add a bias of one number per output channel; a bias is never shared.
        shuffle_groups: int, rows of the shuffle that arranges the input planes; must divide the input channels of a
            group where there is a shuffle: with two arrangements, or `"shuffled"` ones. The paper does not give it.
        plane_orders: how the planes of more than two arrangements are ordered: `"distinct"` (any two orders differ in
            every place, where there are as many planes as arrangements) or `"shuffled"` (`t` shuffles in the `t`-th
            copy, which soon come to the first order again; what layers without this argument in their files have), as
            in `ops.permutations.arrangements`. Two are the same in both.
        implementation: how to run it: `"grouped"` (native grouped convolution), `"folded"` (repeats folded into the
            batch, groups filled up with zeros), `"multiplied"` (matrix products, only for a kernel of 1x1) or `"auto"`
            (the fastest as measured, `ops.choices`). The weights are the same, and the results but for rounding.
        activation: activation function or its name, or `None`.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as in `keras.layers.Conv2D`, for the stored tensors. The default initialization has the fan-in of the full
            kernel, `kernel height * kernel width * channels / groups`.

    Call arguments:
        inputs: tensor.
        strides: int or pair of ints for this call alone, or `None` for the layer's own. It lets one layer be shared by
            places of different stride.

    Input shape: `(batch, height, width, channels)`, channels last whatever the Keras setting.
    Output shape: `(batch, new height, new width, filters)`.

    Stored parameters:
        `kernel height * kernel width * (channels / groups) * filters / (channel_repeats * arrangements)`, and `filters`
        more with a bias.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> import keras
    >>> layer = HighlySharedConv2D(64, 3, groups=16, channel_repeats=8, arrangements=2)
    >>> tuple(layer(keras.ops.ones((1, 32, 32, 64))).shape)
    (1, 32, 32, 64)
    >>> layer.count_params() == 3 * 3 * (64 // 16) * 64 // (8 * 2)
    True
    >>> tuple(layer.effective_kernel().shape)
    (3, 3, 4, 64)

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021,
    section 3.1, equation 2 and figure 1.
    """

    implementations = ("auto", *convolution.IMPLEMENTATIONS)
    inference_implementation = "grouped"

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        *,
        groups: int = 1,
        channel_repeats: int = 1,
        arrangements: int = 1,
        strides: Size = 1,
        padding: str = "same",
        data_format: str | None = None,
        dilation_rate: Size = 1,
        use_bias: bool = False,
        shuffle_groups: int = 2,
        plane_orders: str = "distinct",
        activation: Configured = None,
        **kwargs: Any,
    ):
        super().__init__(filters, use_bias=use_bias, **kwargs)
        self.groups = _checks.positive("groups", groups)
        self.channel_repeats = _checks.positive("channel_repeats", channel_repeats)
        self.arrangements = _checks.positive("arrangements", arrangements)
        self.shuffle_groups = _checks.positive("shuffle_groups", shuffle_groups)
        _checks.divides("groups", self.groups, "`filters`", self.filters)
        _checks.divides("channel_repeats", self.channel_repeats, "`groups`", self.groups)
        _checks.divides("arrangements", self.arrangements, "`filters` / `groups`", self.filters // self.groups)
        _checks.one_of("plane_orders", plane_orders, permutations.PLANE_ORDERS)
        _checks.one_of("padding", padding, ("same", "valid"))
        _checks.plain_convolution(data_format, dilation_rate)
        self.kernel_size = _checks.pair("kernel_size", kernel_size)
        if self.implementation == "multiplied" and self.kernel_size != (1, 1):
            raise ValueError(f"`implementation` (='multiplied') needs `kernel_size` (={self.kernel_size}) to be 1.")
        self.strides = _checks.pair("strides", strides)
        self.padding = padding
        self.plane_orders = plane_orders
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Shape) -> None:
        channels = self.known_channels(input_shape)
        _checks.divides("groups", self.groups, "the number of input channels", channels)
        inputs_per_group = channels // self.groups
        if self.arrangements > 1:
            self._check_arrangements(inputs_per_group)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, inputs_per_group, self.filters // (self.channel_repeats * self.arrangements)),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_bias()

    def _check_arrangements(self, inputs_per_group: int) -> None:
        if permutations.shuffles(self.arrangements, self.plane_orders):
            whole = "the number of input channels per group"
            _checks.divides("shuffle_groups", self.shuffle_groups, whole, inputs_per_group)
        distinct = permutations.count_distinct(
            inputs_per_group, self.arrangements, self.shuffle_groups, self.plane_orders
        )
        if distinct < self.arrangements:
            warnings.warn(
                f"`arrangements` (={self.arrangements}) of {inputs_per_group} input channels per group by "
                f"`shuffle_groups` (={self.shuffle_groups}), `plane_orders` (={self.plane_orders!r}), give {distinct} "
                f"different orders: some output channels of layer '{self.name}' are copies of others.",
                stacklevel=2,
            )

    def orders(self, inputs_per_group: int) -> np.ndarray:
        """The order of the planes in each arrangement, `(arrangements, inputs_per_group)`; the first is 0, 1, 2 ..."""
        return permutations.arrangements(inputs_per_group, self.arrangements, self.shuffle_groups, self.plane_orders)

    def effective_kernel(self) -> Tensor:
        """The kernel of the ordinary grouped convolution that this layer is.

        Returns:
            A tensor `(kernel height, kernel width, channels / groups, filters)`, group-major.
        """
        bank_groups = self.groups // self.channel_repeats
        bank = kernels.arrange(self.kernel, self.arrangements, bank_groups, self.shuffle_groups, self.plane_orders)
        return kernels.repeat(bank, self.channel_repeats)

    def choose_implementation(
        self, input_shape: Shape, strides: Size | None = None, training: bool | None = None
    ) -> str:
        """What runs for inputs of this shape in the graph that is being built: a key of `convolution.IMPLEMENTATIONS`.

        Where the layer's `implementation` is not `"auto"`, it is that.
        """
        strides = self.strides if strides is None else _checks.pair("strides", strides)
        kind = choices.convolution_kind(self.kernel_size, self.groups, self.channel_repeats, strides)
        if self.implementation != "auto":
            return self.implementation
        if kind is None:
            return "folded"
        sides = convolution.output_sides(input_shape[1:3], self.kernel_size, strides, self.padding)
        return choices.choose(kind, input_shape[-1], sides, training, choices.runtime(self.compute_dtype))

    def call(self, inputs: Tensor, strides: Size | None = None, training: bool | None = None) -> Tensor:
        strides = self.strides if strides is None else _checks.pair("strides", strides)
        # Refuses an image smaller than the kernel, of which some backends make numbers out of nothing.
        convolution.output_sides(inputs.shape[1:3], self.kernel_size, strides, self.padding)
        convolve = convolution.IMPLEMENTATIONS[self.choose_implementation(inputs.shape, strides, training)]
        outputs = convolve(
            inputs, self.effective_kernel(), self.groups, self.channel_repeats, strides=strides, padding=self.padding
        )
        if self.bias is not None:
            outputs = precision.add_bias(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape, strides: Size | None = None) -> Shape:
        strides = self.strides if strides is None else _checks.pair("strides", strides)
        sides = convolution.output_sides(input_shape[1:3], self.kernel_size, strides, self.padding)
        return (input_shape[0], *sides, self.filters)

    def compute_output_spec(
        self, inputs: Tensor, strides: Size | None = None, training: bool | None = None
    ) -> keras.KerasTensor:
        # Keras would trace `call` to learn this: with some hundred calls in a network, most of the time to build it.
        return keras.KerasTensor(self.compute_output_shape(inputs.shape, strides), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "groups": self.groups,
            "channel_repeats": self.channel_repeats,
            "arrangements": self.arrangements,
            "strides": self.strides,
            "padding": self.padding,
            "shuffle_groups": self.shuffle_groups,
            "plane_orders": self.plane_orders,
            "activation": keras.activations.serialize(self.activation),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HighlySharedConv2D":
        # What was saved before there was a choice was shuffled.
        return super().from_config({"plane_orders": "shuffled", **config})
