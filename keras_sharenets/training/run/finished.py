"""Finished runs, and the data that they were trained on."""

import pathlib

import numpy as np

from keras_sharenets.cli.arguments import load_data
from keras_sharenets.training.data.crops import CENTER, crop_views
from keras_sharenets.training.run.network import input_shape
from keras_sharenets.training.run.record import read_metrics

SOURCE = ("data", "data_dir", "input_shape", "skip_unreadable")


def open_run(folder):
    """The `Run` in a folder that has a trained network.

    Raises:
        ValueError: there is no run, or no epoch of it was finished.
    """
    run = read_metrics(pathlib.Path(folder) / "metrics.json")
    if not run.epochs or not network_file(folder).is_file():
        raise ValueError(f"The run in {folder} has no {network_file('').name} yet: no epoch of it is finished.")
    return run


def network_file(folder):
    """The network of the last epoch."""
    return pathlib.Path(folder) / "last.keras"


def load_run_data(args, folder, run):
    """The `Dataset` of a run: where it came from is known from the record, unless the command line says otherwise.

    Raises:
        ValueError: it is not known, cannot be read, or has other classes.
    """
    fill_source(args, folder, run)
    dataset = load_data(args)
    if list(dataset.class_names) != list(run.data["class_names"]):
        raise ValueError(f"The classes of {dataset.name} are not those of the run in {folder}.")
    return dataset


def fill_source(args, folder, run):
    """Sets the options of `add_data_arguments` that are not given to what the run began with."""
    for name, value in (run.source or {}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.data is None:
        raise ValueError(f"`--data` is needed: the run in {folder} does not say where its data came from.")


def tested_crops(run):
    """What of a picture the run was tested on, as `evaluate` calls it."""
    return "center" if run.recipe.crop_size else "none"


def training_pictures(dataset, run, count):
    """Up to `count` pictures spread evenly over the training split, as the network takes them: a float32 array."""
    chosen = np.linspace(0, len(dataset.train) - 1, min(count, len(dataset.train))).astype(int)
    pictures = dataset.train.pixels(chosen)
    if run.recipe.crop_size:
        return crop_views(pictures, input_shape(dataset, run.recipe)[:2], CENTER)
    return pictures.astype("float32")
