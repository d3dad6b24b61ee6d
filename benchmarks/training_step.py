"""A whole step of training as a function without arguments, and the bytes that it works on."""

import math

import keras
import numpy as np

from keras_sharenets.analysis.graph import calls


def make(model, batch_size, jit_compile):
    """Compiles a model; what trains it for one step on random pictures, always the same ones, and waits for the end.

    A step is what `model.fit` does with a batch: forward, cross-entropy, gradients, an update by stochastic gradient
    descent with Nesterov's momentum. There is no weight decay.

    Args:
        model: `keras.Model`, a classifier that gives probabilities.
        batch_size: int.
        jit_compile: bool, whether TensorFlow uses XLA; where a layer of the model does not support that, Keras does
            not. JAX always does.

    Returns:
        A function without arguments.
    """
    random = np.random.default_rng(0)
    pictures = random.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    labels = random.integers(model.output_shape[-1], size=batch_size)
    # So slow that numbers stay what they are like in the beginning.
    optimizer = keras.optimizers.SGD(1e-4, momentum=0.9, nesterov=True)
    compiled = jit_compile or keras.backend.backend() == "jax"
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=compiled)
    optimizer.build(model.trainable_variables)
    return lambda: model.train_on_batch(pictures, labels)


def train_new(build, argument, batch_size, jit_compile):
    """Trains the network `build(argument)` for three steps: what a fresh process does whose memory is measured."""
    step = make(build(argument), batch_size, jit_compile)
    for _ in range(3):
        step()


def stored_bytes(model):
    """Bytes of what a model that `make` compiled keeps: `(weights, optimizer)`, each variable once."""
    return _bytes(model.weights), _bytes(model.optimizer.variables)


def _bytes(variables):
    return sum(keras.ops.convert_to_numpy(variable).nbytes for variable in variables)


def activation_bytes(model, batch_size):
    """Bytes of the outputs of all calls of a model for one batch: what a step keeps for its gradients, at most.

    >>> inputs = keras.Input((8, 8, 3))
    >>> activation_bytes(keras.Model(inputs, keras.layers.ReLU()(inputs)), batch_size=2)
    1536
    """
    outputs = [tensor for call in calls(model) for tensor in call.outputs]
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return batch_size * sum(math.prod(tensor.shape[1:]) * sizes[tensor.dtype] for tensor in outputs)
