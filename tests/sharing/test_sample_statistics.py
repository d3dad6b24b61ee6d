"""Statistics on sample images, compared with the patches that Keras extracts."""

import keras
import numpy as np
from harness import pseudo_random

from keras_sharenets.analysis.graph import trace
from keras_sharenets.sharing.measuring import measure_samples
from keras_sharenets.sharing.places import Place


def patches(images, layer):
    """The patches that a convolution reads, one per row."""
    found = keras.ops.image.extract_patches(
        images, layer.kernel_size, strides=layer.strides, dilation_rate=layer.dilation_rate, padding=layer.padding
    )
    rows = keras.ops.convert_to_numpy(found)
    return rows.reshape(-1, rows.shape[-1]).astype("float64")


def test_statistics_of_patches_and_of_normalized_values():
    """Moments are centered if a normalization follows; one that is called twice has the statistics of both inputs."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7, 6, 2))
    same = keras.layers.Conv2D(3, (3, 2), strides=(2, 1), padding="same", bias_initializer="ones", name="same")
    norm = keras.layers.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(4))
    dilated = keras.layers.Conv2D(2, 2, dilation_rate=(1, 2), name="dilated")
    model = keras.Model(inputs, dilated(norm(norm(same(inputs)))))
    graph, images = trace(model), 1 + pseudo_random((3, 7, 6, 2))
    of_layer = {call.path: call for call in graph.calls}
    places = [
        Place(same, (of_layer["same"],), (norm,), 0, (4, 6)),
        Place(dilated, (of_layer["dilated"],), (), 0, (3, 4)),
    ]
    found = measure_samples(graph, places, [images])
    first = same(images)
    second = norm(first)
    centered, plain = patches(images, same), patches(norm(second), dilated)
    assert (centered.shape, plain.shape) == ((3 * 4 * 6, 12), (3 * 3 * 4, 12))
    np.testing.assert_allclose(found.moments["same"], np.cov(centered.T, bias=True), atol=1e-5)
    np.testing.assert_allclose(found.moments["dilated"], plain.T @ plain / len(plain), atol=1e-5)
    both = np.concatenate([keras.ops.convert_to_numpy(each).reshape(-1, 3) for each in (first, second)])
    ((mean, variance),) = found.statistics.values()
    np.testing.assert_allclose(mean, both.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(variance, both.var(axis=0), atol=1e-5)
