"""Base classes of the convolutions with shared or sparse kernels."""

import math
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Shape, Tensor
from keras_sharenets.ops import choices, convolution, hierarchical, precision


def new_initializer(initializer: Configured, place: int = 0) -> Any:
    """An initializer like the given one. A single object returns the same numbers for all kernels of a shape.

    One with a seed would do so, too: it gets another seed at each `place`, the index of a kernel within its layer.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += place
    return type(initializer).from_config(config)


def without_weights(activation: Configured) -> Any:
    """An activation as a function or a layer.

    Raises:
        ValueError: it is a layer with weights. They would be created in the first call, too late for the model.
    """
    made = keras.activations.get(activation)
    if isinstance(made, keras.layers.Layer):
        builds = type(made).build is not keras.layers.Layer.build
        if made.weights or (builds and not made.built):
            raise ValueError(
                f"`activation` (={activation!r}) must have no weights: add the layer behind the convolution instead."
            )
    return made


class SharedConvolution(keras.layers.Layer):
    """Base of all convolutions: `filters`, bias and activation, the choice of an implementation, and the configuration.

    A subclass lists its `implementations` and builds its kernels. `build_bias` builds the bias, and `finish` adds it.
    """

    implementations: ClassVar[tuple[str, ...]] = ("auto",)
    # The implementation in the inference graph of an export.
    inference_implementation: ClassVar[str]

    def __init__(
        self,
        filters: int,
        *,
        activation: Configured = None,
        use_bias: bool = False,
        implementation: str = "auto",
        kernel_initializer: Configured = "he_normal",
        bias_initializer: Configured = "zeros",
        kernel_regularizer: Configured = None,
        bias_regularizer: Configured = None,
        kernel_constraint: Configured = None,
        bias_constraint: Configured = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _checks.one_of("implementation", implementation, self.implementations)
        self.filters = _checks.positive("filters", filters)
        self.activation = without_weights(activation)
        self.use_bias = _checks.boolean("use_bias", use_bias)
        self.implementation = implementation
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def known_channels(self, input_shape: Shape) -> int:
        """The number of input channels; raises a `ValueError` if it is unknown or 0."""
        if input_shape[-1] is None:
            raise ValueError(f"The last axis of the input must be known, got shape {tuple(input_shape)}.")
        return _checks.positive("input_shape[-1]", input_shape[-1])

    def check_built(self) -> None:
        """Raises a `ValueError` if the layer is not built: it has no kernel yet."""
        if not self.built:
            raise ValueError(f"Layer '{self.name}' must be built: it has no kernel before its first call or `build`.")

    def build_bias(self) -> None:
        """Builds the bias, or sets it to `None`."""
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def finish(self, outputs: Tensor) -> Tensor:
        """The output of the layer for that of its convolution: with the bias and the activation."""
        if self.bias is not None:
            outputs = precision.add_bias(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


class ComposedPointwise(SharedConvolution):
    """Base of the 1x1 convolutions whose kernels are applied in groups or in sequence, without a nonlinearity between.

    A subclass sets `kind` to its key in `ops.choices`, and `division` to the name of its argument, also an attribute,
    that divides the channels. It implements three methods. `plan(channels)` checks the number of input channels, stores
    what the other methods need, and returns the shapes of the kernels. `run(inputs, kernels)` convolves step by step as
    in the paper. `compose(kernels)` returns the equivalent kernel `(1, 1, channels, filters)`.
    """

    implementations = ("auto", "composed", "multiplied", "factored")
    inference_implementation = "composed"

    kind: str
    division: ClassVar[str]

    def __init__(self, filters: int, kernel_size: Any = 1, **kwargs: Any):
        self._check_pointwise(kernel_size, kwargs)
        super().__init__(filters, **kwargs)

    def _check_pointwise(self, kernel_size: Any, arguments: dict[str, Any]) -> None:
        """Raises a `ValueError` for an argument that does not apply to a 1x1 convolution."""
        name = type(self).__name__
        sides = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        if len(sides) != 2 or not all(
            isinstance(side, numbers.Integral) and side is not True and side == 1 for side in sides
        ):
            raise ValueError(
                f"`kernel_size` (={kernel_size!r}) must be 1: `{name}` is a 1x1 convolution; "
                f"`{self.division}` is a keyword argument."
            )
        for argument in ("strides", "padding", "dilation_rate", "data_format"):
            if argument in arguments:
                raise ValueError(
                    f"`{argument}` (={arguments[argument]!r}) must be omitted: `{name}` is a 1x1 convolution with "
                    "strides of 1 and channels last, which needs no padding."
                )

    def plan(self, channels: int) -> Sequence[tuple[int, ...]]:
        raise NotImplementedError

    def run(self, inputs: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def compose(self, kernels: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def build(self, input_shape: Shape) -> None:
        channels = self.known_channels(input_shape)
        shapes = self.plan(channels)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernels = [
            self.add_weight(
                name=f"kernel_{place}",
                shape=shape,
                initializer=new_initializer(self.kernel_initializer, place - 1),
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                # Composed in full precision even if the convolution runs in half precision.
                autocast=False,
            )
            for place, shape in enumerate(shapes, start=1)
        ]
        self.build_bias()

    def effective_kernel(self) -> Tensor:
        """The kernel of the equivalent 1x1 convolution.

        Returns:
            A tensor `(1, 1, channels, filters)` with the dtype of the stored weights.

        Raises:
            ValueError: the layer is not built.
        """
        self.check_built()
        return self.compose([ops.convert_to_tensor(kernel) for kernel in self.kernels])

    def products_per_pixel(self) -> int:
        """Products of weights with activations per pixel as the paper counts them: every stored weight once."""
        self.check_built()
        return sum(math.prod(kernel.shape) for kernel in self.kernels)

    def choose_implementation(self, input_shape: Shape, training: bool | None = None) -> str:
        """The implementation for inputs of this shape in the current graph: one of `implementations` except `"auto"`.

        An `implementation` other than `"auto"` always takes precedence.
        """
        if self.implementation != "auto":
            return self.implementation
        runtime = choices.runtime(self.compute_dtype)
        return choices.choose(self.kind, input_shape[-1], input_shape[1:3], training, runtime)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        implementation = self.choose_implementation(inputs.shape, training)
        if implementation == "factored":
            # In full precision: rounding after every group would add up to an error of more than a percent in a chain.
            kernels = [precision.full(ops.convert_to_tensor(kernel)) for kernel in self.kernels]
            outputs = ops.cast(self.run(precision.full(inputs), kernels), self.compute_dtype)
        else:
            kernel = ops.cast(self.effective_kernel(), self.compute_dtype)
            whole = {"composed": convolution.pointwise, "multiplied": convolution.pointwise_product}
            outputs = whole[implementation](inputs, kernel)
        return self.finish(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), self.division: getattr(self, self.division)}


class GroupPointwise(ComposedPointwise):
    """Base of `HierarchicalGroupConv2D` and `SplitGroupConv2D`.

    In a subclass, `kernel_inputs(sizes, filters)` returns the number of channels that each kernel reads.
    """

    division = "groups"

    @staticmethod
    def kernel_inputs(sizes: tuple[int, ...], filters: int) -> tuple[int, ...]:
        raise NotImplementedError

    def __init__(self, filters: int, kernel_size: Any = 1, *, groups: int | None = None, **kwargs: Any):
        super().__init__(filters, kernel_size, **kwargs)
        self.groups = _checks.positive("groups", groups)
        _checks.divides("groups", self.groups, "`filters`", self.filters)

    def plan(self, channels: int) -> Sequence[tuple[int, ...]]:
        self.sizes = hierarchical.split_sizes(channels, self.groups)
        filters = self.filters // self.groups
        return [(1, 1, inputs, filters) for inputs in self.kernel_inputs(self.sizes, filters)]
