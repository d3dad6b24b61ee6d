"""ShardNet's layers in NumPy, and helpers for the tests of its networks."""

import keras
import numpy as np

from keras_sharenets.analysis import calls


def conv(images, kernel, bias=0.0, strides=1):
    """A convolution with (k - 1) / 2 zeros of padding on each side."""
    size = kernel.shape[0]
    border = size // 2
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    outputs = bias
    for row in range(size):
        for column in range(size):
            window = padded[:, row : row + height : strides, column : column + width : strides]
            outputs = outputs + window @ kernel[row, column]
    return outputs


def norm(images, scale, offset, mean, variance):
    return (images - mean) / np.sqrt(variance + 1e-5) * scale + offset


def relu(images):
    return np.maximum(images, 0)


def max_pool(images):
    """2x2 max pooling with stride 2; an odd last row or column is dropped."""
    count, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))


def stored(model):
    """The tensors of each layer by name, in float64."""
    return {layer.name: [np.asarray(value, "float64") for value in layer.get_weights()] for layer in model.layers}


def scramble(model):
    """Sets random biases and statistics: initial values would hide a wrong or missing one."""
    for index, layer in enumerate(model.layers):
        random = np.random.default_rng(index)
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = random.uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])
        elif len(layer.get_weights()) == 2:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, random.uniform(-0.5, 0.5, bias.shape)])


def uses(model):
    """The number of calls of each layer with weights."""
    counts = {layer["name"]: len(layer["inbound_nodes"]) for layer in model.get_config()["layers"]}
    return {layer.name: counts[layer.name] for layer in model.layers if layer.weights}


def neighbors(model, beginning):
    """For each layer with this name prefix: its name, the names of its input layers, and of the layers that read it."""
    everything = calls(model)
    found = []
    for call in everything:
        if call.path.startswith(beginning):
            before = {other.path for other in everything if set(other.outputs) & set(call.inputs)}
            after = {other.path for other in everything if set(other.inputs) & set(call.outputs)}
            found.append((call.path, before, after))
    return found
