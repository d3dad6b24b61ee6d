"""What 1x1 convolutions with one kernel for each group of channels have in common."""

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.ops import hierarchical

IMPLEMENTATIONS = ("auto", "composed", "factored")


class GroupPointwise(keras.layers.Layer):
    """Base of `HierarchicalGroupConv2D` and `SplitGroupConv2D`, which say what a kernel reads and how the kernels act.

    They name three functions of `ops.hierarchical`: `kernel_inputs`, the channels that each kernel reads; `run`, the
    convolution group by group; `compose`, its kernel as one convolution.
    """

    inference_implementation = "composed"

    kernel_inputs = None
    run = None
    compose = None

    def __init__(
        self,
        filters,
        groups,
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
        _checks.positive("groups", groups)
        _checks.divides("groups", groups, "`filters`", filters)
        _checks.one_of("implementation", implementation, IMPLEMENTATIONS)
        self.filters = filters
        self.groups = groups
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
        self.sizes = hierarchical.split_sizes(channels, self.groups)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        filters = self.filters // self.groups
        self.kernels = [
            self.add_weight(
                name=f"kernel_{group}",
                shape=(1, 1, inputs, filters),
                initializer=self._fresh_kernel_initializer(),
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
                # Composed in full precision also where the convolution runs in half.
                autocast=False,
            )
            for group, inputs in enumerate(self.kernel_inputs(self.sizes, filters), start=1)
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
        return self.compose([ops.convert_to_tensor(kernel) for kernel in self.kernels], self.sizes)

    def products_per_pixel(self):
        """Products of weights with activations at each pixel, group by group: every stored weight once."""
        return self.filters // self.groups * sum(kernel.shape[2] for kernel in self.kernels)

    def call(self, inputs):
        if self.implementation == "factored":
            kernels = [ops.cast(kernel, self.compute_dtype) for kernel in self.kernels]
            outputs = self.run(inputs, kernels, self.sizes)
        else:
            outputs = hierarchical.convolve(inputs, ops.cast(self.effective_kernel(), self.compute_dtype))
        return outputs if self.bias is None else ops.add(outputs, self.bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
