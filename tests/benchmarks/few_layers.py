"""A small network that replaces a named one."""

import keras

from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.layers import HighlySharedConv2D

VECTORS = 3 * 2 * 64 + 10


def tiny_network(name="tiny", *, input_shape=(8, 8, 3), num_classes=10, negative_share=0.0):
    """A network whose shared kernel may be stored once or twice in a file; `VECTORS` weights are not in kernels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(64, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    shared = HighlySharedConv2D(64, 3, groups=4, channel_repeats=2, arrangements=2)
    for _ in range(2):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax")(x), name=name)
    randomize_batchnorm(model, negative_share=negative_share)
    return model


def unshared_counts():
    """`(trainable weights, moving statistics, multiply-adds)` of the unshared baseline of `tiny_network`."""
    kernels = 9 * 3 * 64 + 2 * 9 * 16 * 64
    return kernels + VECTORS + 64 * 10, 3 * 2 * 64, 8 * 8 * kernels + 64 * 10
