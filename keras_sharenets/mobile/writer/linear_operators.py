"""Operators with a kernel, and those with a scale and a shift alone; an operation has what its kind has."""

from __future__ import annotations

import math
from typing import Any

from keras_sharenets.mobile.writer.operators import Tensors, add_operator, integers, options_of, reshape_to, transposed

# The version of CONV_2D that has groups, and of TRANSPOSE_CONV that has an activation.
_GROUPED, _ACTIVATED = 6, 4


def _convolution_kernel(tensors, operation):
    # Keras: (height, width, inputs, filters); the file: filters first.
    return tensors.kernel(operation, operation.kernel, operation.kernel.array.transpose(3, 0, 1, 2), axis=0)


def conv(tensors: Tensors, operation: Any) -> None:
    """A convolution, grouped or not."""
    kernel = _convolution_kernel(tensors, operation)
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    version = _GROUPED if operation.attributes["groups"] > 1 else None
    add_operator(tensors, "CONV_2D", inputs, tensors.value(operation.output), options_of("Conv2D", operation), version)


def shared_conv(tensors: Tensors, operation: Any) -> None:
    """The filter bank once, over a batch of all repeats: parts of the image's channels."""
    (source,), repeats = operation.inputs, operation.attributes["channel_repeats"]
    _, height, width, channels = source.shape
    table, batch = (height * width, repeats, channels // repeats), (repeats, height, width, channels // repeats)
    x = transposed(tensors, tensors.value(source), source, table, (1, 0, 2), batch)
    kernel = _convolution_kernel(tensors, operation)
    _, height, width, filters = operation.output.shape
    y = tensors.like(operation.output, (repeats, height, width, filters // repeats), name="t")
    inputs = [x, kernel, tensors.zeros(operation, filters // repeats)]
    version = _GROUPED if operation.attributes["groups"] > repeats else None
    add_operator(tensors, "CONV_2D", inputs, y, options_of("Conv2D", operation), version)
    table = (repeats, height * width, filters // repeats)
    y = transposed(tensors, y, operation.output, table, (1, 0, 2), operation.output.shape, free=1)
    tensors.bind(operation.output, y)


def depthwise(tensors: Tensors, operation: Any) -> None:
    """A convolution of each channel with its own filters."""
    height, width, channels, filters = operation.kernel.array.shape
    array = operation.kernel.array.reshape(1, height, width, channels * filters)
    kernel = tensors.kernel(operation, operation.kernel, array, axis=3)
    _depthwise_conv(tensors, operation, kernel, options_of("DepthwiseConv2D", operation, depthMultiplier=filters))


def conv_transpose(tensors: Tensors, operation: Any) -> None:
    """A transposed convolution; its shape is an input."""
    kernel, shape = _convolution_kernel(tensors, operation), integers(tensors, operation.output.shape)
    inputs = [shape, kernel, tensors.value(operation.inputs[0]), tensors.bias(operation)]
    version = _ACTIVATED if operation.activation else None
    options = options_of("TransposeConv", operation)
    add_operator(tensors, "TRANSPOSE_CONV", inputs, tensors.value(operation.output), options, version)


def affine(tensors: Tensors, operation: Any) -> None:
    """A scale and a shift are a depthwise convolution of one pixel, which runtimes run with its activation.

    A vector, or a table, is an image for it.
    """
    options = options_of("DepthwiseConv2D", operation, depthMultiplier=1, strideH=1, strideW=1)
    kernel, shape = tensors.scale(operation, operation.scale), operation.output.shape
    if len(shape) == 4:
        _depthwise_conv(tensors, operation, kernel, options)
        return
    (source,), image = operation.inputs, (1, 1, math.prod(shape[:-1]), shape[-1])
    x, y = (tensors.like(value, image, name="t") for value in (source, operation.output))
    reshape_to(tensors, tensors.value(source), x, image)
    add_operator(tensors, "DEPTHWISE_CONV_2D", [x, kernel, tensors.bias(operation)], y, options)
    reshape_to(tensors, y, tensors.value(operation.output), shape)


def _depthwise_conv(tensors, operation, kernel, options):
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    add_operator(tensors, "DEPTHWISE_CONV_2D", inputs, tensors.value(operation.output), options)


def dense(tensors: Tensors, operation: Any) -> None:
    """A matrix product."""
    kernel = tensors.kernel(operation, operation.kernel, operation.kernel.array.T, axis=0)
    inputs = [tensors.value(operation.inputs[0]), kernel, tensors.bias(operation)]
    options = options_of("FullyConnected", operation)
    add_operator(tensors, "FULLY_CONNECTED", inputs, tensors.value(operation.output), options)
