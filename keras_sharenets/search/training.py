"""How a network of a search is trained, tested and left with its files."""

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
from keras_sharenets.training.recipes.optimization import build_optimizer, decay_weights, shorten_memory
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.network import build, set_seed

NETWORK = "network.keras"


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """A data set whose test split is a part of the training split of another one, whose own test split is left alone.

    Args:
        dataset: the other one.
        share: the part of each class that is held out.
        seed: of the choice.

    >>> from keras_sharenets.training.data.sources import load
    >>> digits = load("digits")
    >>> held = hold_out(digits, share=0.2, seed=0)
    >>> len(digits.train), len(held.train), len(held.test)
    (1438, 1151, 287)
    """
    kept, held = map(dataset.train.part, stratified_split(dataset.train.labels, share, seed))
    return dataclasses.replace(dataset, train=kept, test=held)


def train(
    network: keras.Model, dataset: Dataset, *, recipe: Recipe, seed: int, first_epoch: int = 0, last_epoch: int
) -> float:
    """Trains a network through some of the epochs of a recipe; order, changes and learning rate are those of a whole.

    Args:
        network: functional model as `training.run.network.build` gives it; it gets no optimizer.
        dataset: to train and to test on.
        recipe: of a whole training.
        seed: of order and augmentation.
        first_epoch, last_epoch: counted from 0; the last one is not trained any more.

    Returns:
        The accuracy on the test split afterwards.

    Raises:
        keras_tuner.errors.FatalValueError: an image cannot be read; the message names it.
    """
    batches = training_batches(dataset, recipe, seed)
    held_out = held_out_batches(dataset, recipe.batch_size, held_out_size(dataset, recipe))
    decay_weights(network, recipe)
    shorten_memory(network, recipe.epochs * batches.steps)
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
            shuffle=False,  # The batches are shuffled already, reproducibly.
            verbose=0,
            callbacks=[batches.callback()],
        )
        return model.evaluate(held_out, verbose=0, return_dict=True)["accuracy"]
    except Exception as error:
        # TensorFlow makes an error of its own of what a batch raises.
        reason = batches.failure or held_out.failure
        if reason is None:
            raise
        # No other network would fare better: this ends the search.
        raise keras_tuner.errors.FatalValueError(str(reason)) from error


def starting_network(search: Search, result: trials.Result, dataset: Dataset) -> tuple[keras.Model, int]:
    """The network that the training of a trial begins with, and how many epochs it has been trained for before."""
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
    """Trains a network of a search and leaves it and its files in a folder.

    Args:
        network: functional model.
        folder: for the files.
        search: gives recipe and seed.
        dataset: to train and to test on.
        held: has the images to measure the ranges of int8 on, in its test split.
        first_epoch, last_epoch: as in [`train`].

    Returns:
        The accuracy on the test split of `dataset`, and what the files cost.

    Raises:
        keras_tuner.errors.FailedTrialError: the training diverged, or int8 does not suit the network: it has no file.
    """
    accuracy = train(
        network, dataset, recipe=search.recipe, seed=search.seed, first_epoch=first_epoch, last_epoch=last_epoch
    )
    if not all(np.isfinite(weight).all() for weight in network.get_weights()):
        raise keras_tuner.errors.FailedTrialError("the training diverged: a weight is not a finite number")
    files.save_model(network, folder / NETWORK)
    files.write_labels(folder, dataset.class_names)
    return accuracy, measure(network, folder, held)
