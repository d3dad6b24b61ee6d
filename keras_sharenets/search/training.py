"""Training, testing and exporting the networks of a search."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import keras_tuner
import numpy as np

from keras_sharenets import files
from keras_sharenets.search import trials
from keras_sharenets.search.measuring import FileCosts, measure
from keras_sharenets.search.settings import Search
from keras_sharenets.training.data.batches import held_out_batches, held_out_size, training_batches
from keras_sharenets.training.data.dataset import Dataset, stratified_split
from keras_sharenets.training.recipes.optimization import build_optimizer, decay_weights, limit_momentum
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.network import build, set_seed

NETWORK = "network.keras"


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """A data set whose test split is a held-out part of the training split; the original test split is not used.

    Args:
        dataset: original data set.
        share: fraction of each class to hold out.
        seed: seed of the split.

    Raises:
        ValueError: no image would be held out.

    >>> from keras_sharenets.training.data.sources import load
    >>> digits = load("digits")
    >>> held = hold_out(digits, share=0.2, seed=0)
    >>> len(digits.train), len(held.train), len(held.test)
    (1438, 1151, 287)
    """
    kept, held = map(dataset.train.part, stratified_split(dataset.train.labels, share, seed))
    if not len(held):
        raise ValueError(f"`validation` (={share}) selects no images: each class has only one training image.")
    return dataclasses.replace(dataset, train=kept, test=held)


def train(
    network: keras.Model, dataset: Dataset, *, recipe: Recipe, seed: int, first_epoch: int = 0, last_epoch: int
) -> float:
    """Trains a network for a range of the epochs of a recipe.

    Image order, augmentation and learning rate are the same as in a full run of the recipe.

    Args:
        network: functional model as returned by `training.run.network.build`; it is not compiled.
        dataset: data set for training and testing.
        recipe: recipe of a full training run.
        seed: seed of image order and augmentation.
        first_epoch, last_epoch: range of epochs, counted from 0; `last_epoch` is excluded.

    Returns:
        The accuracy on the test split after training.

    Raises:
        keras_tuner.errors.FatalValueError: an image cannot be read; the message names it.
    """
    batches = training_batches(dataset, recipe, seed)
    held_out = held_out_batches(dataset, recipe.batch_size, held_out_size(dataset, recipe))
    decay_weights(network, recipe)
    limit_momentum(network, recipe.epochs * batches.steps)
    model = keras.Model(network.input, network.output)
    model.compile(
        optimizer=build_optimizer(recipe, batches.steps, network.trainable_variables),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
    )
    model.optimizer.iterations.assign(first_epoch * batches.steps)
    try:
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=last_epoch,
            shuffle=False,  # The batches are already shuffled, reproducibly.
            verbose=0,
            callbacks=[batches.callback()],
        )
        return model.evaluate(held_out, verbose=0, return_dict=True)["accuracy"]
    except Exception as error:
        # TensorFlow replaces an exception that a batch raises by one of its own.
        reason = batches.failure or held_out.failure
        if reason is None:
            raise
        # Every other trial would fail too: end the search.
        raise keras_tuner.errors.FatalValueError(str(reason)) from error


def starting_network(search: Search, result: trials.Result, dataset: Dataset) -> tuple[keras.Model, int]:
    """The network to train in a trial, and the number of epochs that it has already been trained for."""
    keras.utils.clear_session()
    set_seed(search.seed)
    if result.continues is None and search.sharing is not None:
        return search.sharing.hypermodel.network(result.choices), 0
    if result.continues is None:
        return build(result.name, dataset, result.choices, search.recipe), 0
    before = search.folder / result.continues
    return files.load_model(before / NETWORK), trials.read(before / trials.FILE).epochs


def train_and_measure(
    network: keras.Model,
    folder: pathlib.Path,
    *,
    search: Search,
    dataset: Dataset,
    held: Dataset,
    first_epoch: int = 0,
    last_epoch: int,
) -> tuple[float, FileCosts]:
    """Trains a network of a search and writes it and its exported files to a folder.

    Args:
        network: functional model.
        folder: output folder.
        search: search with the recipe and the seed.
        dataset: data set for training and testing.
        held: data set whose test split provides the images for int8 calibration.
        first_epoch, last_epoch: as in [`train`].

    Returns:
        The accuracy on the test split of `dataset`, and the costs of the files.

    Raises:
        keras_tuner.errors.FailedTrialError: training diverged, or the network cannot be exported to int8.
    """
    accuracy = train(
        network, dataset, recipe=search.recipe, seed=search.seed, first_epoch=first_epoch, last_epoch=last_epoch
    )
    if not all(np.isfinite(weight).all() for weight in network.get_weights()):
        raise keras_tuner.errors.FailedTrialError("training diverged: a weight is not finite")
    files.save_model(network, folder / NETWORK)
    files.write_labels(folder, dataset.class_names)
    return accuracy, measure(network, folder, held)
