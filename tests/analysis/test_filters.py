"""Filters and activations of a network, against sums and sorts in NumPy."""

import math

import keras
import numpy as np
import pytest

from keras_sharenets import analysis
from keras_sharenets.analysis import figures
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import HierarchicalGroupConv2D, HighlySharedConv2D

CLASSES = 3
SIGN = b"\x89PNG"


@pytest.fixture(scope="module")
def network():
    """Two stages: a sum followed by normalization and ReLU, and a convolution without ReLU."""
    keras.utils.set_random_seed(3)
    images = keras.Input((6, 6, 8))
    shared = HighlySharedConv2D(8, 3, groups=2, arrangements=2, name="shared")
    plain = keras.layers.Conv2D(8, 1, name="plain")
    x = keras.layers.Add(name="sum")([plain(images), shared(images)])
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="small")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(CLASSES)(x), name="tiny")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(30, 6, 6, 8)).astype("float32")


def test_filters_are_kernels_as_applied_and_as_stored(network):
    found = {each.name: each for each in analysis.filters(network)}
    assert set(found) == {"plain", "shared", "small"}
    shared, layer = found["shared"], network.get_layer("shared")
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel))
    assert kernel.shape == (3, 3, 4, 4)
    assert [stored.shape for stored in shared.stored] == [kernel.shape]
    # Two groups of two filters, each followed by copies with planes shuffled in two rows.
    stored, shuffled = (0, 1, 2, 3), (0, 2, 1, 3)
    rows = [
        (0, stored),
        (1, stored),
        (0, shuffled),
        (1, shuffled),
        (2, stored),
        (3, stored),
        (2, shuffled),
        (3, shuffled),
    ]
    expected = np.stack([kernel[:, :, planes, index] for index, planes in rows], axis=-1)
    np.testing.assert_array_equal(shared.kernel, expected)
    assert shared.arrangement.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    for each in found.values():
        sums = [
            sum(abs(float(weight)) for weight in each.kernel[..., index].ravel())
            for index in range(each.kernel.shape[-1])
        ]
        np.testing.assert_allclose(each.l1_norms, sums, rtol=1e-5)
    assert found["small"].kernel.shape == (3, 3, 1, 8)
    # Only kernels: no biases, dense layer or normalization.
    assert analysis.stored_weights(network).size == 8 * 8 + 3 * 3 * 4 * 4 + 3 * 3 * 8
    assert analysis.filter_norms(network).size == 8 + 8 + 8


def test_maps_are_counted_as_in_numpy(network, images):
    labels = np.arange(30) % CLASSES
    first, second = analysis.activation_maps(network, images, labels)
    assert (first.name, first.filters, first.size) == ("relu", "shared", (6, 6))
    assert (second.name, second.filters, second.size) == ("small", "small", (2, 2))
    for maps in (first, second):
        given = keras.Model(network.inputs, network.get_layer(maps.name).output)(images)
        positive = np.maximum(keras.ops.convert_to_numpy(given), 0)
        strongest, active = np.zeros((CLASSES, 8), int), np.zeros(8, int)
        for image, label in zip(positive, labels, strict=True):
            means = [float(image[:, :, index].mean()) for index in range(8)]
            for index in sorted(range(8), key=lambda index: -means[index])[:2]:
                strongest[label, index] += 1
            active += [bool((image[:, :, index] > 0).any()) for index in range(8)]
        np.testing.assert_array_equal(maps.strongest, strongest)
        np.testing.assert_array_equal(maps.active, active)
        assert maps.images.tolist() == [10, 10, 10]
        shares = strongest.sum(axis=0) / 30
        assert [maps.high(0.3), maps.high(0.1)] == [sum(shares > 0.3), sum(shares > 0.1)]
        assert maps.always_active(0.9) == sum(active > 27)
    assert first.arrangement.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    shares = first.strongest_share
    assert first.best(2, arranged=True) == sorted((2, 3, 6, 7), key=lambda index: -shares[index])[:2]
    (named,) = analysis.activation_maps(network, images, labels, layers=["plain"], part=0.5)
    assert (named.name, named.each, named.filters) == ("plain", 4, "plain")


@pytest.mark.parametrize("last", [keras.layers.Conv2D, HighlySharedConv2D, HierarchicalGroupConv2D])
def test_last_convolution_with_an_activation_is_the_end_of_its_stage(last):
    inputs = keras.Input((4, 4, 4))
    x = keras.layers.ReLU()(keras.layers.Conv2D(4, 1)(inputs))
    model = keras.Model(inputs, last(4, 1, groups=2, activation="relu", name="last")(x))
    (maps,) = analysis.activation_maps(model, np.ones((2, 4, 4, 4)), [0, 1])
    assert (maps.name, maps.filters) == ("last", "last")


class Batches(keras.utils.PyDataset):
    """Images in batches of 7, without labels."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return math.ceil(len(self.images) / 7)

    def __getitem__(self, index):
        return (self.images[7 * index : 7 * index + 7],)


@pytest.mark.slow
def test_batches_give_the_same_counts_as_an_array():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, activation="relu", name="first")(inputs))
    images, labels = np.random.default_rng(0).normal(size=(30, 6, 5, 1)).astype("float32"), np.arange(30) % CLASSES
    (array,) = analysis.activation_maps(model, images, labels)
    (batches,) = analysis.activation_maps(model, Batches(images), labels, input_shape=(6, 5, 1))
    assert batches.size == array.size == (4, 3)
    np.testing.assert_array_equal(batches.strongest, array.strongest)
    np.testing.assert_array_equal(batches.active, array.active)


@pytest.mark.slow
def test_figures_are_png_files(network, images):
    places = analysis.activation_maps(network, images, np.zeros(30, int))
    weights = {"tiny": analysis.stored_weights(network)}
    assert figures.draw_distributions(weights, "weight", "Weights").startswith(SIGN)
    assert figures.draw_strongest(places, ["all"], "Maps").startswith(SIGN)
    assert figures.draw_high({"tiny": places}, "Maps").startswith(SIGN)
    assert figures.draw_kernels(analysis.filters(network), "Kernels").startswith(SIGN)
    assert figures.draw_exciting({"original": ([1], images[:1, ..., :3])}, "Images").startswith(SIGN)


def test_exciting_images_excite_their_map(network):
    before = network.get_weights()
    found = in_policy(
        "mixed_bfloat16",
        lambda: analysis.exciting_images(network, "plain", [0, 5], steps=8, learning_rate=0.5),
    )
    assert found.dtype == np.float32
    gray = np.full((2, 6, 6, 8), 127.5, "float32")
    layer = network.get_layer("plain")
    for index, channel in enumerate((0, 5)):
        reached, flat = (keras.ops.convert_to_numpy(layer(each))[index, ..., channel].mean() for each in (found, gray))
        assert reached > flat + 1
    assert found.shape == (2, 6, 6, 8)
    assert found.min() >= 0
    assert found.max() <= 255
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert network.trainable


def test_bad_arguments(network, images):
    labels = np.zeros(30, int)
    for options, message in (
        ({"part": 0}, r"`part` \(=0\) must be above 0"),
        ({"layers": ["nowhere"]}, r"`layers` \(=\['nowhere'\]\) must be names of layers of 'tiny'"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.activation_maps(network, images, labels, **options)
    with pytest.raises(ValueError, match=r"The number of `labels` \(=29\) must be the number of images"):
        analysis.activation_maps(network, images, labels[1:])
    with pytest.raises(ValueError, match=r"`labels` \(the lowest is -1\) must be class indices of at least 0"):
        analysis.activation_maps(network, images, labels - 1)
    for channels in ([8], 3, [], "3"):
        with pytest.raises(ValueError, match=r"`channels` \(="):
            analysis.exciting_images(network, "plain", channels)
