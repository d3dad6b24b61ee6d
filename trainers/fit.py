"""One training run, from a data set to files."""

import dataclasses
import importlib.metadata
import pathlib
import platform

import keras

import keras_sharenets
from trainers.batches import held_out_batches, training_batches
from trainers.network import build
from trainers.recipes import build_optimizer, decay_weights, recipe_for
from trainers.recorder import Recorder
from trainers.report import Run

PACKAGES = ("keras", "tensorflow", "jax", "numpy", "tensorflow_datasets", "scikit-learn", "pillow")


def fit(model_name, dataset, output, *, recipe=None, options=None, seed=0, jit_compile="auto", verbose="auto"):
    """Trains a named network with `model.fit` and writes all that is worth keeping into a folder.

    The folder gets `last.keras`, `best.keras`, `labels.txt`, `metrics.json`, `history.csv`, `curves.png` and
    TensorBoard's `logs/`. Every file but the logs is written to the side and renamed: whenever the process is killed,
    what is there is whole. The models are saved without the optimizer.

    Args:
        model_name: str, one of `keras_sharenets.list_models()`.
        dataset: `Dataset`.
        output: path of a folder that does not exist or is empty.
        recipe: `Recipe`; by default the one for this network and data set.
        options: dict, further arguments of the network's factory.
        seed: int, at least 0, of the weights, the order of the pictures and their changes.
        jit_compile: `"auto"`, `True` or `False`, as in `model.compile`.
        verbose: as in `model.fit`.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: `output` holds a run already, or an argument breaks a rule: before anything is written. Or the loss
            is no longer finite: what was saved before stays.
        KeyboardInterrupt: passed on, as any other error, after it has been noted in `metrics.json`.
    """
    output = check_output(output)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` (={seed!r}) must be a whole number of at least 0.")
    recipe = recipe or recipe_for(model_name, dataset.name)
    keras.utils.set_random_seed(seed)
    network = build(model_name, dataset, options)
    batches = training_batches(dataset, recipe, seed)
    trained = _compiled(network, recipe, len(batches), jit_compile)
    run = Run(
        model_name,
        dict(options or {}),
        _summary(dataset),
        recipe,
        seed,
        keras.backend.backend(),
        jit_compile,
        _versions(),
    )
    recorder = Recorder(network, output, run)
    try:
        trained.fit(
            batches,
            validation_data=held_out_batches(dataset, recipe.batch_size),
            epochs=recipe.epochs,
            shuffle=False,  # The batches are shuffled already, reproducibly.
            verbose=verbose,
            callbacks=[batches.callback(), recorder, keras.callbacks.TensorBoard(output / "logs", write_graph=False)],
        )
    except BaseException as error:
        recorder.close("stopped", f"{type(error).__name__}: {error}".rstrip(": "))
        raise
    recorder.close("finished")
    return recorder.run


def check_output(output):
    """`output` as a path; a `ValueError` if something is there that a run would mix with."""
    output = pathlib.Path(output)
    if (output / "metrics.json").exists():
        raise ValueError(f"The output directory {output} already holds a run. Choose another one.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"The output directory {output} exists and is not an empty folder. Choose another one.")
    return output


def _compiled(network, recipe, steps_per_epoch, jit_compile):
    """A second model on the same layers, compiled; `network` stays without optimizer, and so do its files."""
    decay_weights(network, recipe.weight_decay)
    model = keras.Model(network.input, network.output, name=network.name)
    model.compile(
        optimizer=build_optimizer(recipe, steps_per_epoch),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=jit_compile,
    )
    return model


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
