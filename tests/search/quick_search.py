"""Runs a search with mocked training in the folder of the first argument."""

import pathlib
import sys

import keras

from keras_sharenets.search import hypermodel, search, training
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.measuring import FileCosts
from keras_sharenets.search.settings import Search
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import recipe_for


def print_result(result):
    accuracy = "" if result.accuracy is None else f"validation accuracy {result.accuracy}"
    print(f"trial {result.id}: {accuracy or 'some epochs'}", flush=True)


if __name__ == "__main__":
    inputs = keras.Input((1,))
    tiny = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    training.build = lambda name, dataset, options, recipe: tiny
    training.train = lambda network, dataset, **options: 0.5
    training.measure = lambda model, folder, dataset: FileCosts(1000, 0.5, 4000)
    hypermodel.SpaceHyperModel.build = hypermodel.SpaceHyperModel.point
    search.run(
        Search(
            folder=pathlib.Path(sys.argv[1]),
            space="shardnet",
            dataset=load("digits"),
            tuner="random",
            trials=int(sys.argv[2]),
            recipe=recipe_for("sl3_resnet_64", "digits"),
            budget=Budget(max_parameters=2_000),
        ),
        print_result,
    )
