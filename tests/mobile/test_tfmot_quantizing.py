import keras
import numpy as np
import pytest
from harness import outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets import mobile
from keras_sharenets.layers import FakeQuantize, QuantizedKernels
from keras_sharenets.mobile.compress import tfmot
from keras_sharenets.mobile.compress.tfmot import quantize_with_tfmot

IMAGES, CLASSES = pseudo_random((48, 8, 8, 3)), np.arange(48) % 5


def network():
    """A classifier with kernels of several shapes, a layer that is called twice, and a concatenation."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", kernel_regularizer="l2", name="stem")(inputs)
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=2, channel_repeats=2, arrangements=2, name="shared")
    for _ in range(2):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.Concatenate()([x, y])
    x = ksn.layers.HierarchicalGroupConv2D(8, groups=2, name="chain")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, "softmax", name="scores")(x))


def fit(model, images=IMAGES, epochs=1, momentum=0.0, run_eagerly=False):
    """Trains for six steps per epoch and returns the losses."""
    if not model.compiled:
        optimizer = keras.optimizers.SGD(0.02, momentum)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False, run_eagerly=run_eagerly)
    arguments = {"batch_size": 8, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(images, CLASSES[: len(images)], **arguments).history["loss"]


@pytest.mark.slow
def test_training_matches_keras_engine():
    """Losses, weights, and ranges after two steps; the second step uses the ranges of the first."""
    own, given = mobile.quantize_aware(network()), mobile.quantize_aware(network())
    trained = quantize_with_tfmot(given)
    assert max(layer.places for layer in own.layers if isinstance(layer, FakeQuantize)) > 1
    losses = [fit(model, IMAGES[:16], run_eagerly=True) for model in (trained, own)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    before = network().weights
    assert len(given.weights) == len(own.weights) > len(before)
    for actual, expected in zip(given.weights, own.weights, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=1e-4)
    outputs = [outputs_of(model, IMAGES) for model in (trained, given)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.slow
def test_training_and_file(tmp_path):
    model = network()
    trained = quantize_with_tfmot(mobile.quantize_aware(model))
    losses = fit(trained, epochs=6, momentum=0.9)
    assert losses[-1] < losses[0]
    report = mobile.export_tflite(trained, tmp_path / "net.tflite", quantization="int8", representative_data=IMAGES)
    assert report.score_error < 0.1
    stripped = mobile.strip(trained)
    assert stripped.layers[1:] == model.layers[1:]
    np.testing.assert_array_equal(outputs_of(stripped, IMAGES), outputs_of(model, IMAGES))
    trained.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(outputs_of(loaded, IMAGES), outputs_of(trained, IMAGES), rtol=0, atol=1e-6)


@pytest.mark.parametrize("jit_compile", slow_after(1, [False, True]))
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 3, 4, 6), -1), ((3, 3, 6, 1), (2, 3)), ((3, 3, 3, 2), (2, 3)), ((2, 5), -1), ((2, 3, 4), None)],
)
def test_rounding_of_kernels(shape, axis, jit_compile):
    """127 steps on either side of 0, the last being the largest magnitude of a filter; zero filters are unchanged."""
    kernel = pseudo_random(shape)
    if axis is not None:
        kernel.reshape(-1, np.prod(shape[min(np.atleast_1d(axis)) :]))[:, 1] = 0
    others = None if axis is None else tuple(range(kernel.ndim))[: min(np.atleast_1d(axis))]
    step = np.maximum(np.abs(kernel).max(axis=others, keepdims=True) / 127, 1e-9)
    rounding = tfmot._KernelQuantizer(axis, shape)
    rounded = tfmot.tf.function(rounding, jit_compile=jit_compile)(keras.ops.convert_to_tensor(kernel)).numpy()
    np.testing.assert_allclose(rounded, np.round(kernel / step) * step, rtol=0, atol=1e-5)
    assert len(np.unique(rounded)) > 2


def test_ranges_are_moving_averages():
    """The first batch sets the range of a place, later ones update it; the union of both places is used."""
    layer = FakeQuantize(2, momentum=0.75)
    layer.build((None, 4))
    values = tfmot._Values(layer)
    first, second, third = np.float32([[-1, 3, 0, 1]]), np.float32([[-5, 1, 0, 0]]), np.float32([[0, 1, 7, 0.001]])
    values(first, place=0)
    np.testing.assert_allclose(layer.low.numpy(), [-1, 0])
    np.testing.assert_allclose(layer.high.numpy(), [3, 0])
    values(second, place=1)
    rounded = values(third, place=0)
    np.testing.assert_allclose(layer.low.numpy(), [-0.75, -5])
    np.testing.assert_allclose(layer.high.numpy(), [4, 1])
    # From -5 to 4 in 255 steps, shifted so that 0 is exact.
    np.testing.assert_allclose(rounded.numpy(), [[0, 28 * 9 / 255, 113 * 9 / 255, 0]], rtol=1e-5)


@pytest.mark.parametrize("preserve", ["zeros", pytest.param("clusters", marks=pytest.mark.slow)])
def test_zeros_and_clusters_are_preserved(preserve):
    model = network()
    fit(mobile.prune(model, 0.5, end_step=2, frequency=1), IMAGES[:16], run_eagerly=True)
    fit(mobile.cluster(model, 6), IMAGES[:16], run_eagerly=True)
    trained = quantize_with_tfmot(mobile.quantize_aware(model, preserve=preserve))
    before = [weight.numpy() for weight in model.weights if "kernel" in weight.path]
    fit(trained, IMAGES[:24], momentum=0.9, run_eagerly=True)
    wrappers = [layer for layer in trained.layers if isinstance(layer, QuantizedKernels)]
    after = [kernel.numpy() for wrapper in wrappers for kernel in wrapper.preserved_kernels()]
    assert len(after) == len(before)
    for old in before:
        (new,) = (kernel for kernel in after if kernel.shape == old.shape and np.array_equal(kernel == 0, old == 0))
        assert np.abs(new - old).max() > 0
        assert preserve == "zeros" or len(np.unique(new)) <= 6


def test_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match="must be made by `quantize_aware`: nothing in it is quantized"):
        quantize_with_tfmot(network())
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="TFMOT needs the TensorFlow backend, and Keras runs on 'jax'"):
        quantize_with_tfmot(network())
