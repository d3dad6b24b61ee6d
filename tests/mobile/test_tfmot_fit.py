"""Pruning and clustering with Keras' `fit`: callbacks, interruption, repeated calls, and forms of data."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import slow_after
from tfmot_networks import CLASSES, IMAGES, count_distinct, fit, kernels, small_network

from keras_sharenets import mobile


def test_keras_callbacks(tmp_path):
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
    history = fit(pruned, epochs=9, initial_epoch=1, callbacks=callbacks, validation_data=(IMAGES, CLASSES))
    assert history.epoch == list(range(1, 1 + len(history.epoch)))
    assert len(seen) == 2 * len(history.epoch)
    assert all(seen)
    np.testing.assert_allclose(history.history["learning_rate"], [0.1 / (1 + epoch) for epoch in history.epoch])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(history.epoch)
    # The weights are those of the best epoch.
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
    slow_after(
        1,
        [
            (
                lambda model: mobile.prune(model, 0.6, end_step=4, frequency=1),
                lambda kernel: (kernel == 0).mean() > 0.5,
            ),
            (lambda model: mobile.cluster(model, 5), lambda kernel: count_distinct(kernel) <= 5),
        ],
    ),
    ids=["prune", "cluster"],
)
def test_interruption(make, few):
    model = small_network()
    trained = make(model)
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(trained, callbacks=[Interrupt()], run_eagerly=True)
    assert int(trained.optimizer.iterations.numpy()) == 4
    assert all(few(kernel) for kernel in kernels(model).values())
    assert any(np.abs(now - then).max() > 0 for now, then in zip(model.get_weights(), before, strict=True))
    assert len(fit(trained, epochs=2).history["loss"]) == 2
    assert int(trained.optimizer.iterations.numpy()) == 16
    assert all(few(kernel) for kernel in kernels(model).values())


def test_fit_starts_from_assigned_weights():
    """A second `fit` begins with weights assigned after the first, for example by `EarlyStopping`."""
    model = small_network()
    clustered = mobile.cluster(model, 5)
    fit(clustered, run_eagerly=True)
    best = model.get_weights()
    fit(clustered, epochs=2)
    assert not np.array_equal(model.get_weights()[0], best[0])
    model.set_weights(best)
    clustered.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", run_eagerly=True)
    fit(clustered, IMAGES[:8], CLASSES[:8])
    for weight, expected in zip(model.weights, best, strict=True):
        assert "kernel" not in weight.path or np.array_equal(weight.numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dataset", "generator"])
def test_forms_of_data(form):
    batches = [(IMAGES[start : start + 8], CLASSES[start : start + 8]) for start in range(0, 48, 8)]
    data = (
        tf.data.Dataset.from_tensor_slices((IMAGES, CLASSES)).batch(8)
        if form == "dataset"
        else (batch for batch in batches)
    )
    first, second = small_network(), small_network()
    fit(mobile.cluster(first, 5), run_eagerly=True)
    clustered = mobile.cluster(second, 5)
    fit(clustered, data, None, run_eagerly=True, batch_size=None, steps_per_epoch=6)
    for actual, expected in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_incomplete_pruning_causes_a_warning():
    pruned = mobile.prune(small_network(), 0.6, end_step=6, frequency=1)
    fit(pruned, epochs=1, run_eagerly=True, steps_per_epoch=2)
    with pytest.warns(UserWarning, match="has not been pruned to the end: 4 of the steps"):
        mobile.strip(pruned)
    fit(pruned, epochs=1, steps_per_epoch=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        mobile.strip(pruned)


@pytest.mark.parametrize(
    "make", [lambda model: mobile.prune(model, end_step=1), lambda model: mobile.cluster(model, 3)]
)
def test_frozen_layers_do_not_change(make):
    model = small_network()
    model.get_layer("shared").trainable = False
    before = kernels(model)["shared/kernel"]
    compressed = make(model)
    model.get_layer("scores").trainable = False
    later = kernels(model)["scores/kernel"]
    fit(compressed, epochs=1, run_eagerly=True, steps_per_epoch=2)
    np.testing.assert_array_equal(kernels(model)["shared/kernel"], before)
    np.testing.assert_array_equal(kernels(model)["scores/kernel"], later)
    with pytest.raises(ValueError, match="these are frozen: shared/kernel"):
        mobile.prune(model, end_step=1, layers=["shared"])
