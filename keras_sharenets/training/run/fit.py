"""A training run, from a data set to files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import pathlib
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_sharenets import files
from keras_sharenets.dtype_policies import POLICIES, in_policy
from keras_sharenets.folder_lock import hold_folder, is_unused
from keras_sharenets.machine import package_versions
from keras_sharenets.models import hscnet
from keras_sharenets.models.registry import find_variant
from keras_sharenets.models.same_network import check_same_network
from keras_sharenets.timing import take_turns
from keras_sharenets.training.data.batches import Batches, training_batches
from keras_sharenets.training.data.dataset import Arrays, Dataset, changed_split, count_images
from keras_sharenets.training.data.tfds import in_several_files
from keras_sharenets.training.devices.devices import Devices, check_parts, connect
from keras_sharenets.training.devices.resident import keeps_images
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.loop import train_network
from keras_sharenets.training.run.network import build, compile_model, set_seed
from keras_sharenets.training.run.record import Run, RunOptions, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import CHECKPOINTS, Checkpoint, last_checkpoint
from keras_sharenets.training.run.start import Start, keep_preprocessing, load_start_weights, reopen_start, to_record
from keras_sharenets.training.run.teacher import open_teacher

PACKAGES = ("keras", "tensorflow", "jax", "numpy", "tensorflow_datasets", "scikit-learn", "pillow")
# Properties of the data set that must match when a run is resumed.
COMPARED = ("name", "class_names", "train", "test", "validation", "shape", "mean", "variance")
# The choice of a precision by measurement. Not float16: small gradients underflow, and large ones overflow.
MEASURED = ("float32", "bfloat16")
GAIN = 1.05  # Required speedup of a step.
ROUNDS = 3


class RunExistsError(ValueError):
    """The folder already contains a run."""


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
    """Trains a named network with `model.fit` and writes the results to a folder.

    The folder contains `last.keras`, `best.keras`, `labels.txt`, `metrics.json`, `history.csv`, `curves.png`, and
    `checkpoints/`, from which `resume` continues. Every file except the TensorBoard logs is written to a temporary file
    and renamed: files are complete even if the process is killed. The models are saved without the optimizer.

    Args:
        model_name: one of `keras_sharenets.list_models()`.
        dataset: data for training and testing. If it has a validation split, epochs are evaluated on that, and the test
            split is evaluated once, after the last epoch.
        output: a folder that does not exist or is empty.
        recipe: training recipe; by default the recipe for this network and data set.
        options: further arguments of the network's factory.
        run_options: seed, checkpoints, logs, and devices. By default `RunOptions()`.
        start: a trained network to start from, as returned by `training.run.start.find_start`. Its head is replaced
            unless the classes match; its preprocessing is kept.
        frozen: whether to train only the head, and keep everything else as in `start`.
        verbose: as in `model.fit`.
        callbacks: called after those of the run, in worker 0 only; they must not affect training.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: `output` contains a run, another process is training in it, or an argument is invalid; nothing is
            written. Or the loss is no longer finite, or an image can no longer be read: earlier files remain, and
            the message names the last checkpoint. Or the device is out of memory.
        OSError: a file cannot be written, for example on a full disk; the message names the last checkpoint.
        RuntimeError: another worker has exited; the message says how to resume.
        Interrupted: a `KeyboardInterrupt`, after Ctrl-C or SIGTERM. The step is finished and a checkpoint is written
            first; the message says how to resume. A second Ctrl-C is raised immediately and recorded in `metrics.json`
            like any error.

    Example:
        run = fit("hscnet_m32_g4_r2_b1_a2", load("digits"), "runs/digits", run_options=RunOptions(seed=3))
        run.test_accuracy
    """
    output = check_output(output)
    if dataset.source is not None:
        dataset.source.check_outside(output)
    run_options = run_options or RunOptions()
    check_tensorboard(run_options.tensorboard)
    if frozen and start is None:
        raise ValueError("`frozen` (=True) requires a `start`: frozen layers must be pretrained.")
    dataset = dataset if start is None else keep_preprocessing(dataset, start)
    run = Run(
        **dataclasses.asdict(run_options),
        model=model_name,
        options=_explicit(model_name, options or {}),
        data=summarize(dataset),
        recipe=recipe or recipe_for(model_name, dataset.name),
        backend=keras.backend.backend(),
        versions=installed_versions(),
        source=dataset.source and dataset.source.to_record(),
    )
    devices = connect(run.strategy)
    if start is not None:
        fresh = load_start_weights(build(model_name, dataset, run.options, run.recipe), start, dataset.class_names)
        check_same_network(start.network, find_variant(model_name), run.options, start.path)
        run = dataclasses.replace(run, start=to_record(start, fresh, frozen))
    run = _settle(run, dataset, devices)
    with _hold(devices, output):
        # Another run may have used the folder in the meantime.
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
    """Resumes a run that was killed, interrupted, or stopped, from its last intact checkpoint.

    Batches, learning rate, momentum, random numbers, and the running means of the epoch continue as without the stop.
    Without a checkpoint, the run starts from the beginning.

    Args:
        output: folder of the run.
        dataset: the data set that the run was started with.
        checkpoint_minutes, checkpoint_steps, keep_checkpoints, epochs_on_device: as in `RunOptions`; by default
            unchanged.
        strategy: as in `RunOptions`; may differ from the original one.
        verbose, callbacks: as in `fit`.

    Returns:
        The finished `Run`; immediately if it was already finished.

    Raises:
        ValueError: there is no run in `output`, it was started with another data set or backend, another process is
            training in it, or all its checkpoints are damaged. During training, as in `fit`.
    """
    output = pathlib.Path(output)
    run = read_metrics(output / "metrics.json")
    if run.backend != keras.backend.backend():
        raise ValueError(
            f"The run in {output} was started with KERAS_BACKEND={run.backend}: resume it with the same backend."
        )
    if run.trainer is not None:
        raise ValueError(f"The run in {output} was created by `{run.trainer['program']}`; `fit` cannot resume it.")
    if run.start is not None:  # Keeps the preprocessing of the pretrained network.
        dataset = dataclasses.replace(dataset, mean=tuple(run.data["mean"]), variance=tuple(run.data["variance"]))
    check_same_data(run, dataset, output)
    if run.state == "finished":
        return run
    devices = connect(strategy)
    with _hold(devices, output):
        run = read_metrics(output / "metrics.json")
        if run.state == "finished":  # By another process in the meantime.
            return run
        checkpoint = last_checkpoint(output / CHECKPOINTS, clean=devices.chief)
        recorded = run
        # The checkpoint is the most recent: a finished epoch may be missing in the other files.
        run = run_from_dict(checkpoint[-1]["run"]) if checkpoint else dataclasses.replace(run, epochs=(), seconds=0.0)
        if devices.chief:
            _keep_lost_best(output, recorded, run)
        changes = {"checkpoint_steps": checkpoint_steps, "keep_checkpoints": keep_checkpoints, "strategy": strategy}
        changes |= {"checkpoint_minutes": checkpoint_minutes, "epochs_on_device": epochs_on_device}
        changes |= {"source": dataset.source and dataset.source.to_record()}  # The images may have been moved.
        changes = {name: value for name, value in changes.items() if value is not None}
        run = _settle(dataclasses.replace(run, state="running", reason=None, **changes), dataset, devices)
        return _train(run, dataset, output, checkpoint, devices, verbose, callbacks)


def _keep_lost_best(output: pathlib.Path, recorded: Run, run: Run) -> None:
    """Renames `best.keras` if its epoch is in the record, but no longer in the `run`, whose checkpoints are damaged."""
    best, path = recorded.best.epoch if recorded.epochs else 0, output / "best.keras"
    if best > len(run.epochs) and path.is_file():
        kept = path.rename(output / f"best_lost_epoch_{best}.keras")
        warnings.warn(
            f"{path} is the network of epoch {best}, which the run repeats since its checkpoint is lost: it is now "
            f"{kept}. The next epoch that is the best so far writes {path.name} again.",
            stacklevel=3,
        )


def _settle(run: Run, dataset: Dataset, devices: Devices) -> Run:
    """The run with its machine-dependent settings: precision, teacher, and whether images stay on the device."""
    check_parts(devices, run)
    resident = keeps_images(run.epochs_on_device, devices, dataset, run.recipe, run.jit_compile)
    run = dataclasses.replace(run, epochs_on_device="yes" if resident else "no")
    batches = training_batches(dataset, run.recipe, run.seed)
    if run.teacher is not None:
        digest = open_teacher(run.teacher, dataset, run.recipe)[1]
        if digest != (run.teacher_sha256 or digest):
            raise ValueError(f"`teacher` (={run.teacher!r}) has changed since the run was started.")
        run = dataclasses.replace(run, teacher_sha256=digest)
    return choose_precision(run, devices, batches, lambda: build(run.model, dataset, run.options, run.recipe))


def choose_precision(run: Run, devices: Devices, batches: Batches, build: Callable[[], keras.Model]) -> Run:
    """The run with its precision: the requested one, the fastest for `"auto"`, the default of the devices for `None`.

    Args:
        run: the run to start or resume.
        devices: devices to train on.
        batches: batches of its training split.
        build: builds its network.

    Raises:
        ValueError: the precision is `"auto"` with several devices.
    """
    if run.precision is None:
        policy = devices.policy or keras.config.dtype_policy().name
        return dataclasses.replace(run, precision={name: key for key, name in POLICIES.items()}.get(policy))
    if run.precision != "auto":
        return run
    if devices.strategy != "default":
        raise ValueError(
            f"`precision` (='auto') is measured on one device: name a precision for the strategy {devices.strategy!r}."
        )
    seconds = step_seconds(run, batches, build)
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = fastest if GAIN * seconds[fastest] < seconds["float32"] else "float32"
    return dataclasses.replace(run, precision=chosen, step_seconds=seconds)


def step_seconds(run: Run, batches: Batches, build: Callable[[], keras.Model]) -> dict[str, float]:
    """Median seconds of a training step in each of `MEASURED`, interleaved, after compilation."""
    batch = batches.batch(0, 0)

    def step(name: str) -> Callable[[], Any]:
        tried = dataclasses.replace(run, precision=name)
        model = compile_model(in_policy(POLICIES[name], build), tried, batches.steps, Devices())
        return lambda: model.train_on_batch(*batch)

    seconds = take_turns({name: step(name) for name in MEASURED}, ROUNDS, warmup=1)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextlib.contextmanager
def _hold(devices: Devices, output: pathlib.Path) -> Iterator[None]:
    """Locks the folder and removes partial files of a killed run; done by worker 0 only."""
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
    """Trains from `checkpoint`, a path and its contents, or from the beginning if it is `None`."""
    set_seed(run.seed)
    if run.deterministic and run.backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    make = functools.partial(build, run.model, dataset, run.options, run.recipe)
    network = make()
    if run.start is not None and checkpoint is None:
        load_start_weights(network, reopen_start(run.start, run.model, run.options), dataset.class_names)
    with devices.scope():
        return train_network(devices, network, make, run, dataset, output, checkpoint, verbose, callbacks)


def _explicit(model_name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options, plus a default that differed in earlier versions of the record (`run_from_dict`)."""
    given: dict[str, object] = {name: files.as_tuples(value) for name, value in options.items()}
    arrangements = given.get("arrangements", 2)
    is_arranged = model_name in hscnet.VARIANTS and isinstance(arrangements, int) and arrangements > 2
    return ({"plane_orders": "distinct"} if is_arranged else {}) | given


def check_output(output: str | pathlib.Path) -> pathlib.Path:
    """`output` as a path; a `ValueError` if it is not new or empty, or cannot be written."""
    output = pathlib.Path(output)
    if (output / "metrics.json").exists():
        raise RunExistsError(f"The output directory {output} already contains a run. Choose another one.")
    if not is_unused(output):
        raise ValueError(f"The output directory {output} exists and is not an empty folder. Choose another one.")
    files.check_writable_folder(output, "output")
    return output


def check_tensorboard(extras: tuple[str, ...] | None) -> None:
    """Raises an error unless TensorBoard is installed and the backend supports `extras`."""
    if extras is not None:
        importlib.import_module("tensorboard")  # Otherwise it fails after the first epoch.
    if "graph" in (extras or ()) and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`tensorboard` (='graph') requires KERAS_BACKEND=tensorflow: other backends have no such graph."
        )


def check_same_data(run: Run, dataset: Dataset, folder: pathlib.Path) -> None:
    """Raises a `ValueError` if the run in a folder was started with another data set.

    Issues a warning about a run of an earlier version that may have read the images in another order.
    """
    summary = json.loads(json.dumps(summarize(dataset)))
    checksums = run.data.get("checksums")
    # A folder that was renamed contains the same images.
    compared = [name for name in COMPARED if name != "name" or not checksums or checksums != dataset.checksums]
    for name in compared:
        # Older records have no entry for a validation split: there was none.
        if run.data.get(name, 0) != summary[name]:
            found = str(summary[name])
            found = f"{found} {name} images" if name in ("train", "test", "validation") else f"the {name} {found}"
            raise ValueError(f"The data set has {found}, but the run in {folder} has {run.data.get(name, 0)}.")
    changed = changed_split(checksums or {}, dataset.checksums)
    if changed is not None:
        raise ValueError(
            f"The images of the {changed} split of {dataset.name} are not those that the run in {folder} was started "
            "with: some have changed, have other labels, or are in another order. Start a new run."
        )
    in_memory = isinstance(dataset.train, Arrays) and run.backend == "tensorflow"
    if checksums is None and in_memory and in_several_files(dataset.source):
        warnings.warn(
            f"The run in {folder} was started by an earlier version, which read {dataset.name} in another order, since "
            "it consists of several files. Its batches change now. If the data set has no test or validation split of "
            "its own, these splits change, too, and contain images that the network was trained on: start a new run.",
            stacklevel=3,
        )


def summarize(dataset: Dataset) -> dict[str, object]:
    names = ("name", "note", "class_names", "shape", "mean", "variance", "unreadable", "left_out", "checksums")
    kept = {name: getattr(dataset, name) for name in names}
    return {
        **kept,
        "images_per_class": list(count_images(dataset).values()),
        "train": len(dataset.train),
        "test": len(dataset.test),
        "validation": 0 if dataset.validation is None else len(dataset.validation),
    }


def installed_versions() -> dict[str, str]:
    """Versions of Python, of this library, and of those of `PACKAGES` that are installed."""
    return {name: version for name, version in package_versions(PACKAGES).items() if version is not None}
