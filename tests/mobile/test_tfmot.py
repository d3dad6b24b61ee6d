import importlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from families import representative
from harness import outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets import mobile
from keras_sharenets.analysis.blending import blending_layers
from keras_sharenets.layers.quantized_kernels import stored_kernels
from keras_sharenets.mobile import graph as files

PICTURES, CLASSES = pseudo_random((48, 6, 6, 8)), np.arange(48) % 5
TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}
NEVER = {"begin_step": 10**6, "end_step": 10**6 + 1}


def network():
    """A classifier with every kind of kernel; one convolution is called three times."""
    keras.utils.set_random_seed(0)
    decay = {"kernel_regularizer": keras.regularizers.L2(1e-2)}
    x = inputs = keras.Input((6, 6, 8))
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=2, channel_repeats=2, arrangements=2, name="shared", **decay)
    for use in range(3):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm{use}")(shared(x)))
    x = keras.layers.Conv2D(8, 1, name="blend", **decay)(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = ksn.layers.HierarchicalGroupConv2D(8, 2, name="chain")(x)
    x = ksn.layers.InterleavedGroupConv2D(8, (2, 4), name="interleaved")(x)
    x = ksn.layers.SqueezeExcite(2, name="excite")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(5, "softmax", name="scores")(x), name="network")


def small_network():
    """A convolution that is called twice, and a classifier."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 8))
    shared = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="shared")
    for _ in range(2):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, "softmax", name="scores")(x), name="network")


def fit(model, x=PICTURES, y=CLASSES, epochs=1, **arguments):
    """Fits a model, compiled here if it is not; six steps an epoch."""
    if not model.compiled:
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    keras.utils.set_random_seed(1)
    return model.fit(x, y, epochs=epochs, **{"batch_size": 8, "verbose": 0, "shuffle": False, **arguments})


def kernels(model):
    """All kernels of a model as arrays, by path."""
    weights = {weight.path: weight.numpy() for layer in model.layers for weight, _ in stored_kernels(layer)}
    assert weights
    return weights


def zeros_wanted(size, sparsity):
    return size - max(round(size * (1 - sparsity)), 1)


def distinct(array):
    return len(np.unique(array))


@pytest.mark.parametrize(("build", "jit_compile"), [(network, False), (small_network, True)])
def test_a_step_is_the_step_of_keras(build, jit_compile):
    """Where nothing is pruned yet: losses, metrics, regularisers of a layer that is called often, moving statistics."""
    histories, weights = [], []
    for make in (lambda model: model, lambda model: mobile.prune(model, **NEVER)):
        model = build()
        trained = make(model)
        optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 20), weight_decay=0.01)
        trained.compile(
            optimizer, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"], jit_compile=jit_compile
        )
        arguments = {"class_weight": {0: 2.0, 1: 0.5}, "validation_data": (PICTURES[:8], CLASSES[:8])}
        histories.append(fit(trained, epochs=2, **arguments).history)
        weights.append(model.get_weights())
    assert histories[0].keys() == histories[1].keys()
    for name, expected in histories[0].items():
        np.testing.assert_allclose(histories[1][name], expected, rtol=1e-5)
    for actual, expected in zip(weights[1], weights[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def one_layer(kernel):
    """A dense layer, which learns to give zeros, with that kernel."""
    model = keras.Sequential([keras.Input((kernel.shape[0],)), keras.layers.Dense(kernel.shape[1], use_bias=False)])
    model.layers[0].kernel.assign(kernel)
    return model


def loss_gradient(x, kernel):
    """Of the mean of the squares of `x @ kernel`."""
    return 2 * x.T @ (x @ kernel) / (len(x) * kernel.shape[1])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_pruning_is_that_of_the_paper(jit_compile):
    """Step by step: sparsity s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^3 at every fourth step and at the last."""
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
            mask[order[: zeros_wanted(kernel.size, sparsity)]] = 0
            mask = mask.reshape(kernel.shape)
        kernel = kernel * mask
        kernel = (kernel - 0.1 * loss_gradient(x, kernel)) * mask
        pruned.fit(x, np.zeros((4, 9)), batch_size=4, verbose=0)
        np.testing.assert_allclose(model.layers[0].kernel.numpy(), kernel, rtol=0, atol=1e-5)
    assert (kernel == 0).sum() == zeros_wanted(63, 0.7)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_clustering_is_that_of_the_definition(jit_compile):
    """Centroids have the mean of their weights' gradients; each weight, with its own, looks for the nearest."""
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


def test_each_kernel_is_pruned_for_itself():
    model = network()
    plain = [weight for weight in model.weights if "kernel" not in weight.path]
    pruned = mobile.prune(model, 0.9, end_step=6, frequency=2)
    fit(pruned, epochs=2)
    for path, kernel in kernels(model).items():
        assert (kernel == 0).sum() == zeros_wanted(kernel.size, 0.9), path
    assert all(np.count_nonzero(weight.numpy()) == weight.numpy().size for weight in plain if "seed" not in weight.path)


def test_zeros_stay():
    """Those of an earlier pruning, where a later one asks for fewer, and where clusters follow."""
    model = small_network()
    fit(mobile.prune(model, 0.7, end_step=4, frequency=1))
    zeros = {path: kernel == 0 for path, kernel in kernels(model).items()}
    for again in (mobile.prune(model, 0.1, end_step=4, frequency=1), mobile.cluster(model, 5)):
        fit(again, epochs=2)
        for path, kernel in kernels(model).items():
            assert not kernel[zeros[path]].any(), path
            assert kernel.any(), path
    assert all(distinct(kernel) <= 5 for kernel in kernels(model).values())


@pytest.mark.parametrize("centroids", ["kmeans++", "linear", "density", "random"])
def test_each_kernel_has_few_values(centroids):
    model = network() if centroids == "kmeans++" else small_network()
    clustered = mobile.cluster(model, 6, centroids=centroids)
    assert all(distinct(kernel) <= 6 for kernel in kernels(model).values())
    before = kernels(model)
    fit(clustered, epochs=2)
    after = kernels(mobile.strip(clustered))
    assert all(2 <= distinct(kernel) <= 6 for kernel in after.values())
    assert all(np.abs(after[path] - before[path]).max() > 0 for path in before)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (["shared", "excite"], {"shared", "excite"}),
        ("blending", {"blend"}),
        (lambda layer: isinstance(layer, keras.layers.Conv2D), {"blend"}),
    ],
)
def test_choice_of_layers(layers, chosen):
    model = network()
    pruned = mobile.prune(model, 0.5, layers, end_step=1)
    pruned.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    fit(pruned, PICTURES[:8], CLASSES[:8])
    assert {path.split("/")[0] for path, kernel in kernels(model).items() if (kernel == 0).any()} == chosen


def test_layers_in_a_model_inside():
    inner = one_layer(pseudo_random((4, 6)))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(inner(inputs)))
    name = f"{inner.name}/{inner.layers[0].name}"
    pruned = mobile.prune(model, 0.5, [name], end_step=2)
    pruned.compile("sgd", "mse", jit_compile=False)
    pruned.fit(np.ones((8, 4)), np.ones((8, 2)), batch_size=2, verbose=0)
    assert (inner.layers[0].kernel.numpy() == 0).sum() == 12
    assert model.get_layer("last").kernel.numpy().all()
    assert mobile.strip(pruned).layers[1] is inner


def constants(path, kind):
    """The constants of a type in a file, each buffer once."""
    contents = files.read_graph(path.read_bytes())
    graph = contents.Subgraphs(0)
    tensors = {graph.Tensors(index).Buffer(): graph.Tensors(index) for index in range(graph.TensorsLength())}
    return [
        contents.Buffers(buffer).DataAsNumpy().view(kind).reshape(tensor.ShapeAsNumpy())
        for buffer, tensor in tensors.items()
        if contents.Buffers(buffer).DataLength() and tensor.Type() == TYPES[kind]
    ]


def exported(model, quantization, folder):
    """The constants of the file of a model, kernels with the axes of Keras."""
    path, pictures = folder / "net.tflite", pseudo_random((8, *model.input_shape[1:]))
    report = mobile.export_tflite(model, path, quantization, pictures, prefer="size")
    assert report.stored_parameters == ksn.profile(model).stored_parameters
    found = constants(path, "float32" if quantization is None else "int8")
    return [array.transpose(1, 2, 3, 0) for array in found if array.ndim == 4]


@pytest.fixture(scope="module")
def shardnet():
    """A function that gives a fresh small network with one 3x3 convolution in seven places, and two blending layers."""

    def build():
        keras.utils.set_random_seed(0)
        overrides = {"filters": 20, "blocks_per_level": 1, "input_shape": (16, 16, 3)}
        return representative("shardnet", **overrides)

    return build


def test_zeros_of_blending_layers_reach_the_files(shardnet, tmp_path):
    model = shardnet()
    before = ksn.profile(model)
    pruned = mobile.prune(model, 0.6, "blending", end_step=4, frequency=1)
    fit(pruned, pseudo_random((32, 16, 16, 3)), np.arange(32) % 10)
    small = mobile.strip(pruned)
    assert ksn.profile(small).stored_parameters == before.stored_parameters
    blends = [layer.kernel.numpy() for layer in blending_layers(small).values()]
    assert [(kernel == 0).sum() for kernel in blends] == [240, 240]
    for quantization in (None, "int8"):
        found = exported(small, quantization, tmp_path)
        assert sum(array.shape == (3, 3, 20, 20) for array in found) == 1
        for kernel in blends:
            alike = [array for array in found if array.shape == kernel.shape and not array[kernel == 0].any()]
            assert len(alike) == 1
            assert (alike[0] == 0).mean() == pytest.approx(0.6, abs=0.02)


def test_clusters_of_the_shared_kernel_reach_the_file(shardnet, tmp_path):
    model = shardnet()
    clustered = mobile.cluster(model)
    fit(clustered, pseudo_random((32, 16, 16, 3)), np.arange(32) % 10)
    small = mobile.strip(clustered)
    assert all(distinct(kernel) <= 16 for kernel in kernels(small).values())
    (shared,) = (array for array in exported(small, None, tmp_path) if array.shape == (3, 3, 20, 20))
    assert distinct(shared) == distinct(model.get_layer("shared_spatial").kernel.numpy()) > 8


def test_callbacks_of_keras(tmp_path):
    model, seen = small_network(), []
    pruned = mobile.prune(model, 0.6, end_step=4, frequency=1)

    def look(epoch, logs):
        seen.append(all((kernel == 0).mean() > 0.5 for kernel in kernels(model).values()))

    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
        keras.callbacks.EarlyStopping("val_loss", patience=1, mode="max", restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.LambdaCallback(on_epoch_end=look, on_test_end=lambda logs: look(None, logs)),
    ]
    history = fit(pruned, epochs=9, initial_epoch=1, callbacks=callbacks, validation_data=(PICTURES, CLASSES))
    assert history.epoch == list(range(1, 1 + len(history.epoch)))
    assert len(seen) == 2 * len(history.epoch)
    assert all(seen)
    np.testing.assert_allclose(history.history["learning_rate"], [0.1 / (1 + epoch) for epoch in history.epoch])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(history.epoch)
    # The best epoch is the one that the weights are of.
    best = history.epoch[int(np.argmax(history.history["val_loss"]))]
    saved = keras.saving.load_model(tmp_path / f"{best + 1}.keras")
    assert type(saved) is type(keras.Model(model.inputs, model.outputs))
    for actual, expected in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("make", "few"),
    [
        (lambda model: mobile.prune(model, 0.6, end_step=4, frequency=1), lambda kernel: (kernel == 0).mean() > 0.5),
        (lambda model: mobile.cluster(model, 5), lambda kernel: distinct(kernel) <= 5),
    ],
    ids=["prune", "cluster"],
)
def test_interruption(make, few):
    model = small_network()
    trained = make(model)
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(trained, callbacks=[Interrupt()])
    assert int(trained.optimizer.iterations.numpy()) == 4
    assert all(few(kernel) for kernel in kernels(model).values())
    assert any(np.abs(now - then).max() > 0 for now, then in zip(model.get_weights(), before, strict=True))
    assert len(fit(trained, epochs=2).history["loss"]) == 2
    assert int(trained.optimizer.iterations.numpy()) == 16
    assert all(few(kernel) for kernel in kernels(model).values())


def test_clusters_begin_where_the_weights_are_put():
    """As `EarlyStopping` does it: what a second `fit` begins with are the weights that were put there, not its last."""
    model = small_network()
    clustered = mobile.cluster(model, 5)
    fit(clustered)
    best = model.get_weights()
    fit(clustered, epochs=2)
    assert not np.array_equal(model.get_weights()[0], best[0])
    model.set_weights(best)
    clustered.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", jit_compile=False)
    fit(clustered, PICTURES[:8], CLASSES[:8])
    for weight, expected in zip(model.weights, best, strict=True):
        assert "kernel" not in weight.path or np.array_equal(weight.numpy(), expected)


@pytest.mark.parametrize("form", ["dataset", "generator"])
def test_forms_of_data(form):
    batches = [(PICTURES[start : start + 8], CLASSES[start : start + 8]) for start in range(0, 48, 8)]
    data = (
        tf.data.Dataset.from_tensor_slices((PICTURES, CLASSES)).batch(8)
        if form == "dataset"
        else (batch for batch in batches)
    )
    first, second = small_network(), small_network()
    fit(mobile.cluster(first, 5))
    clustered = mobile.cluster(second, 5)
    fit(clustered, data, None, batch_size=None, steps_per_epoch=6)
    for actual, expected in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_files_and_copies_are_plain(tmp_path):
    model = small_network()
    clustered = mobile.cluster(model, 5)
    fit(clustered)
    clustered.save(tmp_path / "own.keras")
    keras.saving.save_model(clustered, tmp_path / "keras.keras")
    copies = [keras.saving.load_model(tmp_path / f"{name}.keras", compile=False) for name in ("own", "keras")]
    stripped = mobile.strip(clustered)
    assert stripped.layers == model.layers
    for copy in (*copies, stripped):
        assert type(copy) is type(model)
        np.testing.assert_array_equal(outputs_of(copy, PICTURES), outputs_of(model, PICTURES))
    assert clustered.count_params() == model.count_params()
    assert ksn.profile(clustered) == ksn.profile(model)


def test_strip_leaves_other_models_as_they_are():
    model = network()
    stripped = mobile.strip(model)
    assert stripped is not model
    assert stripped.layers == model.layers
    sequential = one_layer(np.ones((2, 3)))
    assert mobile.strip(sequential).layers[-1] is sequential.layers[0]
    with pytest.raises(ValueError, match="must be a functional Keras model"):
        mobile.strip(keras.layers.Dense(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"final_sparsity": 1}, r"`final_sparsity` \(=1\) must be at least 0 and below 1"),
        ({"initial_sparsity": -0.1}, r"`initial_sparsity` \(=-0.1\) must be at least 0 and below 1"),
        ({"initial_sparsity": 0.7}, r"`initial_sparsity` \(=0.7\) must not be above `final_sparsity` \(=0.6\)"),
        ({"begin_step": -1}, r"`begin_step` \(=-1\) must be a whole number from 0 and below `end_step` \(=9\)"),
        ({"begin_step": 9}, r"`begin_step` \(=9\) must be a whole number from 0 and below `end_step` \(=9\)"),
        ({"end_step": 0}, r"`end_step` \(=0\) must be a whole number of at least 1"),
        ({"frequency": 0}, r"`frequency` \(=0\) must be a whole number of at least 1"),
        ({"layers": "shared"}, r"`layers` \(='shared'\) must be None, 'blending', a function of a layer, or names"),
        ({"layers": 3}, r"`layers` \(=3\) must be None"),
        ({"layers": []}, r"`layers` \(=\[\]\) must be None"),
        (
            {"layers": ["norm0"]},
            r"names of layers with kernels of 'network', which are: shared, blend, depthwise, chain",
        ),
        ({"layers": lambda layer: False}, r"must choose a layer of 'network' with a kernel, and chose none"),
    ],
)
def test_bad_arguments_of_prune(arguments, message):
    with pytest.raises(ValueError, match=message):
        mobile.prune(network(), **{"end_step": 9, **arguments})


def test_other_bad_arguments():
    model = network()
    with pytest.raises(
        ValueError, match=r"`number_of_clusters` \(=1\) must be at least 2, and 3 where weights that are"
    ):
        mobile.cluster(model, 1)
    with pytest.raises(ValueError, match=r"`centroids` \(='best'\) must be one of 'kmeans\+\+', 'linear', 'density'"):
        mobile.cluster(model, centroids="best")
    with pytest.raises(ValueError, match=r"`optimizer` must not average weights \(`use_ema=True`\)"):
        mobile.cluster(model).compile(keras.optimizers.SGD(use_ema=True), "mse")
    kernel = model.get_layer("blend").kernel
    kernel.assign(np.where(kernel.numpy() < 0, 0, kernel.numpy()))
    with pytest.raises(
        ValueError, match=r"`number_of_clusters` \(=2\) must be at least 2, and 3 where weights that are"
    ):
        mobile.cluster(model, 2, ["blend"])
    mobile.cluster(model, 2, ["scores"])


def test_other_backends_and_missing_packages(monkeypatch):
    packages = "keras_sharenets.mobile.tfmot.packages"
    monkeypatch.delitem(sys.modules, packages, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras_sharenets\[mobile\]'"):
        importlib.import_module(packages)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="TFMOT needs the TensorFlow backend, and Keras runs on 'jax'"):
        mobile.prune(network(), end_step=9)


def test_packages_are_loaded_late_and_leave_no_trace():
    script = """
import os, sys
import keras
from keras_sharenets import mobile
assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
inputs = keras.Input((4,))
mobile.cluster(keras.Model(inputs, keras.layers.Dense(4)(inputs)), 2)
assert "tensorflow_model_optimization" in sys.modules
assert "TF_USE_LEGACY_KERAS" not in os.environ
import tensorflow
assert tensorflow.keras.Model is keras.Model
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
