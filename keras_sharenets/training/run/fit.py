"""One training run, from a data set to files."""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import platform

import keras

import keras_sharenets
from keras_sharenets import _checks
from keras_sharenets.training.data.batches import held_out_batches, training_batches
from keras_sharenets.training.data.even_batches import EvenBatches
from keras_sharenets.training.devices.devices import check_alike, check_fits, connect, copy_of
from keras_sharenets.training.devices.watch import Watch
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.run.callbacks import check_tensorboard, make_callbacks
from keras_sharenets.training.run.checkpoints import FOLDER, list_checkpoints, load_checkpoint, restore
from keras_sharenets.training.run.follower import Follower
from keras_sharenets.training.run.network import build, input_shape
from keras_sharenets.training.run.record import Run, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import Recorder
from keras_sharenets.training.run.training_model import compile_model

PACKAGES = ("keras", "tensorflow", "jax", "numpy", "tensorflow_datasets", "scikit-learn", "pillow")


def fit(
    model_name,
    dataset,
    output,
    *,
    recipe=None,
    options=None,
    seed=0,
    jit_compile="auto",
    deterministic=False,
    checkpoint_steps=None,
    keep_checkpoints=3,
    source=None,
    tensorboard=None,
    strategy="default",
    verbose="auto",
):
    """Trains a named network with `model.fit` and writes all that is worth keeping into a folder.

    The folder gets `last.keras`, `best.keras`, `labels.txt`, `metrics.json`, `history.csv`, `curves.png` and
    `checkpoints/`, from which `resume` goes on. Every file but TensorBoard's logs is written to the side and renamed:
    whenever the process is killed, what is there is whole. The models are saved without the optimizer.

    Args:
        model_name: str, one of `keras_sharenets.list_models()`.
        dataset: `Dataset`.
        output: path of a folder that does not exist or is empty.
        recipe: `Recipe`; by default the one for this network and data set.
        options: dict, further arguments of the network's factory.
        seed: int, at least 0, of the weights, the order of the pictures and their changes.
        jit_compile: `"auto"`, `True` or `False`, as in `model.compile`.
        deterministic: bool, whether the same arguments give the same bits on the same machine, also when the run is
            killed and resumed. It takes longer on TensorFlow, where it holds for the rest of the process; on JAX, a CPU
            does so always, and another device is not asked to.
        checkpoint_steps: int, checkpoints every so many steps of an epoch; `None`: only at its end.
        keep_checkpoints: int, how many checkpoints stay.
        source: dict, kept for whoever resumes: arguments of `training.data.sources.load` that give this data set.
        tensorboard: `None`, or what `logs/` gets for TensorBoard beyond scalars: a sequence of "graph" (on TensorFlow)
            and "histograms".
        strategy: str, the devices, as in `devices.connect`. What is trained does not depend on them but for
            rounding (and random numbers inside the network on TensorFlow); the batches are those of one device.
        verbose: as in `model.fit`.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: `output` holds a run already, or an argument breaks a rule: before anything is written. Or the loss
            is no longer finite, or a picture cannot be read any more: what was saved before stays, and the message
            names the last checkpoint.
        OSError: a file cannot be written, for example on a full disk; the message names the last checkpoint.
        KeyboardInterrupt: passed on, as any other error, after it has been noted in `metrics.json`.
    """
    output = check_output(output)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` (={seed!r}) must be a non-negative integer.")
    check_tensorboard(tensorboard)
    run = Run(
        model_name,
        dict(options or {}),
        _summary(dataset),
        recipe or recipe_for(model_name, dataset.name),
        seed,
        keras.backend.backend(),
        jit_compile,
        _versions(),
        deterministic=deterministic,
        tensorboard=None if tensorboard is None else tuple(tensorboard),
        checkpoint_steps=checkpoint_steps,
        keep_checkpoints=keep_checkpoints,
        source=source,
    )
    return _train(run, dataset, output, None, connect(strategy), verbose)


def resume(output, dataset, *, checkpoint_steps=None, keep_checkpoints=None, strategy="default", verbose="auto"):
    """Goes on with a run that was killed, interrupted or stopped, from its last checkpoint.

    Batches, learning rate, momentum, random numbers and the means of the running epoch are what they would have been.
    Without a checkpoint the run begins anew.

    Args:
        output: path of the run's folder.
        dataset: `Dataset`, the one that the run began with.
        checkpoint_steps, keep_checkpoints: as in `fit`; by default as before.
        strategy: as in `fit`; need not be the one before.
        verbose: as in `model.fit`.

    Returns:
        The finished `Run`, at once if it was finished before.

    Raises:
        ValueError: there is no run in `output`, or it was begun with another data set or backend, or its last
            checkpoint is damaged. Later as in `fit`.
    """
    output = pathlib.Path(output)
    run = read_metrics(output / "metrics.json")
    if run.backend != keras.backend.backend():
        raise ValueError(f"The run in {output} was begun with KERAS_BACKEND={run.backend}; so must it go on.")
    summary = json.loads(json.dumps(_summary(dataset)))
    for name, value in summary.items():
        # The files that are left out may lie elsewhere by now; how many they are, the note says.
        if name != "unreadable" and run.data[name] != value:
            raise ValueError(f"The data set has the {name} {value}, but the run in {output} {run.data[name]}.")
    if run.state == "finished":
        return run
    checkpoints = list_checkpoints(output / FOLDER)
    checkpoint = (checkpoints[-1], *load_checkpoint(checkpoints[-1])) if checkpoints else None
    # Its checkpoint knows a run best: an epoch may be finished without being in the other files.
    run = run_from_dict(checkpoint[-1]["run"]) if checkpoint else run
    changes = {"checkpoint_steps": checkpoint_steps, "keep_checkpoints": keep_checkpoints}
    changes = {name: value for name, value in changes.items() if value is not None}
    run = dataclasses.replace(run, state="running", reason=None, **changes)
    devices = connect(strategy)
    if devices.chief:
        for leftover in output.rglob(".*.partial"):
            leftover.unlink()
    return _train(run, dataset, output, checkpoint, devices, verbose)


def _train(run, dataset, output, checkpoint, devices, verbose):
    """Trains from `checkpoint`, a path and what is in it, or from the beginning if it is `None`."""
    if run.checkpoint_steps is not None:
        _checks.positive("checkpoint_steps", run.checkpoint_steps)
    _checks.positive("keep_checkpoints", run.keep_checkpoints)
    keras.utils.set_random_seed(run.seed)
    if run.deterministic and run.backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    network = build(run.model, dataset, run.options, run.recipe)
    with devices.scope():
        return _train_on(devices, network, run, dataset, output, checkpoint, verbose)


def _train_on(devices, network, run, dataset, output, checkpoint, verbose):
    part = {"worker": devices.worker, "workers": devices.workers}
    batches = training_batches(dataset, run.recipe, run.seed, **part)
    check_fits(devices, batches, run.jit_compile)
    check_alike(devices, run, 0 if checkpoint is None else checkpoint[-1]["step"])
    steps = batches.steps
    copy = copy_of(network, devices, lambda: build(run.model, dataset, run.options, run.recipe))
    trained = compile_model(copy, run, steps, devices)
    size = input_shape(dataset, run.recipe)[:2] if run.recipe.crop_size else None
    held_out = held_out_batches(dataset, run.recipe.batch_size, size)
    held_out = held_out if devices.strategy == "default" else EvenBatches(held_out, **part)
    watch = Watch(devices, f"Start all workers again with `fit --resume {output} --strategy {devices.strategy}`.")
    recorder = (Recorder if devices.chief else Follower)(network, output, run, steps, copy)
    first = 0
    if checkpoint is not None:
        path, arrays, state = checkpoint
        restore(trained, arrays, ["weights", "optimizer"])
        recorder.resume(path, arrays, state)
        first = state["step"]
    try:
        while (epoch := len(recorder.run.epochs)) < run.recipe.epochs:
            # What is left of an epoch is a call of its own: `model.fit` takes all its epochs to be of one length.
            batches = training_batches(dataset, run.recipe, run.seed, first=first, **part)
            trained.fit(
                devices.feed(batches),
                validation_data=devices.feed(held_out),
                initial_epoch=epoch,
                epochs=epoch + 1 if first else run.recipe.epochs,
                shuffle=False,  # The batches are shuffled already, reproducibly.
                verbose=verbose if devices.chief else 0,
                callbacks=make_callbacks(trained, batches, recorder),
            )
            first = 0
    except BaseException as error:
        # TensorFlow makes an error of its own of what a batch raises.
        reason = batches.failure or held_out.failure or error
        watch.wait(reason)
        watch.close(finished=False)
        # A disk that is full takes no note of it either.
        with contextlib.suppress(OSError):
            recorder.close("stopped", f"{type(reason).__name__}: {reason}".rstrip(": "))
        if isinstance(reason, OSError):
            raise OSError(f"A file of the run cannot be written: {reason}. {recorder.way_on()}") from error
        if isinstance(reason, ValueError):
            raise ValueError(f"{str(reason).rstrip('.')}. {recorder.way_on()}") from error
        raise
    recorder.close("finished")
    watch.close(finished=True)
    return recorder.run


def check_output(output):
    """`output` as a path; a `ValueError` if something is there that a run would mix with."""
    output = pathlib.Path(output)
    if (output / "metrics.json").exists():
        raise ValueError(f"The output directory {output} already holds a run. Choose another one.")
    # What a run leaves that was killed before its first file was whole does not count.
    if output.exists() and not (output.is_dir() and all(path.name.endswith(".partial") for path in output.iterdir())):
        raise ValueError(f"The output directory {output} exists and is not an empty folder. Choose another one.")
    return output


def _summary(dataset):
    kept = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return {**kept, "train": len(dataset.train), "test": len(dataset.test)}


def _versions():
    versions = {"python": platform.python_version(), "keras_sharenets": keras_sharenets.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
