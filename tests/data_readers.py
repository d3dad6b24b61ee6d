"""What the tests of data sources read on both backends."""

import pathlib

from keras_sharenets.training.data.batches import held_out_batches, training_batches
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import find_recipe, override


def first_batches(folder):
    """Images and labels of three training batches, of two epochs, and of the first test batch, from a folder."""
    dataset = load(folder, skip_unreadable=True)
    recipe = override(find_recipe("default"), crop="area", crop_size=8, batch_size=4)
    batches = training_batches(dataset, recipe, 5)
    drawn = [batches.batch(0, 0), batches.batch(0, 1), batches.batch(3, 0), held_out_batches(dataset, 4)[0]]
    images, labels = zip(*drawn, strict=True)
    return [*images, *labels]


def tfds_arrays(folder):
    """Training images and test labels of the data set in a folder like those of TensorFlow Datasets."""
    folder = pathlib.Path(folder)
    dataset = load(folder.name, data_dir=folder.parent)
    return [dataset.train.images, dataset.test.labels]
