"""Checkpoints: all that a training run needs to go on, one `.npz` file each.

A file is written to the side and renamed, so that each can be loaded at every moment. It holds every variable of the
model, the state of its random numbers included, of its optimizer and of its metrics, and what is known of the run.
"""

import io
import json
import pathlib
import zipfile

import numpy as np
from keras import ops

from keras_sharenets import files

FOLDER = "checkpoints"


def save_checkpoint(folder, model, state, number, keep):
    """Writes `folder/<number>.npz` in one step, and removes all but the last `keep` checkpoints.

    Args:
        folder: path.
        model: compiled `keras.Model`.
        state: dict of what JSON can hold.
        number: int, the steps so far; later checkpoints have higher ones.
        keep: int, at least 1.

    Returns:
        The path of the file.

    Raises:
        ValueError: a weight is not finite; nothing is written.
    """
    arrays = read_variables(model)
    for name, array in arrays.items():
        if name.startswith("weights") and not np.isfinite(array).all():
            raise ValueError(f"The weights are no longer finite after {number} steps.")
    data = io.BytesIO()
    np.savez(data, state=json.dumps(state), **arrays)
    path = checkpoint_path(folder, number)
    files.write_bytes(path, data.getvalue())
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoint_path(folder, number):
    """Where the checkpoint after `number` steps is."""
    return pathlib.Path(folder) / f"{number:09d}.npz"


def read_variables(model):
    """The arrays of a checkpoint of `model`, called `group/index`. Workers must all call it."""
    return {
        f"{group}/{index}": ops.convert_to_numpy(variable)
        for group, variables in _variables(model).items()
        for index, variable in enumerate(variables)
    }


def list_checkpoints(folder):
    """The paths of the checkpoints in `folder`, the oldest first."""
    return sorted(pathlib.Path(folder).glob("[0-9]*.npz"))


def load_checkpoint(path):
    """The `(arrays, state)` of a checkpoint; arrays are called `group/index`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("state").item())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"The checkpoint {path} is damaged: {error}. Without it, the run goes on from the one before."
        ) from error


def restore(model, arrays, groups):
    """Gives the variables of `groups`, some of "weights", "optimizer" and "metrics", their values in a checkpoint.

    Args:
        model: compiled `keras.Model` whose optimizer and metrics are built.
        arrays: dict, as `load_checkpoint` returns it.
        groups: names.

    Raises:
        ValueError: the checkpoint is that of another model.
    """
    variables = _variables(model)
    for group in groups:
        saved = {name for name in arrays if name.startswith(f"{group}/")}
        if len(saved) != len(variables[group]):
            raise ValueError(f"The checkpoint has {len(saved)} {group}, the model {len(variables[group])}.")
        for index, variable in enumerate(variables[group]):
            array = arrays[f"{group}/{index}"]
            if array.shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} has the shape {variable.shape}, in the checkpoint {array.shape}.")
            variable.assign(array)


def _variables(model):
    # On JAX, a model in training has its values elsewhere until they are asked for.
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    return {"weights": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
