"""One pass through a model, forward or with gradients, as a function without arguments."""

import keras
import numpy as np


def make(model, batch_size, training, compiled):
    """What runs a model on random pictures and returns when it is done.

    Args:
        model: `keras.Model` with one input and one output.
        batch_size: int.
        training: bool, whether to form the gradients by the pictures and by all trainable weights too, from random
            gradients of the outputs.
        compiled: bool, whether TensorFlow uses XLA; JAX always does.

    Returns:
        A function without arguments.
    """
    random = np.random.default_rng(0)
    images = random.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    probe = random.standard_normal((batch_size, *model.output_shape[1:])).astype("float32")
    if keras.backend.backend() == "jax":
        return _with_jax(model, images, probe, training)
    return _with_tensorflow(model, images, probe, training, compiled)


def _with_tensorflow(model, images, probe, training, compiled):
    import tensorflow as tf

    images, probe = tf.constant(images), tf.constant(probe)
    variables = [variable.value for variable in model.trainable_variables]

    def run(images):
        if not training:
            return model(images, training=False)
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=True)
        return tape.gradient(outputs, [images, *variables], probe)

    # On a CPU a call returns when its work is done.
    function = tf.function(run, jit_compile=compiled)
    return lambda: function(images)


def _with_jax(model, images, probe, training):
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    def outputs(images, trainable):
        return model.stateless_call(trainable, fixed, images, training=training)[0]

    def gradients(images, trainable):
        return jax.grad(lambda *given: (outputs(*given) * probe).sum(), (0, 1))(images, trainable)

    function = jax.jit(gradients if training else outputs)
    images = jax.numpy.asarray(images)
    return lambda: jax.block_until_ready(function(images, trainable))
