"""Training and testing of the networks of a search."""

import dataclasses

import keras
import keras_tuner

from keras_sharenets.training.data.batches import held_out_batches, training_batches
from keras_sharenets.training.data.dataset import stratified_split
from keras_sharenets.training.run.network import input_shape
from keras_sharenets.training.run.optimizers import build_optimizer, decay_weights


def hold_out(dataset, share, seed):
    """A data set whose test split is a part of the training split of another one, whose own test split is left alone.

    Args:
        dataset: `Dataset`.
        share: float, the part of each class that is held out.
        seed: int.

    Returns:
        A `Dataset`.

    >>> from keras_sharenets.training.data.sources import load
    >>> digits = load("digits")
    >>> held = hold_out(digits, share=0.2, seed=0)
    >>> len(digits.train), len(held.train), len(held.test)
    (1438, 1151, 287)
    """
    kept, held = map(dataset.train.part, stratified_split(dataset.train.labels, share, seed))
    return dataclasses.replace(dataset, train=kept, test=held)


def train(network, dataset, recipe, seed, first_epoch, last_epoch):
    """Trains a network through some of the epochs of a recipe; order, changes and learning rate are those of a whole.

    Args:
        network: functional `keras.Model` as `training.run.network.build` gives it; it gets no optimizer.
        dataset: `Dataset`.
        recipe: `Recipe`.
        seed: int.
        first_epoch, last_epoch: int, counted from 0; the last one is not trained any more.

    Returns:
        float: the accuracy on the test split afterwards.

    Raises:
        ValueError: a picture cannot be read; the message names it.
    """
    size = input_shape(dataset, recipe)[:2] if recipe.crop_size else None
    batches, held_out = training_batches(dataset, recipe, seed), held_out_batches(dataset, recipe.batch_size, size)
    decay_weights(network, recipe.weight_decay)
    model = keras.Model(network.input, network.output)
    model.compile(
        optimizer=build_optimizer(recipe, batches.steps),
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
