"""Runs an inference graph in float, to test it by itself and to measure the ranges of its values."""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_sharenets.ops import kernels


def run(graph, pictures, watch=None):
    """The outputs of an inference graph.

    Args:
        graph: `InferenceGraph`.
        pictures: float array `(n, height, width, channels)`.
        watch: function `(value, array)` that is shown what every operation gives, or `None`.

    Returns:
        A float32 array, one row a picture.
    """
    values = {graph.input.number: ops.convert_to_tensor(np.asarray(pictures, "float32"))}
    remaining = {number: len(readers) for number, readers in graph.consumers().items()}
    if watch is not None:
        watch(graph.input, pictures)
    for operation in graph.operations:
        result = compute(operation, [values[value.number] for value in operation.inputs])
        values[operation.output.number] = result
        if watch is not None:
            watch(operation.output, result)
        for value in operation.inputs:
            remaining[value.number] -= 1
            if not remaining[value.number] and value.number != graph.output.number:
                del values[value.number]
    return ops.convert_to_numpy(values[graph.output.number])


def compute(operation, inputs):
    """What one operation makes of the tensors that it reads."""
    result = _LINEAR[operation.kind](operation, *inputs)
    if operation.scale is not None:
        result = result * operation.scale
    if operation.bias is not None:
        result = result + operation.bias
    return _ACTIVATIONS[operation.activation](result)


_ACTIVATIONS = {None: lambda x: x, "relu": ops.relu, "relu6": ops.relu6}


def _kernel(operation):
    return ops.convert_to_tensor(operation.kernel.array)


def _window(operation):
    return {"strides": operation.attributes["strides"], "padding": operation.attributes["padding"]}


def _convolve(operation, x, kernel):
    # Not `keras.ops.conv`: on a CPU that compiles every grouped convolution with XLA first.
    window = _window(operation)
    return tf.nn.conv2d(x, kernel, window["strides"], window["padding"].upper())


def _depthwise(operation, x):
    return ops.depthwise_conv(x, _kernel(operation), data_format="channels_last", **_window(operation))


def _conv(operation, x):
    return _convolve(operation, x, _kernel(operation))


def _shared_conv(operation, x):
    return _convolve(operation, x, kernels.repeat(_kernel(operation), operation.attributes["channel_repeats"]))


def _pool(function):
    def pool(operation, x):
        return function(x, operation.attributes["pool_size"], data_format="channels_last", **_window(operation))

    return pool


def _pad(operation, x):
    return ops.pad(x, operation.attributes["paddings"], mode=operation.attributes.get("mode", "constant"))


def _over_picture(function):
    return lambda operation, x: function(x, axis=(1, 2), keepdims=operation.attributes["keepdims"])


def _slice(operation, x):
    if "picture" in operation.attributes:
        x = x[operation.attributes["picture"]]
    start = operation.attributes["start"]
    return x[..., start : start + operation.output.shape[-1]]


def _stack(operation, x):
    groups = operation.attributes["groups"]
    return ops.moveaxis(ops.reshape(x, (*x.shape[:-1], x.shape[-1] // groups, groups)), -1, 0)


_LINEAR = {
    "conv": _conv,
    "shared_conv": _shared_conv,
    "depthwise": _depthwise,
    "dense": lambda operation, x: ops.matmul(x, _kernel(operation)),
    "affine": lambda operation, x: x,
    "identity": lambda operation, x: x,
    "add": lambda operation, x, y: x + y,
    "multiply": lambda operation, x, y: x * y,
    "concat": lambda operation, *xs: ops.concatenate(xs, axis=-1),
    "pad": _pad,
    "max_pool": _pool(ops.max_pool),
    "average_pool": _pool(ops.average_pool),
    "mean": _over_picture(ops.mean),
    "max": _over_picture(ops.max),
    "reshape": lambda operation, x: ops.reshape(x, (-1, *operation.output.shape[1:])),
    "slice": _slice,
    "stack": _stack,
    "permute": lambda operation, x: ops.take(x, operation.attributes["indices"], axis=-1),
    "softmax": lambda operation, x: ops.softmax(x),
    "sigmoid": lambda operation, x: ops.sigmoid(x),
}
