"""Finished runs and their data."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_sharenets import files
from keras_sharenets.images import evenly_spaced
from keras_sharenets.training.data.batches import held_out_batches, held_out_size
from keras_sharenets.training.data.dataset import Dataset, count_images
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import EXPORT_RECORD, Run, read_metrics


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

    `"none"` for a file that belongs to no run and to no search.
    """
    run = run_of_file(path)
    if run is not None:
        return tested_crops(run.recipe)
    search = _search_of_file(path)
    return tested_crops(Recipe(**search["recipe"])) if search else "none"


def source_of_file(path: str | pathlib.Path) -> Mapping[str, Any] | None:
    """The source of the data that the network in a file was trained on, as in `DataSource.to_record`.

    `None` for a file that belongs to no run and to no search.
    """
    run = run_of_file(path)
    if run is not None:
        return run.source
    search = _search_of_file(path)
    return search and search["source"]


def _search_of_file(path: str | pathlib.Path) -> dict[str, Any] | None:
    """The settings of the search with a file among its trials, or as its winner."""
    from keras_sharenets.search import settings  # Not at the top: a search consists of training runs.

    return next((settings.read(folder) for folder in _folders_of(path) if (folder / settings.FILE).is_file()), None)


def run_of_file(path: str | pathlib.Path) -> Run | None:
    """The run with a file in its folder or among its exported files, wherever these are; `None` if there is none.

    Issues a warning about a file of the same name that is not the record of a run.
    """
    for record in (folder / "metrics.json" for folder in _folders_of(path)):
        try:
            if record.is_file():
                return read_metrics(record)
        except ValueError as error:
            told = str(error).rstrip(".")
            warnings.warn(f"{told}. {path} is used as a file that belongs to no run.", stacklevel=2)
    return None


def _folders_of(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder of a file, its parent, and those of the file that it links to; one more for `export/hub`.

    Also the folder of the run that a record of exported files in one of these names.
    """
    for file in dict.fromkeys((pathlib.Path(path).absolute(), pathlib.Path(path).resolve())):
        for folder in file.parents[: 3 if file.parent.name == "hub" else 2]:
            yield folder
            yield from _exported_run(folder)


def _exported_run(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder of the run whose exported files are in `folder`, if a record there names it."""
    try:
        yield folder / files.read_json(folder / EXPORT_RECORD)["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # There is no record, it is of an earlier version, or of another program.


def warn_of_other_split(path: str | pathlib.Path, dataset: Dataset) -> None:
    """Warns if a file was trained on a folder of images that has changed since or is split in another way."""
    run, source = run_of_file(path), dataset.source
    if run is None or run.source is None or source is None or not source.is_folder:
        return
    before, now = run.data.get("images_per_class"), list(count_images(dataset).values())  # Missing in older records.
    if pathlib.Path(run.source["data"]).resolve() != pathlib.Path(source.data).resolve() or before is None:
        return
    if not _splits(before) & _splits(now):
        old, new = (sum(map(sum, counts)) for counts in (before, now))
        warnings.warn(
            f"{source.data} has changed since the network in {path} was trained: it had {old:,} images and now has "
            f"{new:,}. Unless the test split has its own folder, the network was trained on some of its images.",
            stacklevel=2,
        )
    elif _other_test_images(run, dataset):
        warnings.warn(
            f"The test images of {source.data} are not those of the run of {path}: some have changed, or the seed of "
            "the split has. Unless the test split has its own folder, the network was trained on some of them.",
            stacklevel=2,
        )


def _other_test_images(run: Run, dataset: Dataset) -> bool:
    """Whether a folder with as many images as before has another test split."""
    source, checksums = dataset.source, run.data.get("checksums", {})  # Missing in older records.
    assert run.source is not None
    assert source is not None
    if "test" in checksums and files.as_tuples(run.source.get("input_shape")) == source.input_shape:
        return checksums["test"] != dataset.checksums.get("test", checksums["test"])
    return run.source.get("split_seed", 0) != source.split_seed


def _splits(counts: Sequence[Sequence[int]]) -> set[tuple[tuple[int, int], ...]]:
    """The training and test images of each class: without those for validation, and with them as training images."""
    alone = tuple((train, test) for train, test, *_ in counts)
    return {alone, tuple((train + sum(validation), test) for train, test, *validation in counts)}


def training_images(dataset: Dataset, recipe: Recipe, count: int) -> np.ndarray:
    """Up to `count` evenly spaced images of the training split as network inputs: a float32 array."""
    few = dataset.train.part(evenly_spaced(len(dataset.train), count))
    return held_out_batches(dataclasses.replace(dataset, test=few), len(few), held_out_size(dataset, recipe))[0][0]
