"""What TensorFlow computes in one operation and Keras in several. The one place beside the exports that needs it."""

import functools

import keras

from keras_sharenets._types import Tensor


def batch_normalization(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes a batch of images, channels last, by its own moments.

    Args:
        inputs: tensor `(batch, height, width, channels)`, float32 or bfloat16.
        gamma, beta: float32 tensors `(channels,)`.
        epsilon: float.

    Returns:
        `(outputs, mean, variance)`: a tensor of the type and shape of `inputs`, and the moments, float32
        `(channels,)`; the variance is the biased one, that of the batch itself.
    """
    # Only where Keras runs on TensorFlow, which is loaded then.
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.size(inputs) / inputs.shape[-1], variance.dtype)
    # The operation gives the unbiased one.
    return outputs, mean, variance * (count - 1) / count


def convolution(inputs: Tensor, kernel: Tensor, strides: tuple[int, int], padding: str) -> Tensor:
    """A convolution, channels last, in groups where the kernel has fewer planes than the inputs.

    Keras hands every convolution in groups to XLA, whose gradient of it is hopeless on a CPU.

    Args:
        inputs: tensor `(batch, height, width, channels)`.
        kernel: tensor `(kh, kw, channels / groups, filters)`, group-major.
        strides: pair of ints.
        padding: `"same"` or `"valid"`.

    Returns:
        A tensor `(batch, new height, new width, filters)`.
    """
    # Only where Keras runs on TensorFlow, which is loaded then.
    import tensorflow as tf

    # Without an image TensorFlow gives a convolution with a bias, such as may come before this one, too few channels.
    # This sets them right and costs nothing; a reshape alone it would take for superfluous.
    inputs = tf.reshape(tf.expand_dims(inputs, 0), (-1, *keras.ops.shape(inputs)[1:]))
    return tf.nn.conv2d(inputs, kernel, strides=strides, padding="SAME" if padding == "same" else "VALID")


@functools.cache
def has_grouped_gradients(dtype: str) -> bool:
    """Whether TensorFlow's CPU kernels have the gradients of a grouped convolution, which this tries on two numbers.

    They are oneDNN's, which TensorFlow leaves out on CPUs without AVX-512 VNNI, AVX-VNNI or AMX unless
    `TF_ENABLE_ONEDNN_OPTS=1` is set before it starts, and has not at all on a Mac.
    """
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU"):
        two = tf.zeros((1, 1, 1, 2), dtype)
        sizes, plain = two.shape, {"strides": [1, 1, 1, 1], "padding": "VALID"}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=two, out_backprop=two, **plain)
            tf.raw_ops.Conv2DBackpropFilter(input=two, filter_sizes=sizes, out_backprop=two, **plain)
        except tf.errors.OpError:
            return False
    return True


def in_xla() -> bool:
    """Whether TensorFlow is building a graph that XLA will compile."""
    import tensorflow as tf

    return tf.__internal__.get_enclosing_xla_context() is not None
