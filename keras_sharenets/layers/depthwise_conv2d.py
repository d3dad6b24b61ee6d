import keras
from keras import ops

from keras_sharenets.ops import depthwise, devices


@keras.saving.register_keras_serializable("keras_sharenets")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that trains fast on a CPU too, where XLA does not.

    `fit` compiles with XLA unless a layer says that it should not. On a CPU, XLA's gradient of a depthwise convolution
    takes 30 to 45 times as long as TensorFlow's own. So on TensorFlow without an accelerator this layer says so (its
    `supports_jit` is false, and Keras then compiles without); and on JAX, where there is nothing but XLA, it
    sums over the places of the kernel, which XLA compiles well. On a GPU or TPU it is Keras' layer.

    Arguments, shapes, stored parameters and errors are those of Keras' layer.

    >>> import keras
    >>> layer = DepthwiseConv2D(3, padding="same", use_bias=False)
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 4))).shape), layer.count_params()
    ((1, 8, 8, 4), 36)
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.supports_jit = not devices.xla_optional()

    def call(self, inputs):
        plain = self.depth_multiplier == 1 and self.data_format == "channels_last" and set(self.dilation_rate) == {1}
        if not (plain and devices.xla_only() and None not in inputs.shape[1:3]):
            return super().call(inputs)
        outputs = depthwise.by_places(inputs, ops.convert_to_tensor(self.kernel), self.strides, self.padding)
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)
