"""Compresses a trained network step by step: each step is fine-tuned with the original as teacher, and measured.

One folder has everything needed to resume: `compress.json` with the plan and the results, `original/`, and a folder for
each step with its fine-tuning run, as written by `fit`, and its exported files.
"""

from __future__ import annotations

import dataclasses
import gzip
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks, files
from keras_sharenets.analysis import profile
from keras_sharenets.folder_lock import hold_folder
from keras_sharenets.interruption import Interrupted
from keras_sharenets.training.compress.steps import (
    CLUSTER,
    PRUNE,
    SHARE,
    Step,
    apply_sharing,
    dry_run,
    followed,
    to_train,
)
from keras_sharenets.training.data.batches import training_batches
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.optimization import build_optimizer
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.command import resume_command
from keras_sharenets.training.run.export import export
from keras_sharenets.training.run.finished import network_file, tested_crops, training_images
from keras_sharenets.training.run.fit import check_output, check_same_data, installed_versions, summarize
from keras_sharenets.training.run.loop import train_network
from keras_sharenets.training.run.progress import Progress
from keras_sharenets.training.run.record import Run, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import CHECKPOINTS, last_checkpoint
from keras_sharenets.training.run.teacher import open_teacher

RECORD, ORIGINAL, VERSION = "compress.json", "original", 1
LAYER_NAMES = "layer_names.json"  # In the folder of a sharing step: `Shared.layer_names`.
PROGRAM = "sharenets compress"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a compression.

    Attributes:
        source: the original network, as given by the user.
        name: its name, for tables.
        steps: the steps in order.
        where: which convolutions share, as in `keras_sharenets.share`.
        images: number of training images for sharing and calibration.
        recipe: recipe for each fine-tuning.
        seed: random seed for each fine-tuning.
        data: data source for reloading the data set.
    """

    source: str
    name: str
    steps: tuple[Step, ...]
    where: tuple[str, ...] | None
    images: int
    recipe: Recipe
    seed: int
    data: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Row:
    """Measurements of the network after a step, or of the original.

    Attributes:
        step: description of the step.
        accuracy_before: test accuracy before fine-tuning; `None` if not meaningful: pruning and learning of value
            ranges happen during training.
        accuracy: test accuracy after fine-tuning, with fake quantization for quantization-aware training.
        int8_accuracy: test accuracy of the int8 file.
        stored_parameters: trainable parameters; shared ones count once.
        nonzero: fraction of nonzero values in kernels.
        float_bytes, float_gzip, int8_bytes, int8_gzip: sizes of the TFLite files, plain and compressed with gzip.
        int8_ms: median latency for one image in LiteRT, one thread, on this machine.
        unsteady: whether the machine was busy during the measurement; missing in records of earlier versions.
    """

    step: str
    accuracy_before: float | None
    accuracy: float
    int8_accuracy: float
    stored_parameters: int
    nonzero: float
    float_bytes: int
    float_gzip: int
    int8_bytes: int
    int8_gzip: int
    int8_ms: float
    unsteady: bool = False


def read_record(output: str | pathlib.Path) -> tuple[Plan, list[Row]]:
    """The plan and the finished rows of the compression in a folder.

    Raises:
        ValueError: the folder contains no compression, or its record is damaged.
    """
    path = pathlib.Path(output) / RECORD
    if not path.is_file():
        raise ValueError(f"There is no {path}: {output} contains no compression.")
    try:
        record = files.read_json(path)
        if record["version"] > VERSION:
            raise ValueError(f"its version (={record['version']}) must be at most {VERSION}: update keras_sharenets.")
        plan = {field.name: record["plan"][field.name] for field in dataclasses.fields(Plan)}
        plan["steps"] = tuple(Step(**step) for step in plan["steps"])
        plan["recipe"] = Recipe(**files.as_tuples(plan["recipe"]))
        plan["where"] = files.as_tuples(plan["where"])
        return Plan(**plan), [Row(**row) for row in record["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the record of a compression: {type(error).__name__} {error}") from error


def begin(
    network: keras.Model,
    plan: Plan,
    dataset: Dataset,
    output: str | pathlib.Path,
    *,
    say: Say,
    show: Say,
) -> list[Row]:
    """Compresses a network and writes the results to a new folder.

    Args:
        network: functional model from raw pixels to class probabilities.
        plan: the settings.
        dataset: data for fine-tuning and testing.
        output: a folder that does not exist or is empty.
        say: receives progress messages.
        show: receives lines about training steps, each of which replaces the previous one.

    Returns:
        A `Row` for the original and one for each step.

    Raises:
        ValueError: `output` is in use, the network has other classes or does not return probabilities, a scheme fits
            nowhere, a budget cannot be met, or a layer cannot be exported; nothing is written.
        RuntimeError: the backend is not TensorFlow.
        Interrupted: a signal was received; the message says how to resume.
    """
    _checks.tensorflow_backend("Compression", "compress it there")
    output = check_output(output)
    if plan.recipe.ema:
        raise ValueError(f"`ema` (={plan.recipe.ema}) must be 0: averaging would undo pruning and clustering.")
    if plan.recipe.early_stopping and any(step.kind == PRUNE for step in plan.steps):
        raise ValueError(
            f"`early_stopping` (={plan.recipe.early_stopping}) must be 0 with pruning: a run that ends early does not "
            "reach the sparsity."
        )
    # Raises the errors of the seed and the recipe now, not after the original has been measured.
    _run(plan, plan.steps[0], dataset, output)
    build_optimizer(plan.recipe, training_batches(dataset, plan.recipe, plan.seed).steps)
    few = training_images(dataset, plan.recipe, 4)
    dry_run(network, plan.steps, plan.where, few)
    with hold_folder(output):
        output = check_output(output)
        try:
            files.save_model(network, network_file(output / ORIGINAL))
            # Before the class names are written, which a teacher is compared with.
            open_teacher(network_file(output / ORIGINAL), dataset, plan.recipe, argument="network", name=plan.source)
            files.write_labels(output / ORIGINAL, dataset.class_names)
            _write(output, plan, [])
        except BaseException:  # Also Ctrl-C: without a record, the folder could be neither resumed nor used again.
            shutil.rmtree(output / ORIGINAL, ignore_errors=True)
            raise
        return _run_steps(output, plan, [], dataset, say, show)


def resume(output: str | pathlib.Path, dataset: Dataset, *, say: Say, show: Say) -> list[Row]:
    """Resumes a compression that was killed or interrupted, within its current step.

    Raises:
        ValueError: a step was trained on another data set; otherwise as in `begin`.
    """
    _checks.tensorflow_backend("Compression", "compress it there")
    output = pathlib.Path(output)
    plan, _ = read_record(output)
    for folder in (step_folder(output, plan, number) for number in range(len(plan.steps))):
        if (folder / "metrics.json").is_file():
            check_same_data(read_metrics(folder / "metrics.json"), dataset, folder)
    with hold_folder(output):
        plan, rows = read_record(output)
        return _run_steps(output, plan, rows, dataset, say, show)


def _run_steps(output: pathlib.Path, plan: Plan, rows: list[Row], dataset: Dataset, say: Say, show: Say) -> list[Row]:
    files.remove_partials(output)
    try:
        if not rows:
            say(f"original: {plan.name}")
            rows = [_measure("original", None, output / ORIGINAL, plan, dataset)]
            _write(output, plan, rows)
        for number in range(len(rows) - 1, len(plan.steps)):
            step, folder = plan.steps[number], step_folder(output, plan, number)
            say(f"step {number + 1} of {len(plan.steps)}: {step}")
            before = _train(output, plan, number, dataset, say, show)
            rows = [*rows, _measure(str(step), before, folder, plan, dataset)]
            _write(output, plan, rows)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else 2
        raise Interrupted(number, f"`{resume_command(output, PROGRAM)}` resumes.") from None
    return rows


def step_folder(output: pathlib.Path, plan: Plan, number: int) -> pathlib.Path:
    """The folder of a step."""
    return output / f"{number + 1}_{plan.steps[number].kind}"


def _train(output: pathlib.Path, plan: Plan, number: int, dataset: Dataset, say: Say, show: Say) -> float | None:
    """Fine-tunes a step, unless it is finished; returns the accuracy before, if meaningful."""
    step, folder = plan.steps[number], step_folder(output, plan, number)
    source = step_folder(output, plan, number - 1) if number else output / ORIGINAL
    batches = training_batches(dataset, plan.recipe, plan.seed)
    keras.utils.set_random_seed(plan.seed)  # Centroids are initialized at random.
    run = _run(plan, step, dataset, output)
    begun = folder / "begin.keras"
    if not begun.is_file():
        network = files.load_model(network_file(source))
        if step.kind == SHARE:
            images = training_images(dataset, plan.recipe, plan.images)
            where = _where(output, plan, number)
            shared = apply_sharing(network, step, where, images, _original_parameters(output))
            files.write_text(folder / "share.txt", str(shared))
            files.write_json(folder / LAYER_NAMES, dict(shared.layer_names))
            network = shared.model
        elif step.kind == CLUSTER:
            to_train(network, plan.steps, number, 1)  # Changes the layers in place.
        else:
            from keras_sharenets.mobile import strip

            network = strip(network)
        files.save_model(network, begun)
    before = _accuracy(begun, dataset, plan) if step.kind in (SHARE, CLUSTER) else None

    def make() -> keras.Model:
        return to_train(files.load_model(begun), plan.steps, number, batches.steps * plan.recipe.epochs)

    network = make()
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    if checkpoint is not None:
        # The teacher of this record: the folder may have been moved since the checkpoint was written.
        changes = {"state": "running", "reason": None, "teacher": run.teacher}
        run = dataclasses.replace(run_from_dict(checkpoint[-1]["run"]), **changes)
    # With TFMOT, the network itself is trained: a second model with the same layers would bypass TFMOT.
    has_own_step = hasattr(network, "training_state")
    devices = Devices(model=lambda *_, **__: network) if has_own_step else Devices()
    told = [Progress(run.recipe.epochs, run.split, say, show)]
    train_network(devices, network, make, run, dataset, folder, checkpoint, verbose=0, callbacks=told)
    return before


def _where(output: pathlib.Path, plan: Plan, number: int) -> Sequence[str] | None:
    """The convolutions that a step may share: those named in the plan, or what earlier steps have made of them."""
    where = plan.where
    for record in (step_folder(output, plan, earlier) / LAYER_NAMES for earlier in range(number)):
        if record.is_file():  # Only sharing steps have it, and compressions begun by an earlier version do not.
            where = followed(where, files.read_json(record))
    return where


def _original_parameters(output: pathlib.Path) -> int:
    return profile(files.load_model(network_file(output / ORIGINAL))).stored_parameters


def _run(plan: Plan, step: Step, dataset: Dataset, output: pathlib.Path) -> Run:
    """The initial record of a fine-tuning run."""
    return Run(
        seed=plan.seed,
        teacher=str(network_file(output / ORIGINAL)),
        model=f"{plan.name}, {step}",  # Deliberately not the name of a network.
        options={},
        data=summarize(dataset),
        recipe=plan.recipe,
        backend=keras.backend.backend(),
        versions=installed_versions(),
        source=plan.data,
        precision="float32",
        epochs_on_device="no",
        trainer={"program": PROGRAM, "changes": [str(step)]},
    )


def _accuracy(path: pathlib.Path, dataset: Dataset, plan: Plan) -> float:
    from keras_sharenets.training.reports.evaluate import evaluate

    return evaluate(path, dataset, tested_crops(plan.recipe)).accuracy


def _measure(step: str, before: float | None, folder: pathlib.Path, plan: Plan, dataset: Dataset) -> Row:
    """Exports a network, and measures its files."""
    from keras_sharenets import mobile
    from keras_sharenets.layers.quantized_kernels import stored_kernels

    path = network_file(folder)
    model = files.load_model(path)
    images = training_images(dataset, plan.recipe, plan.images)
    plain = mobile.strip(files.load_model(path))  # Fake quantization is for the int8 file only.
    written = export(plain, folder, dataset.class_names, images, formats=("float",))
    written += export(model, folder, dataset.class_names, images, formats=("int8",))
    float_file, int8_file = (folder / entry["path"] for entry in written)
    kernels = {id(kernel): kernel for layer in model._flatten_layers() for kernel, _ in stored_kernels(layer)}
    numbers = np.concatenate([keras.ops.convert_to_numpy(kernel).ravel() for kernel in kernels.values()])
    time = mobile.benchmark_tflite(int8_file, num_threads=1)
    return Row(
        step=step,
        accuracy_before=before,
        accuracy=_accuracy(path, dataset, plan),
        int8_accuracy=_accuracy(int8_file, dataset, plan),
        stored_parameters=profile(plain).stored_parameters,
        nonzero=float(np.count_nonzero(numbers) / numbers.size),
        float_bytes=float_file.stat().st_size,
        float_gzip=_gzip_bytes(float_file),
        int8_bytes=int8_file.stat().st_size,
        int8_gzip=_gzip_bytes(int8_file),
        int8_ms=time.median_ms,
        unsteady=time.unsteady,
    )


def _gzip_bytes(path: pathlib.Path) -> int:
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def _write(output: pathlib.Path, plan: Plan, rows: Sequence[Row]) -> None:
    state = "finished" if len(rows) > len(plan.steps) else "running"
    rows_told = [dataclasses.asdict(row) for row in rows]
    record = {"version": VERSION, "state": state, "plan": dataclasses.asdict(plan), "rows": rows_told}
    files.write_json(output / RECORD, record)
