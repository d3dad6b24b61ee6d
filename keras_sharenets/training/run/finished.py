"""Finished runs and their data."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np

from keras_sharenets.images import evenly_spaced
from keras_sharenets.training.data.augmentation import CENTER, crop_views
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.data.dataset import Dataset, count_images
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import Run, read_metrics


def read_run(folder: str | pathlib.Path) -> Run:
    """The `Run` in a folder, with at least one finished epoch; only its record is needed.

    Raises:
        ValueError: there is no run, or it has no finished epoch.
    """
    run = read_metrics(pathlib.Path(folder) / "metrics.json")
    if not run.epochs:
        raise ValueError(f"The run in {folder} has no finished epoch.")
    return run


def open_run(folder: str | pathlib.Path) -> Run:
    """The `Run` in a folder that also contains the trained network."""
    run = read_run(folder)
    if not network_file(folder).is_file():
        raise ValueError(f"There is no {network_file(folder)}: the folder has a run record but no network.")
    return run


def network_file(folder: str | pathlib.Path) -> pathlib.Path:
    """The file with the network of the last epoch."""
    return pathlib.Path(folder) / "last.keras"


def check_classes(dataset: Dataset, folder: str | pathlib.Path, run: Run) -> None:
    """Raises a `ValueError` unless the data set has the classes that the run in `folder` was trained on."""
    if list(dataset.class_names) != list(run.data["class_names"]):
        raise ValueError(f"The classes of {dataset.name} must match those of the run in {folder}.")


def tested_crops(recipe: Recipe) -> str:
    """The crops that a run with this recipe is tested on, as named in `evaluate`."""
    return "center" if recipe.crop_size else "none"


def crops_of_file(path: str | pathlib.Path) -> str:
    """The crops that the network in a file was tested on during training, as named in `evaluate`.

    `"none"` for a file that belongs to no run.
    """
    run = run_of_file(path)
    return "none" if run is None else tested_crops(run.recipe)


def run_of_file(path: str | pathlib.Path) -> Run | None:
    """The run with a file in its folder or in its `export` folder; `None` if there is none."""
    folder = pathlib.Path(path).resolve().parent
    records = (place / "metrics.json" for place in (folder, folder.parent))
    return next((read_metrics(record) for record in records if record.is_file()), None)


def warn_of_other_split(path: str | pathlib.Path, dataset: Dataset) -> None:
    """Warns if a file was trained on a folder of images that has changed since, and so is split in another way."""
    run, source = run_of_file(path), dataset.source
    if run is None or run.source is None or source is None or not source.is_folder:
        return
    counts = run.data.get("images_per_class")  # Missing in older records.
    now = [sum(each) for each in count_images(dataset).values()]
    same = pathlib.Path(run.source["data"]).resolve() == pathlib.Path(source.data).resolve()
    if same and counts is not None and [sum(each) for each in counts] != now:
        before = sum(map(sum, counts))
        warnings.warn(
            f"{source.data} has changed since the network in {path} was trained: it had {before:,} images and now has "
            f"{sum(now):,}. Unless the test split has its own folder, the network was trained on some of its images.",
            stacklevel=2,
        )


def training_images(dataset: Dataset, recipe: Recipe, count: int) -> np.ndarray:
    """Up to `count` evenly spaced images of the training split as network inputs: a float32 array."""
    images = dataset.train.pixels(evenly_spaced(len(dataset.train), count))
    if recipe.crop_size:
        return crop_views(images, input_shape(dataset, recipe)[:2], CENTER)
    return np.asarray(images, "float32")
