"""Pruning and clustering of kernels, step by step, and the choice of kernels."""

import keras
import numpy as np
import pytest
from harness import pseudo_random, slow_after
from tfmot_networks import CLASSES, IMAGES, count_distinct, fit, kernels, network, one_layer, small_network

from keras_sharenets import mobile

NEVER = {"begin_step": 10**6, "end_step": 10**6 + 1}


def expected_zeros(size, sparsity):
    return size - max(round(size * (1 - sparsity)), 1)


# By default, this test runs eagerly; the next two tests trace functions.
@pytest.mark.parametrize(
    ("build", "how"),
    slow_after(
        1,
        [
            (small_network, {"run_eagerly": True}),
            (small_network, {"jit_compile": False}),
            (small_network, {"jit_compile": True}),
            (network, {"jit_compile": False}),
        ],
    ),
)
def test_training_step_matches_keras(build, how):
    """Before pruning begins: losses, metrics, regularizers of a shared layer, and moving statistics."""
    histories, weights, epochs = [], [], 1 if "run_eagerly" in how else 2
    for make in (lambda model: model, lambda model: mobile.prune(model, **NEVER)):
        model = build()
        trained = make(model)
        optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 20), weight_decay=0.01)
        trained.compile(optimizer, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"], **how)
        arguments = {"class_weight": {0: 2.0, 1: 0.5}, "validation_data": (IMAGES[:8], CLASSES[:8])}
        histories.append(fit(trained, epochs=epochs, **arguments).history)
        weights.append(model.get_weights())
    assert histories[0].keys() == histories[1].keys()
    for name, expected in histories[0].items():
        np.testing.assert_allclose(histories[1][name], expected, rtol=1e-5)
    for actual, expected in zip(weights[1], weights[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def loss_gradient(x, kernel):
    """The gradient of the mean square of `x @ kernel`."""
    return 2 * x.T @ (x @ kernel) / (len(x) * kernel.shape[1])


@pytest.mark.parametrize("jit_compile", slow_after(1, [False, True]))
def test_pruning_schedule(jit_compile):
    """The sparsity is s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^3 at every fourth step and at the last."""
    kernel, x = pseudo_random((7, 9)), pseudo_random((4, 7), seed=1)
    model = one_layer(kernel)
    pruned = mobile.prune(model, 0.7, initial_sparsity=0.2, begin_step=2, end_step=12, frequency=4)
    pruned.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    mask = np.ones_like(kernel)
    for step in range(1, 16):
        if step in (2, 6, 10, 12):
            sparsity = 0.7 - 0.5 * (1 - (step - 2) / 10) ** 3
            order = np.argsort(np.abs(kernel * mask), axis=None)
            mask = np.ones(kernel.size)
            mask[order[: expected_zeros(kernel.size, sparsity)]] = 0
            mask = mask.reshape(kernel.shape)
        kernel = kernel * mask
        kernel = (kernel - 0.1 * loss_gradient(x, kernel)) * mask
        pruned.fit(x, np.zeros((4, 9)), batch_size=4, verbose=0)
        np.testing.assert_allclose(model.layers[0].kernel.numpy(), kernel, rtol=0, atol=1e-5)
    assert (kernel == 0).sum() == expected_zeros(63, 0.7)


@pytest.mark.parametrize("jit_compile", slow_after(1, [False, True]))
def test_clustering_step(jit_compile):
    """Centroids follow the mean gradient of their weights; weights follow their gradients and are reassigned."""
    weights, x = pseudo_random((7, 9)), pseudo_random((4, 7), seed=1)
    model = one_layer(weights)
    clustered = mobile.cluster(model, 4, centroids="linear")
    clustered.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    centroids = np.linspace(weights.min(), weights.max(), 4)
    for _ in range(6):
        nearest = np.abs(weights[..., None] - centroids).argmin(axis=-1)
        np.testing.assert_allclose(model.layers[0].kernel.numpy(), centroids[nearest], rtol=0, atol=1e-5)
        gradient = loss_gradient(x, centroids[nearest])
        weights = weights - 0.1 * gradient
        centroids = centroids - 0.1 * np.array([gradient[nearest == member].mean() for member in range(4)])
        clustered.fit(x, np.zeros((4, 9)), batch_size=4, verbose=0)


def test_each_kernel_is_pruned_separately():
    model = network()
    plain = [weight for weight in model.weights if "kernel" not in weight.path]
    pruned = mobile.prune(model, 0.9, end_step=4, frequency=2)
    fit(pruned, run_eagerly=True)
    for path, kernel in kernels(model).items():
        assert (kernel == 0).sum() == expected_zeros(kernel.size, 0.9), path
    assert all(np.count_nonzero(weight.numpy()) == weight.numpy().size for weight in plain if "seed" not in weight.path)


def test_zeros_are_preserved():
    """Zeros of an earlier pruning remain if a later one requests fewer, and when clustering follows."""
    model = small_network()
    few = IMAGES[:24], CLASSES[:24]
    fit(mobile.prune(model, 0.7, end_step=2, frequency=1), *few, run_eagerly=True)
    zeros = {path: kernel == 0 for path, kernel in kernels(model).items()}
    for again in (mobile.prune(model, 0.1, end_step=2, frequency=1), mobile.cluster(model, 5)):
        fit(again, *few, run_eagerly=True)
        for path, kernel in kernels(model).items():
            assert not kernel[zeros[path]].any(), path
            assert kernel.any(), path
    assert all(count_distinct(kernel) <= 5 for kernel in kernels(model).values())


@pytest.mark.parametrize(
    ("centroids", "build"),
    slow_after(
        1,
        [
            ("kmeans++", small_network),
            ("kmeans++", network),
            ("linear", small_network),
            ("density", small_network),
            ("random", small_network),
        ],
    ),
)
def test_each_kernel_has_at_most_the_given_number_of_values(centroids, build):
    model = build()
    clustered = mobile.cluster(model, 6, centroids=centroids)
    assert all(count_distinct(kernel) <= 6 for kernel in kernels(model).values())
    before = kernels(model)
    fit(clustered, epochs=2, run_eagerly=True)
    after = kernels(mobile.strip(clustered))
    assert all(2 <= count_distinct(kernel) <= 6 for kernel in after.values())
    assert all(np.abs(after[path] - before[path]).max() > 0 for path in before)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (["shared", "excite"], {"shared", "excite"}),
        ("blending", {"blend"}),
        (lambda layer: isinstance(layer, keras.layers.Conv2D), {"blend"}),
    ],
)
def test_selection_of_layers(layers, chosen):
    model = network()
    pruned = mobile.prune(model, 0.5, layers=layers, end_step=1)
    pruned.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    fit(pruned, IMAGES[:8], CLASSES[:8])
    assert {path.split("/")[0] for path, kernel in kernels(model).items() if (kernel == 0).any()} == chosen


def test_layers_of_nested_models():
    inner = one_layer(pseudo_random((4, 6)))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(inner(inputs)))
    name = f"{inner.name}/{inner.layers[0].name}"
    pruned = mobile.prune(model, 0.5, layers=[name], end_step=2)
    pruned.compile("sgd", "mse", jit_compile=False)
    pruned.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=2, verbose=0)
    assert (inner.layers[0].kernel.numpy() == 0).sum() == 12
    assert model.get_layer("last").kernel.numpy().all()
    assert mobile.strip(pruned).layers[1] is inner
