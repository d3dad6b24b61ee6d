"""Small networks for the tests of sharing, with batch statistics as after training."""

import keras
import numpy as np
from harness import pseudo_random


def set_trained_statistics(model, seed=1):
    """Sets scales, offsets, means, and variances of every normalization to values that differ between channels."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [random.normal(1, 0.3, weight.shape) for weight in layer.weights]
            layer.set_weights([np.abs(value) + 0.1 for value in values])
            if layer.scale:  # Some scales are negative, as after training.
                layer.gamma.assign(np.where(random.random(layer.gamma.shape) < 0.2, -1, 1) * layer.gamma.numpy())
        elif isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            layer.bias.assign(random.normal(0, 0.3, layer.bias.shape))
    return model


def residual_network(width=8, blocks=2, stages=2, *, use_bias=False, side=12, classes=3):
    """A stem and stages of residual blocks of 1x1, 3x3, and 1x1 convolutions."""
    keras.utils.set_random_seed(0)

    def convolved(x, filters, size, name, strides=1):
        conv = keras.layers.Conv2D(filters, size, strides, "same", use_bias=use_bias, name=name)
        return keras.layers.BatchNormalization(name=f"{name}_norm")(conv(x))

    inputs = keras.Input((side, side, 3))
    x = convolved(inputs, width, 3, "stem")
    for stage in range(stages):
        if stage:
            x = convolved(x, width, 3, f"down{stage}", 2)
        for block in range(blocks):
            name = f"stage{stage}_block{block}"
            y = keras.layers.ReLU()(convolved(x, 2 * width, 1, f"{name}_expand"))
            y = keras.layers.ReLU()(convolved(y, 2 * width, 3, f"{name}_spatial"))
            x = keras.layers.Add(name=f"{name}_add")([x, convolved(y, width, 1, f"{name}_reduce")])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return set_trained_statistics(keras.Model(inputs, keras.layers.Dense(classes, name="scores")(x)))


def nested_network(width=8, count=3, *, side=10):
    """Convolutions with biases and activations and without normalization, in a model nested in a `Sequential`."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((side, side, width)), *_convolutions(width, count)], name="inner")
    layers = [keras.Input((side, side, 3)), keras.layers.Conv2D(width, 3, name="conv0"), keras.layers.ZeroPadding2D()]
    return set_trained_statistics(keras.Sequential([*layers, inner, keras.layers.Flatten(), keras.layers.Dense(3)]))


def _convolutions(width, count):
    # The first one has the same name as one in the outer model.
    return [
        keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number}")
        for number in range(count)
    ]


def images(model, count=16, seed=3):
    """Images of the input shape of a network."""
    return pseudo_random((count, *model.input_shape[1:]), seed)
