"""Timed workloads as functions without arguments: a pass through a model, a training step, a TFLite file."""

from __future__ import annotations

import math
import pathlib
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras
import numpy as np

from benchmarks import timing
from keras_sharenets.analysis.graph import calls
from keras_sharenets.timing import take_turns

Call = Callable[[], Any]


def model_pass(model: keras.Model, batch_size: int, *, training: bool, compiled: bool) -> Call:
    """A function that runs a model on random images and returns when it is done.

    Args:
        model: has one input and one output.
        training: whether to also compute the gradients with respect to the images and all trainable weights, given
            random gradients of the outputs.
        compiled: whether TensorFlow uses XLA; JAX always does.
    """
    random = np.random.default_rng(0)
    images = random.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    probe = random.standard_normal((batch_size, *model.output_shape[1:])).astype("float32")
    if keras.backend.backend() == "jax":
        return _pass_on_jax(model, images, probe, training)
    return _pass_on_tensorflow(model, images, probe, training, compiled)


def _pass_on_tensorflow(model, images, probe, training: bool, compiled: bool) -> Call:
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

    # On a CPU, a call returns after its work is done.
    function = tf.function(run, jit_compile=compiled)
    return lambda: function(images)


def _pass_on_jax(model, images, probe, training: bool) -> Call:
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


def training_step(model: keras.Model, batch_size: int, *, jit_compile: bool) -> Call:
    """Compiles a model and returns a function that trains it for one step on fixed random images, and waits.

    A step corresponds to a batch of `model.fit`: forward pass, cross-entropy, gradients, and an update by stochastic
    gradient descent with Nesterov momentum and without weight decay.

    Args:
        model: a classifier that outputs probabilities.
        jit_compile: whether TensorFlow uses XLA; Keras does not if a layer of the model does not support it. JAX
            always does.
    """
    random = np.random.default_rng(0)
    images = random.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    labels = random.integers(model.output_shape[-1], size=batch_size)
    # A low rate, so that values keep their initial magnitude.
    optimizer = keras.optimizers.SGD(1e-4, momentum=0.9, nesterov=True)
    compiled = jit_compile or keras.backend.backend() == "jax"
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=compiled)
    optimizer.build(model.trainable_variables)
    return lambda: model.train_on_batch(images, labels)


def train_new(build: Callable[[Any], keras.Model], argument: object, batch_size: int, jit_compile: bool) -> None:
    """Trains the network `build(argument)` for three steps, in the fresh process whose memory is measured."""
    step = training_step(build(argument), batch_size, jit_compile=jit_compile)
    for _ in range(3):
        step()


def stored_bytes(model: keras.Model) -> tuple[int, int]:
    """Bytes of the variables of a compiled model: `(weights, optimizer)`, each variable once."""
    weights, state = (
        sum(keras.ops.convert_to_numpy(variable).nbytes for variable in variables)
        for variables in (model.weights, model.optimizer.variables)
    )
    return weights, state


def activation_bytes(model: keras.Model, batch_size: int) -> int:
    """Bytes of the outputs of all calls of a model for one batch: the most that a step keeps for its gradients.

    >>> inputs = keras.Input((8, 8, 3))
    >>> activation_bytes(keras.Model(inputs, keras.layers.ReLU()(inputs)), batch_size=2)
    1536
    """
    outputs = [tensor for call in calls(model) for tensor in call.outputs]
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return batch_size * sum(math.prod(tensor.shape[1:]) * sizes[tensor.dtype] for tensor in outputs)


def convert_plainly(model: keras.Model, quantization: str | None, images: np.ndarray) -> bytes:
    """A TFLite file without this library: from TensorFlow's converter, for one image at a time.

    Args:
        quantization: `None` for float32, or `"int8"` for integers throughout.
        images: `(n, height, width, channels)`, for measuring the ranges.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    function = tf.function(lambda images: model(images, training=False), input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function)
    if quantization == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        # The warning about input statistics concerns only the older interface.
        warnings.simplefilter("ignore", UserWarning)
        return converter.convert()


def file_runs(path: pathlib.Path) -> bool:
    """Whether LiteRT runs a TFLite file. It rejects integer kernels that a file computes with a zero point."""
    from keras_sharenets.mobile.inspect.file import open_tflite

    try:
        open_tflite(path)
    except ValueError:
        return False
    return True


def measure_files(
    paths: Mapping[Any, pathlib.Path], *, threads: int, repetitions: int, peer: Hashable
) -> dict[Any, dict[str, Any]]:
    """What TFLite files cost, measured in turns: by name the columns of `timing.columns` to a peer, and counts.

    Each file is opened twice, the second time in reverse order, and the times of a round are means of the two: two
    interpreters of one file, which have their weights in other places of the memory, differ by up to 15 %.
    """
    from keras_sharenets.mobile.inspect.benchmark import compare_tflite, inference_call
    from keras_sharenets.mobile.inspect.file import open_tflite

    order = [*((name, 0) for name in paths), *((name, 1) for name in reversed(paths))]
    calls = {key: inference_call(open_tflite(paths[key[0]], num_threads=threads)) for key in order}
    turns = take_turns(calls, repetitions)
    times = timing.columns({name: np.mean([turns[name, 0], turns[name, 1]], axis=0) for name in paths}, peer)
    # For everything except times, for which it has no ratios per round.
    reports = compare_tflite(list(paths.values()), num_threads=threads, repetitions=1)
    return {
        name: times[name]
        | {
            "file_bytes": report.file_bytes,
            "weight_bytes": report.weight_bytes,
            "delegate_partitions": report.delegate_partitions,
            "undelegated_operators": report.undelegated_operators,
            "peak_memory_bytes": report.peak_memory_bytes,
        }
        for name, report in zip(paths, reports, strict=True)
    }
