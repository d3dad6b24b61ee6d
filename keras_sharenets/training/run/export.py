"""Exports the network of a finished run for phones and servers; each file is verified before it is kept."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets.training.run.record import EXPORT_RECORD

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_sharenets.mobile.export.onnx import ONNXReport
    from keras_sharenets.mobile.export.saved_model import SavedModelReport
    from keras_sharenets.mobile.export.tflite import TFLiteReport
    from keras_sharenets.training.data.dataset import Dataset
    from keras_sharenets.training.run.record import Run

# Formats that may fail come first, so that nothing is written in that case.
FORMATS = ("float", "int8", "saved_model", "keras")
TFLITE = FORMATS[:2]
# On request only: one needs extra packages, the other duplicates the others.
ONNX, HUB = "onnx", "hub"
CHOICES = (*FORMATS, ONNX, HUB)
FOR_HUB = "hf://USER/NAME"  # Address for `keras.saving.load_model` of a folder on the Hugging Face Hub.


def check_exportable(
    folder: str | pathlib.Path, output: str | pathlib.Path | None = None, *, formats: Sequence[str] = FORMATS
) -> tuple[Run, pathlib.Path]:
    """The run in a folder, and the output folder; arguments and errors as in [`export_run`], except for the data."""
    import keras

    from keras_sharenets.training.run.command import resume_command
    from keras_sharenets.training.run.finished import open_run
    from keras_sharenets.training.run.fit import check_output

    if keras.backend.backend() != "tensorflow" and not set(formats) <= {"keras", HUB}:
        raise ValueError(
            f"`--formats` (={' '.join(formats)}) need KERAS_BACKEND=tensorflow, except for keras and {HUB}."
        )
    target = check_output(output or pathlib.Path(folder) / "export")
    trained = open_run(folder)
    if trained.state != "finished":
        raise ValueError(f"The run in {folder} is not finished: `{resume_command(folder)}` resumes it.")
    return trained, target


def export_run(
    folder: str | pathlib.Path,
    dataset: Dataset,
    output: str | pathlib.Path | None = None,
    *,
    formats: Sequence[str] = FORMATS,
    images: int = 200,
    test: bool = False,
) -> dict[str, Any]:
    """Writes the network of a finished run in some `FORMATS`, and the results in `export.json` next to them.

    Args:
        folder: folder of the run.
        dataset: data set of the run.
        output: an empty or new folder; by default `export` in the folder of the run.
        formats: some of `CHOICES`. `HUB` is a folder to upload to a model hub: the network in the layout that
            Keras loads from there, the int8 file if there is one, the class names, and a model card.
        images: number of training images for calibration and verification.
        test: whether to measure the `.tflite` files on the full test split.

    Returns:
        The contents of `export.json`, and the `folder`.

    Raises:
        ValueError: the run is not finished, its data has other classes, or `output` is in use.
    """
    from keras_sharenets import files
    from keras_sharenets.training.run.finished import check_classes, network_file, tested_crops, training_images

    trained, target = check_exportable(folder, output, formats=formats)
    check_classes(dataset, folder, trained)
    representative_data = training_images(dataset, trained.recipe, images)
    model = files.load_model(network_file(folder))
    alone = [name for name in formats if name != HUB]
    written = export(model, target, dataset.class_names, representative_data, formats=alone)
    if test:
        written = [entry | _tested(entry, target, dataset, tested_crops(trained.recipe)) for entry in written]
    if HUB in formats:
        written.append(_export_for_hub(model, folder, target, trained, written))
    run = os.path.relpath(folder, target)  # The files are tested like the run, wherever both are moved together.
    record: dict[str, Any] = {"model": trained.model, "data": trained.data["name"], "run": run, "files": written}
    files.write_json(target / EXPORT_RECORD, record)
    return record | {"folder": str(target)}


def _export_for_hub(
    model: keras.Model, folder: str | pathlib.Path, output: pathlib.Path, trained: Run, written: list[dict]
) -> dict:
    """Writes the folder `hub` and returns its entry; `written` has the entries of the existing files."""
    from keras_sharenets import files
    from keras_sharenets.analysis.profile import profile
    from keras_sharenets.training.reports.card import CARD, model_card
    from keras_sharenets.training.reports.results import Published

    target = output / HUB
    files.save_model_folder(model, target)
    int8 = next((entry for entry in written if entry["form"] == "int8"), None)
    if int8 is not None:
        files.write_bytes(target / int8["path"], (output / int8["path"]).read_bytes())
    files.write_labels(target, trained.data["class_names"])
    assert trained.test_accuracy is not None  # It is finished.
    published = Published(pathlib.Path(folder), trained, trained.test_accuracy, int8)
    files.write_text(target / CARD, model_card(published, profile(model), address=FOR_HUB))
    return _entry(HUB, HUB, files.folder_bytes(target), "the network itself")


def _tested(entry: dict, output: pathlib.Path, dataset: Dataset, crops: str) -> dict:
    """The accuracy of a TFLite file on the test split; empty for other formats."""
    from keras_sharenets.training.reports.evaluate import evaluate

    if entry["form"] not in TFLITE:
        return {}
    result = evaluate(output / entry["path"], dataset, crops)
    return {"test_accuracy": result.accuracy, "test_correct": result.correct, "test_pictures": result.images}


def export(
    model: keras.Model,
    output: pathlib.Path,
    class_names: Sequence[str],
    images: np.ndarray,
    *,
    formats: Sequence[str] = FORMATS,
) -> list[dict]:
    """Writes a trained network as "float" and "int8" (TFLite), "saved_model", and "keras", or some of these.

    Also writes `labels.txt` with the class names.

    Args:
        model: functional `keras.Model` from raw pixels to probabilities.
        output: the folder.
        class_names: one per class.
        images: float32 array `(n, height, width, channels)`, for calibration and verification.
        formats: some of `FORMATS`, or `ONNX`.

    Returns:
        A list of dicts, one per format, with the result of its verification. Paths are relative to `output`.

    Raises:
        ValueError: a layer cannot be exported.
        ExportMismatchError: the outputs of a file do not match Keras; it is not written.
    """
    from keras_sharenets import files

    written = []
    for name in formats:
        if name == "keras":
            path = output / "model.keras"
            files.save_model(model, path)
            written.append(_entry(name, path.name, path.stat().st_size, "the file itself"))
            continue

        from keras_sharenets import mobile

        given: dict[str, Any] = {"class_names": class_names, "representative_data": images}
        if name in TFLITE:
            quantization = None if name == "float" else name
            report = mobile.export_tflite(model, output / f"{name}.tflite", quantization, **given)
            size, checked = report.file_bytes, f"same class for {report.top1_agreement:.1%} of {report.verified_on}"
        else:
            if name == ONNX:
                report = mobile.export_onnx(model, output / "model.onnx", **given)
                size = report.file_bytes
            else:
                report = mobile.export_saved_model(model, output / "saved_model", **given)
                size = report.total_bytes
            checked = f"outputs differ by up to {report.largest_difference:.1e}"
        written.append(_entry(name, pathlib.Path(report.path).name, size, checked, report))
    files.write_labels(output, class_names)
    return written


def _entry(
    name: str, path: str, size: int, checked: str, report: TFLiteReport | SavedModelReport | ONNXReport | None = None
) -> dict:
    details = {} if report is None else {"report": dataclasses.asdict(report) | {"path": path}}
    # Named "form" for compatibility with older records.
    return {"form": name, "path": path, "bytes": size, "checked": checked, **details}
