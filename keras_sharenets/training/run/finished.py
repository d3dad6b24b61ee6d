"""Finished runs, and the data that they were trained on."""

from __future__ import annotations

import pathlib

import numpy as np

from keras_sharenets.images import evenly_spaced
from keras_sharenets.training.data.augmentation import CENTER, crop_views
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import Run, read_metrics


def read_run(folder: str | pathlib.Path) -> Run:
    """The `Run` in a folder, of which at least one epoch is finished; its record alone is enough.

    Raises:
        ValueError: there is no run, or no epoch of it was finished.
    """
    run = read_metrics(pathlib.Path(folder) / "metrics.json")
    if not run.epochs:
        raise ValueError(f"No epoch of the run in {folder} is finished.")
    return run


def open_run(folder: str | pathlib.Path) -> Run:
    """The same, in a folder that has the trained network too."""
    run = read_run(folder)
    if not network_file(folder).is_file():
        raise ValueError(f"There is no {network_file(folder)}: the folder has the record of a run, but no network.")
    return run


def network_file(folder: str | pathlib.Path) -> pathlib.Path:
    """The network of the last epoch."""
    return pathlib.Path(folder) / "last.keras"


def check_classes(dataset: Dataset, folder: str | pathlib.Path, run: Run) -> None:
    """Raises a `ValueError` unless the data set has the classes that the run in `folder` was trained on."""
    if list(dataset.class_names) != list(run.data["class_names"]):
        raise ValueError(f"The classes of {dataset.name} are not those of the run in {folder}.")


def tested_crops(recipe: Recipe) -> str:
    """What of an image a training with this recipe is tested on, as `evaluate` calls it."""
    return "center" if recipe.crop_size else "none"


def crops_of_file(path: str | pathlib.Path) -> str:
    """What of an image the network in a file was tested on in its training, as `evaluate` calls it.

    Told from the record of the run in whose folder, or in whose folder `export`, the file is; `"none"` without one.
    """
    folder = pathlib.Path(path).resolve().parent
    for place in (folder, folder.parent):
        if (place / "metrics.json").is_file():
            return tested_crops(read_metrics(place / "metrics.json").recipe)
    return "none"


def training_images(dataset: Dataset, recipe: Recipe, count: int) -> np.ndarray:
    """Up to `count` images spread evenly over the training split, as the network takes them: a float32 array."""
    images = dataset.train.pixels(evenly_spaced(len(dataset.train), count))
    if recipe.crop_size:
        return crop_views(images, input_shape(dataset, recipe)[:2], CENTER)
    return np.asarray(images, "float32")
