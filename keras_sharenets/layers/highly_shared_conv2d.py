import warnings
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Size, Tensor
from keras_sharenets.layers.bases import SharedConvolution
from keras_sharenets.ops import choices, convolution, kernels, permutations


@keras.saving.register_keras_serializable("keras_sharenets")
class HighlySharedConv2D(SharedConvolution):
    """2D convolution that stores few filters and reuses them along the channels and in several arrangements.

    The stored filters are expanded into the kernel of an ordinary grouped convolution in two optional steps:

    * arranged shared filters (ASF): within each group, every stored filter is used `arrangements` times, each copy with
      its input planes in a different order;
    * channel repeated filters (CRF): the bank of `groups / channel_repeats` distinct group filters is used
      `channel_repeats` times along the channels.

    For layer repeated filters (LRF), call the same layer in several places: its weights are stored, trained and saved
    once. With `groups=channel_repeats=arrangements=1` the layer equals `keras.layers.Conv2D`, except that `padding` is
    `"same"` and `use_bias` is `False` by default. With `channel_repeats=arrangements=1` it equals
    `keras.layers.Conv2D(groups=groups)` and trains faster on a CPU: Keras runs grouped convolutions in XLA there, which
    is slow; this layer selects a fast implementation inside and outside of XLA.

    Args:
        filters: int, number of output channels.
        kernel_size: int or pair of ints, height and width of the kernel.
        groups: int, number of groups of input and output channels (the paper's G).
        channel_repeats: int, number of times that each group filter is used along the channels (the paper's R); must
            divide `groups`.
        arrangements: int, number of times that each filter is used, with its input planes in a different order each
            time (the paper's T); must divide `filters / groups`.
        strides: int or pair of ints, strides of the convolution.
        padding: `"same"` or `"valid"`.
        data_format, dilation_rate: as in `keras.layers.Conv2D`; only `"channels_last"` and 1 are supported.
        use_bias: bool, whether to add one bias per output channel. The bias is never shared.
        shuffle_groups: int, number of rows of the shuffle that orders the input planes; must divide the number of input
            channels per group if there is a shuffle, which is the case with two arrangements or
            `plane_orders="shuffled"`. The paper does not specify it.
        plane_orders: how the input planes are ordered with more than two arrangements; see
            `ops.permutations.arrangements`. `"distinct"`: any two orders differ in every position, provided that there
            are at least as many planes as arrangements. `"shuffled"`: copy `t` is shuffled `t` times, which soon
            repeats the first order; this is the value of layers whose files do not store this argument. With two
            arrangements, both give the same orders.
        implementation: how the layer is computed: `"grouped"` (native grouped convolution), `"folded"` (repeats are
            folded into the batch, groups are padded with zeros), `"multiplied"` (matrix products; 1x1 kernels only) or
            `"auto"` (the fastest according to the measurements in `ops.choices`). The weights are the same for all, and
            the results differ only by rounding.
        activation: activation function or its name, or `None`.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint:
            as in `keras.layers.Conv2D`, applied to the stored tensors. The fan-in of the default initializer is that of
            the full kernel, `kernel height * kernel width * channels / groups`.

    Call arguments:
        inputs: tensor.
        strides: int or pair of ints, strides of this call; `None` for those of the layer. One layer can thus be shared
            between places with different strides.

    Input shape: `(batch, height, width, channels)`; always channels last, whatever the Keras setting.
    Output shape: `(batch, new height, new width, filters)`.

    Stored parameters:
        `kernel height * kernel width * (channels / groups) * filters / (channel_repeats * arrangements)`, plus
        `filters` with a bias.

    Raises:
        ValueError: an argument violates one of these rules. The message names the argument, its value and the rule.

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
        padding = padding.lower() if isinstance(padding, str) else padding
        _checks.one_of("padding", padding, ("same", "valid"))
        _checks.plain_convolution(data_format, dilation_rate)
        self.kernel_size = _checks.pair("kernel_size", kernel_size)
        if self.implementation == "multiplied" and self.kernel_size != (1, 1):
            raise ValueError(f"`implementation` (='multiplied') requires `kernel_size` (={self.kernel_size}) to be 1.")
        self.strides = _checks.pair("strides", strides)
        self.padding = padding
        self.plane_orders = plane_orders

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
        self.build_bias()

    def _check_arrangements(self, inputs_per_group: int) -> None:
        if permutations.shuffles(self.arrangements, self.plane_orders):
            whole = "the number of input channels per group"
            _checks.divides("shuffle_groups", self.shuffle_groups, whole, inputs_per_group)
        distinct = permutations.count_distinct(
            inputs_per_group, self.arrangements, self.shuffle_groups, self.plane_orders
        )
        if distinct < self.arrangements:
            warnings.warn(
                f"`arrangements` (={self.arrangements}) of {inputs_per_group} input channels per group with "
                f"`shuffle_groups` (={self.shuffle_groups}) and `plane_orders` (={self.plane_orders!r}) give "
                f"{distinct} different orders: some output channels of layer '{self.name}' are copies of others.",
                stacklevel=2,
            )

    def orders(self, inputs_per_group: int) -> np.ndarray:
        """The order of the planes in each arrangement, `(arrangements, inputs_per_group)`; the first is 0, 1, 2 ..."""
        return permutations.arrangements(inputs_per_group, self.arrangements, self.shuffle_groups, self.plane_orders)

    def effective_kernel(self) -> Tensor:
        """The kernel of the equivalent grouped convolution.

        Returns:
            A tensor `(kernel height, kernel width, channels / groups, filters)`, group-major.

        Raises:
            ValueError: the layer is not built.
        """
        self.check_built()
        bank_groups = self.groups // self.channel_repeats
        bank = kernels.arrange(self.kernel, self.arrangements, bank_groups, self.shuffle_groups, self.plane_orders)
        return kernels.repeat(bank, self.channel_repeats)

    def choose_implementation(
        self, input_shape: Shape, strides: Size | None = None, training: bool | None = None
    ) -> str:
        """The implementation for inputs of this shape in the current graph: a key of `convolution.IMPLEMENTATIONS`.

        An `implementation` other than `"auto"` always takes precedence.
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
        # Rejects an image smaller than the kernel, for which some backends return meaningless numbers.
        convolution.output_sides(inputs.shape[1:3], self.kernel_size, strides, self.padding)
        convolve = convolution.IMPLEMENTATIONS[self.choose_implementation(inputs.shape, strides, training)]
        outputs = convolve(
            inputs, self.effective_kernel(), self.groups, self.channel_repeats, strides=strides, padding=self.padding
        )
        return self.finish(outputs)

    def compute_output_shape(self, input_shape: Shape, strides: Size | None = None) -> Shape:
        strides = self.strides if strides is None else _checks.pair("strides", strides)
        sides = convolution.output_sides(input_shape[1:3], self.kernel_size, strides, self.padding)
        return (input_shape[0], *sides, self.filters)

    def compute_output_spec(
        self, inputs: Tensor, strides: Size | None = None, training: bool | None = None
    ) -> keras.KerasTensor:
        # Without this, Keras traces `call`: most of the build time of a network with some hundred calls.
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
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HighlySharedConv2D":
        # Layers saved before this argument existed are shuffled. A subclass may have a config of its own, of other
        # arguments; every config of this class has `shuffle_groups`.
        former = {"plane_orders": "shuffled"} if "shuffle_groups" in config else {}
        return super().from_config({**former, **config})
