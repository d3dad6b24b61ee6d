import keras
from keras import ops

from keras_sharenets._types import Tensor
from keras_sharenets.ops import choices, fused


@keras.saving.register_keras_serializable("keras_sharenets")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with a fused training step for TensorFlow on a CPU.

    Keras computes batch normalization in about ten operations, each of which reads all activations. In networks of many
    small convolutions, this is a third of a training step. Arguments, weights, shapes and results are the same as for
    Keras' layer. The layer falls back to Keras' implementation where the fused operation does not apply: on JAX, on an
    accelerator, in inference, with a mask, with renormalization, on an axis other than the last of a batch of images,
    and in float16 and float64.

    >>> import keras
    >>> layer = BatchNormalization()
    >>> tuple(layer(keras.ops.ones((1, 8, 8, 4)), training=True).shape), layer.count_params()
    ((1, 8, 8, 4), 16)
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if not (training and self.trainable and mask is None and self._is_fused(inputs)):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = ops.convert_to_tensor(self.gamma) if self.scale else ops.ones(channels)
        beta = ops.convert_to_tensor(self.beta) if self.center else ops.zeros(channels)
        outputs, mean, variance = fused.batch_normalization(inputs, gamma, beta, self.epsilon)
        for moving, moment in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + ops.stop_gradient(moment) * (1 - self.momentum))
        return outputs

    def _is_fused(self, inputs: Tensor) -> bool:
        images = len(inputs.shape) == 4 and self.axis in (-1, 3) and inputs.shape[-1] is not None
        plain = not self.renorm and not self.synchronized
        types = keras.backend.standardize_dtype(inputs.dtype), self.moving_mean.dtype
        known = types[0] in ("float32", "bfloat16") and types[1] == "float32" and types[0] == self.compute_dtype
        return images and plain and known and choices.xla_optional()
