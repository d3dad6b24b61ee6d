"""What 1x1 convolutions that store several kernels, and can run as one, have in common."""

import math

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.ops import choices, convolution, precision

IMPLEMENTATIONS = ("auto", "composed", "multiplied", "factored")


class ComposedPointwise(keras.layers.Layer):
    """Base of the layers whose kernels act in groups or in turn, with nothing nonlinear between them.

    A subclass names in `kind` what it is in `ops.choices`, and in `division` its own argument, kept as an attribute,
    that says how the channels are divided. It has three methods. `plan(channels)` checks the input channels, keeps what
    the others need, and returns the shapes of the kernels; `run(inputs, kernels)` convolves as the paper draws it;
    `compose(kernels)` gives the kernel `(1, 1, channels, filters)` that does the same.
    """

    inference_implementation = "composed"

    kind = None
    division = None

    def __init__(
        self,
        filters,
        use_bias=False,
        *,
        implementation="auto",
        kernel_initializer="he_normal",
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
        self.use_bias = use_bias
        self.implementation = implementation
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
        shapes = self.plan(channels)
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
            for place, shape in enumerate(shapes, start=1)
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
        # One initializer called twice gives the same numbers twice.
        initializer = self.kernel_initializer
        return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer

    def effective_kernel(self):
        """The kernel of the ordinary 1x1 convolution that this layer is.

        Returns:
            A tensor `(1, 1, channels, filters)` of the type in which the weights are stored.
        """
        return self.compose([ops.convert_to_tensor(kernel) for kernel in self.kernels])

    def products_per_pixel(self):
        """Products of weights with activations at each pixel, as the paper draws it: every stored weight once."""
        return sum(math.prod(kernel.shape) for kernel in self.kernels)

    def choose_implementation(self, input_shape, training=None):
        """What runs for inputs of this shape in the graph that is being built: one of `IMPLEMENTATIONS`, not `"auto"`.

        Where the layer's `implementation` is not `"auto"`, it is that.
        """
        if self.implementation != "auto":
            return self.implementation
        return choices.choose(
            self.kind, input_shape[-1], input_shape[1:3], training, choices.runtime(self.compute_dtype)
        )

    def call(self, inputs, training=None):
        implementation = self.choose_implementation(inputs.shape, training)
        if implementation == "factored":
            # In full precision: rounded after every group, what a chain carries would be off by more than a percent.
            kernels = [precision.full(ops.convert_to_tensor(kernel)) for kernel in self.kernels]
            outputs = ops.cast(self.run(precision.full(inputs), kernels), self.compute_dtype)
        else:
            kernel = ops.cast(self.effective_kernel(), self.compute_dtype)
            whole = {"composed": convolution.pointwise, "multiplied": convolution.pointwise_product}
            outputs = whole[implementation](inputs, kernel)
        return outputs if self.bias is None else precision.add_bias(outputs, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            self.division: getattr(self, self.division),
            "use_bias": self.use_bias,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
