"""One training run, from a data set to files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence

import keras

import keras_sharenets
from keras_sharenets import files
from keras_sharenets.folder_lock import hold_folder, is_unused
from keras_sharenets.models import hscnet
from keras_sharenets.training.data.batches import (
    training_batches,
)
from keras_sharenets.training.data.dataset import Dataset, count_images
from keras_sharenets.training.devices.devices import Devices, check_parts, connect
from keras_sharenets.training.devices.resident import keeps_images
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.loop import train_network
from keras_sharenets.training.run.network import build, set_seed
from keras_sharenets.training.run.precision import choose_precision
from keras_sharenets.training.run.record import Run, RunOptions, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import (
    CHECKPOINTS,
    Checkpoint,
    last_checkpoint,
)
from keras_sharenets.training.run.start import Start, begin_with, find_again, prepared_as, to_record
from keras_sharenets.training.run.teacher import open_teacher

PACKAGES = ("keras", "tensorflow", "jax", "numpy", "tensorflow_datasets", "scikit-learn", "pillow")
# The facts about the images that must be those of the run that is resumed.
COMPARED = ("name", "class_names", "train", "test", "validation", "shape", "mean", "variance")


class RunExistsError(ValueError):
    """The folder holds a run already."""


def fit(
    model_name: str,
    dataset: Dataset,
    output: str | pathlib.Path,
    *,
    recipe: Recipe | None = None,
    options: Mapping[str, object] | None = None,
    run_options: RunOptions | None = None,
    start: Start | None = None,
    frozen: bool = False,
    verbose: str | int = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Trains a named network with `model.fit` and writes all that is worth keeping into a folder.

    The folder gets `last.keras`, `best.keras`, `labels.txt`, `metrics.json`, `history.csv`, `curves.png` and
    `checkpoints/`, from which `resume` continues. Every file but TensorBoard's logs is written to the side and renamed:
    whenever the process is killed, what is there is whole. The models are saved without the optimizer.

    Args:
        model_name: one of `keras_sharenets.list_models()`.
        dataset: what to train and to test with. Where it has a validation split, the epochs are measured on that, and
            the test split is gone through once, after the last one.
        output: a folder that does not exist or is empty.
        recipe: how to train; by default the recipe of this network and data set.
        options: further arguments of the network's factory.
        run_options: seed, checkpoints, logs, devices: how the run is carried out. By default `RunOptions()`.
        start: a trained network to begin with, as `training.run.start.find_start` gives it. Its head is replaced unless
            the classes are the same; pixels are prepared as it does.
        frozen: whether only the head is trained, and all else stays as in `start`.
        verbose: as in `model.fit`.
        callbacks: called after those of the run, in worker 0 alone; they must not change what is trained.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: `output` holds a run already, or another process trains in it, or an argument breaks a rule: before
            anything is written. Or the loss is no longer finite, or an image cannot be read any more: what was saved
            before stays, and the message names the last checkpoint. Or the device is out of memory.
        OSError: a file cannot be written, for example on a full disk; the message names the last checkpoint.
        RuntimeError: another worker is gone; the message says how to resume.
        Interrupted: a `KeyboardInterrupt`: Ctrl-C or SIGTERM came. The step was finished and a checkpoint written, and
            the message says how to resume. A second Ctrl-C is raised at once, and noted in `metrics.json` as any error.

    Example:
        run = fit("hscnet_m32_g4_r2_b1_a2", load("digits"), "runs/digits", run_options=RunOptions(seed=3))
        run.test_accuracy
    """
    output = check_output(output)
    run_options = run_options or RunOptions()
    check_tensorboard(run_options.tensorboard)
    if frozen and start is None:
        raise ValueError("`frozen` (=True) needs a `start`: an untrained network is of no use as it is.")
    dataset = dataset if start is None else prepared_as(dataset, start)
    run = Run(
        **dataclasses.asdict(run_options),
        model=model_name,
        options=_explicit(model_name, options or {}),
        data=summarize(dataset),
        recipe=recipe or recipe_for(model_name, dataset.name),
        backend=keras.backend.backend(),
        versions=package_versions(),
        source=dataset.source and dataset.source.to_record(),
    )
    devices = connect(run.strategy)
    if start is not None:
        fresh = begin_with(build(model_name, dataset, run.options, run.recipe), start, dataset.class_names)
        run = dataclasses.replace(run, start=to_record(start, fresh, frozen))
    run = _settle(run, dataset, devices)
    with _hold(devices, output):
        # Another run may have come and gone since.
        return _train(run, dataset, check_output(output), None, devices, verbose, callbacks)


def resume(
    output: str | pathlib.Path,
    dataset: Dataset,
    *,
    checkpoint_minutes: float | None = None,
    checkpoint_steps: int | None = None,
    keep_checkpoints: int | None = None,
    strategy: str = "default",
    epochs_on_device: str | None = None,
    verbose: str | int = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Resumes a run that was killed, interrupted or stopped, from its last checkpoint that is whole.

    Batches, learning rate, momentum, random numbers and the means of the running epoch are what they would have been.
    Without a checkpoint the run starts from the beginning.

    Args:
        output: the run's folder.
        dataset: the one that the run was started with.
        checkpoint_minutes, checkpoint_steps, keep_checkpoints, epochs_on_device: as in `RunOptions`; by default as
            before.
        strategy: as in `RunOptions`; need not be the one before.
        verbose, callbacks: as in `fit`.

    Returns:
        The finished `Run`, at once if it was finished before.

    Raises:
        ValueError: there is no run in `output`, or it was started with another data set or backend, or another
            process trains in it, or all its checkpoints are damaged. Later as in `fit`.
    """
    output = pathlib.Path(output)
    run = read_metrics(output / "metrics.json")
    if run.backend != keras.backend.backend():
        raise ValueError(f"The run in {output} was started with KERAS_BACKEND={run.backend}: resume it with the same.")
    if run.trainer is not None:
        raise ValueError(f"The run in {output} is one of `{run.trainer['program']}`, and `fit` cannot go on with it.")
    if run.start is not None:  # Its pixels are prepared as the network before did, whatever these are.
        dataset = dataclasses.replace(dataset, mean=tuple(run.data["mean"]), variance=tuple(run.data["variance"]))
    summary = json.loads(json.dumps(summarize(dataset)))
    for name in COMPARED:
        # Older records say nothing of a validation split: there was none.
        if run.data.get(name, 0) != summary[name]:
            raise ValueError(f"The data set has the {name} {summary[name]}, but the run in {output} {run.data[name]}.")
    if run.state == "finished":
        return run
    devices = connect(strategy)
    with _hold(devices, output):
        run = read_metrics(output / "metrics.json")
        if run.state == "finished":  # By another process, since.
            return run
        checkpoint = last_checkpoint(output / CHECKPOINTS, clean=devices.chief)
        # Its checkpoint knows a run best: an epoch may be finished without being in the other files.
        run = run_from_dict(checkpoint[-1]["run"]) if checkpoint else run
        changes = {"checkpoint_steps": checkpoint_steps, "keep_checkpoints": keep_checkpoints, "strategy": strategy}
        changes |= {"checkpoint_minutes": checkpoint_minutes, "epochs_on_device": epochs_on_device}
        changes = {name: value for name, value in changes.items() if value is not None}
        run = _settle(dataclasses.replace(run, state="running", reason=None, **changes), dataset, devices)
        return _train(run, dataset, output, checkpoint, devices, verbose, callbacks)


def _settle(run: Run, dataset: Dataset, devices: Devices) -> Run:
    """The run, with what depends on the machine: its precision, its teacher, whether the images stay on the device."""
    check_parts(devices, run)
    resident = keeps_images(run.epochs_on_device, devices, dataset, run.recipe, run.jit_compile)
    run = dataclasses.replace(run, epochs_on_device="yes" if resident else "no")
    batches = training_batches(dataset, run.recipe, run.seed)
    if run.teacher is not None:
        digest = open_teacher(run.teacher, dataset, run.recipe)[1]
        if digest != (run.teacher_sha256 or digest):
            raise ValueError(f"`teacher` (={run.teacher!r}) is not the network any more that the run was started with.")
        run = dataclasses.replace(run, teacher_sha256=digest)
    return choose_precision(run, devices, batches, lambda: build(run.model, dataset, run.options, run.recipe))


@contextlib.contextmanager
def _hold(devices: Devices, output: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of the folder, and clears what a killed one has left; that is for worker 0 to do."""
    if not devices.chief:
        yield
        return
    with hold_folder(output):
        files.remove_partials(output)
        yield


def _train(
    run: Run,
    dataset: Dataset,
    output: pathlib.Path,
    checkpoint: Checkpoint | None,
    devices: Devices,
    verbose: str | int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Run:
    """Trains from `checkpoint`, a path and what is in it, or from the beginning if it is `None`."""
    set_seed(run.seed)
    if run.deterministic and run.backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    make = functools.partial(build, run.model, dataset, run.options, run.recipe)
    network = make()
    if run.start is not None and checkpoint is None:
        begin_with(network, find_again(run.start, run.model, run.options), dataset.class_names)
    with devices.scope():
        return train_network(devices, network, make, run, dataset, output, checkpoint, verbose, callbacks)


def _explicit(model_name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options, with a default that was another one in records of earlier versions (`run_from_dict`)."""
    arrangements = options.get("arrangements", 2)
    is_arranged = model_name in hscnet.VARIANTS and isinstance(arrangements, int) and arrangements > 2
    return ({"plane_orders": "distinct"} if is_arranged else {}) | dict(options)


def check_output(output: str | pathlib.Path) -> pathlib.Path:
    """`output` as a path; a `ValueError` if something is there that a run would mix with."""
    output = pathlib.Path(output)
    if (output / "metrics.json").exists():
        raise RunExistsError(f"The output directory {output} already holds a run. Choose another one.")
    if not is_unused(output):
        raise ValueError(f"The output directory {output} exists and is not an empty folder. Choose another one.")
    return output


def check_tensorboard(extras: tuple[str, ...] | None) -> None:
    """Raises a `ValueError` unless the backend has all that TensorBoard is to get, and unless that is installed."""
    if extras is not None:
        importlib.import_module("tensorboard")  # What misses it otherwise is a traceback at the end of the first epoch.
    if "graph" in (extras or ()) and keras.backend.backend() != "tensorflow":
        raise ValueError("`tensorboard` (='graph') needs KERAS_BACKEND=tensorflow: other backends have no such graph.")


def summarize(dataset: Dataset) -> dict[str, object]:
    names = ("name", "note", "class_names", "shape", "mean", "variance", "unreadable", "left_out")
    kept = {name: getattr(dataset, name) for name in names}
    return {
        **kept,
        "images_per_class": list(count_images(dataset).values()),
        "train": len(dataset.train),
        "test": len(dataset.test),
        "validation": 0 if dataset.validation is None else len(dataset.validation),
    }


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "keras_sharenets": keras_sharenets.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
