import functools
from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Size, Tensor
from keras_sharenets.layers.bases import without_weights
from keras_sharenets.ops import choices, convolution, precision


@keras.saving.register_keras_serializable("keras_sharenets")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that avoids XLA's slow gradient on a CPU.

    On a CPU, XLA's gradient of a depthwise convolution takes 30 to 45 times as long as TensorFlow's. Keras does not use
    XLA there by default. On TensorFlow without an accelerator, a model with this layer does not use it even with
    `compile(jit_compile=True)`: `supports_jit` is false, and Keras warns. On JAX, which always uses XLA, the layer sums
    over the positions of the kernel, which XLA compiles well. On a GPU or TPU it computes the same as Keras' layer.

    Arguments, shapes, stored parameters and errors are the same as for Keras' layer. In half precision, the gradients
    of the kernel and the bias are summed in float32.

    >>> import keras
    >>> layer = DepthwiseConv2D(3, padding="same", use_bias=False)
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 4))).shape), layer.count_params()
    ((1, 8, 8, 4), 36)
    """

    def __init__(self, kernel_size: Size, strides: Size = 1, padding: str = "valid", **kwargs: Any):
        padding = padding.lower() if isinstance(padding, str) else padding
        _checks.one_of("padding", padding, ("same", "valid"))
        _checks.boolean("use_bias", kwargs.get("use_bias", True))
        sizes = _checks.pair("kernel_size", kernel_size), _checks.pair("strides", strides)
        for name, check in (("depth_multiplier", _checks.positive), ("dilation_rate", _checks.pair)):
            kwargs[name] = check(name, kwargs.get(name, 1))
        kwargs["activation"] = without_weights(kwargs.get("activation"))
        super().__init__(*sizes, padding, **kwargs)

    def build(self, input_shape: Shape) -> None:
        _checks.positive("input_shape[-1]", input_shape[-1 if self.data_format == "channels_last" else 1])
        super().build(input_shape)
        self.supports_jit = not choices.xla_optional()

    def call(self, inputs: Tensor) -> Tensor:
        channels_last = self.data_format == "channels_last"
        plain = self.depth_multiplier == 1 and channels_last and set(self.dilation_rate) == {1}
        kernel = ops.convert_to_tensor(self.kernel)
        if plain and choices.xla_only() and None not in inputs.shape[1:3]:
            run = functools.partial(convolution.depthwise_by_places, strides=self.strides, padding=self.padding)
            outputs = precision.in_full(run, inputs, kernel)
        else:
            how = {"padding": self.padding, "data_format": self.data_format, "dilation_rate": self.dilation_rate}
            run = functools.partial(ops.depthwise_conv, strides=self.strides, **how)
            in_full = choices.emulated(inputs.dtype)
            outputs = precision.in_full(run, inputs, kernel) if in_full else run(inputs, kernel)
        if self.use_bias:
            outputs = precision.add_bias(outputs, self.bias if channels_last else ops.reshape(self.bias, (-1, 1, 1)))
        return outputs if self.activation is None else self.activation(outputs)
