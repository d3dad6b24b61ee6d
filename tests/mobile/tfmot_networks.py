"""Networks and helpers for the tests of pruning and clustering."""

import keras
import numpy as np
from harness import pseudo_random

import keras_sharenets as ksn
from keras_sharenets.layers.quantized_kernels import stored_kernels

IMAGES, CLASSES = pseudo_random((48, 6, 6, 8)), np.arange(48) % 5


def network():
    """A classifier with every kind of kernel, in which one convolution is called three times."""
    keras.utils.set_random_seed(0)
    decay = {"kernel_regularizer": keras.regularizers.L2(1e-2)}
    x = inputs = keras.Input((6, 6, 8))
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=2, channel_repeats=2, arrangements=2, name="shared", **decay)
    for use in range(3):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm{use}")(shared(x)))
    x = keras.layers.Conv2D(8, 1, name="blend", **decay)(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = ksn.layers.HierarchicalGroupConv2D(8, groups=2, name="chain")(x)
    x = ksn.layers.InterleavedGroupConv2D(8, branch_channels=(2, 4), name="interleaved")(x)
    x = ksn.layers.SqueezeExcite(2, name="excite")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(5, "softmax", name="scores")(x), name="network")


def small_network():
    """A convolution that is called twice, followed by a classifier."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 8))
    shared = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="shared")
    for _ in range(2):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, "softmax", name="scores")(x), name="network")


def one_layer(kernel):
    """A dense layer with the given kernel and no bias."""
    model = keras.Sequential([keras.Input((kernel.shape[0],)), keras.layers.Dense(kernel.shape[1], use_bias=False)])
    model.layers[0].kernel.assign(kernel)
    return model


def fit(model, x=IMAGES, y=CLASSES, epochs=1, run_eagerly=False, **arguments):
    """Fits a model for six steps per epoch, and compiles it first if needed.

    `run_eagerly` avoids tracing, which takes longer than a dozen steps.
    """
    if not model.compiled:
        optimizer, how = keras.optimizers.SGD(0.05, momentum=0.9), {"run_eagerly": run_eagerly, "jit_compile": False}
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **how)
    keras.utils.set_random_seed(1)
    return model.fit(x, y, epochs=epochs, **{"batch_size": 8, "verbose": 0, "shuffle": False, **arguments})


def kernels(model):
    """All kernels of a model: `{path: array}`."""
    weights = {weight.path: weight.numpy() for layer in model.layers for weight, _ in stored_kernels(layer)}
    assert weights
    return weights


def count_distinct(array):
    return len(np.unique(array))
