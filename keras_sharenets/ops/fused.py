"""Fused operations of TensorFlow for computations that take Keras several operations.

Apart from exports, only this module requires TensorFlow.
"""

import functools
import math
from typing import Any

import keras

from keras_sharenets._types import Tensor


def batch_normalization(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes a batch of images, channels last, by the moments of the batch.

    Args:
        inputs: tensor `(batch, height, width, channels)`, float32 or bfloat16.
        gamma, beta: float32 tensors `(channels,)`.
        epsilon: float.

    Returns:
        `(outputs, mean, variance)`: a tensor with the dtype and shape of `inputs`, and the moments, float32
        `(channels,)`. The variance is the biased (population) variance of the batch.
    """
    pixels = pixels_side_by_side(inputs)
    if pixels > 1:
        return normalize_side_by_side(inputs, gamma, beta, epsilon, pixels)
    return _normalize(inputs, gamma, beta, epsilon)


def _normalize(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    # Called only if Keras runs on TensorFlow, which is then already imported.
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.size(inputs) / inputs.shape[-1], variance.dtype)
    # The operation returns the unbiased variance.
    return outputs, mean, variance * (count - 1) / count


def pixels_side_by_side(inputs: Tensor) -> int:
    """Number of pixels whose channels form one vector in [`batch_normalization`]; 1 unless oneDNN would be slow.

    oneDNN does not vectorize if the number of channels is not a multiple of 4. The channels of 8 or 16 pixels together
    are a multiple of 16.
    """
    *_, height, width, channels = inputs.shape
    pixels = 16 // math.gcd(channels, 16)
    whole = height is not None and width is not None and height * width % pixels == 0
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return pixels if pixels > 4 and whole and not in_xla() and has_grouped_gradients(dtype) else 1


def normalize_side_by_side(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """[`_normalize`] of an image with `pixels` times the channels, with the moments combined.

    The gradient of the wide image at the correct moments lacks a term: the differences, between the positions of a
    pixel in the vector, of the means of the upstream gradient and of its product with the normalized image. `lacking`
    adds it.
    """
    import tensorflow as tf

    channels = inputs.shape[-1]
    how = {"epsilon": epsilon, "data_format": "NHWC"}

    def wide(images: Tensor) -> Tensor:
        return tf.reshape(images, (1, 1, -1, pixels * channels))

    def narrow(values: Tensor) -> Tensor:
        return tf.reshape(values, (pixels, channels))

    def tiled(values: Tensor) -> Tensor:
        return tf.tile(values, [pixels])

    def scaled(images: Tensor, moments: tuple[Tensor, Tensor], scale: Tensor, offset: Tensor) -> Tensor:
        """`(images - mean) / deviation * scale + offset`, in one operation."""
        mean, variance = map(tiled, moments)
        given = {"scale": scale, "offset": offset, "mean": mean, "variance": variance}
        return tf.raw_ops.FusedBatchNormV3(x=images, is_training=False, **given, **how)[0]

    @tf.custom_gradient
    def normalize(inputs: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        images = wide(inputs)
        ones = tf.ones(pixels * channels)
        _, means, variances = _normalize(images, ones, tf.zeros_like(ones), epsilon)
        mean = tf.reduce_mean(narrow(means), 0)
        variance = tf.reduce_mean(narrow(variances) + (narrow(means) - mean) ** 2, 0)
        outputs = scaled(images, (mean, variance), tiled(gamma), tiled(beta))

        def gradient(upstream: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return first_order(upstream, inputs, gamma, tf.stop_gradient(mean), tf.stop_gradient(variance))

        return (tf.reshape(outputs, tf.shape(inputs)), mean, variance), gradient

    @tf.custom_gradient
    def first_order(upstream: Tensor, inputs: Tensor, gamma: Tensor, mean: Tensor, variance: Tensor) -> Any:
        images = wide(inputs)
        by_images, by_gamma, by_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=wide(upstream),
            x=images,
            scale=tiled(gamma),
            reserve_space_1=tiled(mean),
            reserve_space_2=tiled(variance),
            reserve_space_3=[],
            is_training=True,
            **how,
        )
        length = tf.cast(tf.shape(images)[2], gamma.dtype)
        by_gamma, by_beta = narrow(by_gamma), narrow(by_beta)
        lacking = [
            tf.reshape(gamma * tf.math.rsqrt(variance + epsilon) * (own - tf.reduce_mean(own, 0)) / length, [-1])
            for own in (by_gamma, by_beta)
        ]
        by_images = tf.reshape(by_images + scaled(images, (mean, variance), *lacking), tf.shape(inputs))
        found = by_images, tf.reduce_sum(by_gamma, 0), tf.reduce_sum(by_beta, 0)

        def second_order(*upstreams: Tensor) -> list[Any]:
            """Rarely used; computed by TensorFlow from the gradient of the plain operation."""
            with tf.GradientTape() as outer:
                outer.watch([upstream, inputs, gamma])
                with tf.GradientTape() as inner:
                    beta = tf.zeros_like(gamma)
                    inner.watch([inputs, gamma, beta])
                    outputs, *_ = _normalize(inputs, gamma, beta, epsilon)
                plain: Any = inner.gradient(outputs, [inputs, gamma, beta], output_gradients=upstream)
            second = outer.gradient(plain, [upstream, inputs, gamma], output_gradients=list(upstreams))
            return [*second, None, None]

        return found, second_order

    # A function with a custom gradient does not accept variables as arguments.
    return normalize(inputs, *map(tf.convert_to_tensor, (gamma, beta)))


def convolution(inputs: Tensor, kernel: Tensor, strides: tuple[int, int], padding: str) -> Tensor:
    """A convolution, channels last; grouped if the kernel has fewer planes than the inputs.

    Keras passes every grouped convolution to XLA, whose gradient is extremely slow on a CPU.

    Args:
        inputs: tensor `(batch, height, width, channels)`.
        kernel: tensor `(kh, kw, channels / groups, filters)`, group-major.
        strides: pair of ints.
        padding: `"same"` or `"valid"`.

    Returns:
        A tensor `(batch, new height, new width, filters)`.
    """
    # Called only if Keras runs on TensorFlow, which is then already imported.
    import tensorflow as tf

    # For an empty batch, TensorFlow returns too few channels from a convolution with a bias, which may precede this
    # one. This corrects the shape at no cost; a reshape alone would be optimized away.
    inputs = tf.reshape(tf.expand_dims(inputs, 0), (-1, *keras.ops.shape(inputs)[1:]))
    return tf.nn.conv2d(inputs, kernel, strides=strides, padding="SAME" if padding == "same" else "VALID")


@functools.cache
def has_grouped_gradients(dtype: str) -> bool:
    """Whether TensorFlow's CPU kernels include the gradients of a grouped convolution, tested on two numbers.

    oneDNN provides them. TensorFlow does not use oneDNN on CPUs without AVX-512 VNNI, AVX-VNNI or AMX unless
    `TF_ENABLE_ONEDNN_OPTS=1` is set before it starts, and does not include it on a Mac.
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
