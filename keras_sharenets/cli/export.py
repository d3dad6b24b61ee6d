"""Turn a .keras file, or a finished run, into files for phones and servers; checked against Keras before they are kept.

sharenets export best.keras --quantization int8 --representative-data images/
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer
from keras_sharenets.rendering.tables import text_table

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_sharenets.mobile.export.saved_model import SavedModelReport
    from keras_sharenets.mobile.export.tflite import TFLiteReport
    from keras_sharenets.training.data.dataset import Dataset
    from keras_sharenets.training.data.sources import DataSource

# In this order: what a network may not be exportable to comes first, so that nothing is written then.
FORMATS = ("float", "int8", "saved_model", "keras")
TFLITE = FORMATS[:2]
_OF_FILE = ("to", "quantization", "prefer", "max_bytes", "representative_data")
_OF_RUN = ("formats", "test", "data", "data_dir", "download", "skip_unreadable", "input_shape")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = ".keras file, labels.txt beside it gives the class names; or the folder of a finished run"
    parser.add_argument("target", metavar="FILE.keras|RUN_DIR", help=target_help)
    parser.add_argument("--output", metavar="PATH", help="default: beside the file, or RUN_DIR/export, an empty folder")
    images_help = "representative images, to calibrate int8 and to check with (default: 200)"
    parser.add_argument("--images", "--pictures", type=int, default=200, metavar="N", help=images_help)
    group = parser.add_argument_group("a .keras file")
    group.add_argument("--to", choices=("tflite", "saved_model"), help="default: tflite")
    group.add_argument("--quantization", choices=("float16", "int8"), help="default: float32")
    prefer_help = "speed: every use of a shared kernel has one of its own (default: size)"
    group.add_argument("--prefer", choices=("size", "speed"), help=prefer_help)
    group.add_argument("--max-bytes", type=int, metavar="N", help="instead: the fastest that fits into so many bytes")
    data_help = "representative images, anywhere below a folder"
    group.add_argument("--representative-data", "--calibration", metavar="FOLDER", help=data_help)
    group = parser.add_argument_group("a run", "The representative images are of its training split.")
    formats_help = f"some of {', '.join(FORMATS)} (default: all)"
    group.add_argument("--formats", "--forms", nargs="+", choices=FORMATS, metavar="FORMAT", help=formats_help)
    test_help = "measure the .tflite files on the whole test split, and record it"
    group.add_argument("--test", action="store_true", default=None, help=test_help)
    add_data_arguments(group, required=False)


def check(arguments: argparse.Namespace) -> None:
    _checks.positive("--images", arguments.images)
    of_run = pathlib.Path(arguments.target).is_dir()
    for name in _OF_FILE if of_run else _OF_RUN:
        if getattr(arguments, name) is not None:
            wanted = "a .keras file, but TARGET is a folder" if of_run else "the folder of a run, but TARGET is none"
            raise ValueError(f"`--{name.replace('_', '-')}` is for {wanted} (={arguments.target}).")
    if arguments.to == "saved_model" and arguments.quantization:
        raise ValueError("`--quantization` goes with `--to tflite`.")
    if arguments.quantization == "int8" and arguments.representative_data is None:
        raise ValueError(
            "`--quantization int8` needs `--representative-data FOLDER`: images to measure the ranges with."
        )
    if arguments.test and arguments.formats and not set(arguments.formats) & set(TFLITE):
        raise ValueError(
            f"`--test` is for {' and '.join(TFLITE)}, but `--formats` (={' '.join(arguments.formats)}) has neither."
        )


def run(arguments: argparse.Namespace) -> Answer:
    if pathlib.Path(arguments.target).is_dir():
        from keras_sharenets.training.run.finished import open_run

        source = data_source(arguments, open_run(arguments.target).source)
        formats, count, output = arguments.formats or FORMATS, arguments.images, arguments.output
        data = export_run(arguments.target, source, output, formats=formats, images=count, test=bool(arguments.test))
        return Answer(text_table(_rows(data["files"], pathlib.Path(data["folder"]))), data)
    from keras_sharenets import files, mobile

    model = files.load_model(arguments.target)
    class_names = files.read_labels(arguments.target)
    file, images = pathlib.Path(arguments.target), None
    if arguments.representative_data is not None:
        images = representative_images(arguments.representative_data, model.input_shape[1:], arguments.images)
    if arguments.to == "saved_model":
        target = arguments.output or file.with_name(f"{file.stem}_saved_model")
        report = mobile.export_saved_model(model, target, class_names=class_names, representative_data=images)
        return Answer(_fields(report), dataclasses.asdict(report))
    report = mobile.export_tflite(
        model,
        arguments.output or file.with_suffix(".tflite"),
        quantization=arguments.quantization,
        representative_data=images,
        class_names=class_names,
        prefer=arguments.prefer or "size",
        max_bytes=arguments.max_bytes,
    )
    text = f"{_fields(report)}\nthe weights in the file take {report.repetition:.2f} times what is stored"
    return Answer(text, dataclasses.asdict(report) | {"repetition": report.repetition})


def representative_images(folder: str, shape: Sequence[int], count: int) -> np.ndarray:
    """Up to `count` images spread evenly over those below `folder`, as `read_images` gives them."""
    import numpy as np

    from keras_sharenets.cli.predict import read_images
    from keras_sharenets.images import find_images

    found = find_images(folder)
    if not found:
        raise ValueError(f"`--representative-data` (={folder}) must be a folder with images in it.")
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return read_images([found[index] for index in chosen], shape)


def _fields(report: TFLiteReport | SavedModelReport) -> str:
    """A report's fields, one a line."""
    lines = []
    for name, value in dataclasses.asdict(report).items():
        text = {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)
        lines.append(f"{name.replace('_', ' '):22} {text}")
    return "\n".join(lines)


def export_run(
    folder: str | pathlib.Path,
    source: DataSource,
    output: str | pathlib.Path | None = None,
    *,
    formats: Sequence[str] = FORMATS,
    images: int = 200,
    test: bool = False,
) -> dict[str, Any]:
    """Writes the network of a finished run in some `FORMATS`, and `export.json` with what was found beside them.

    Args:
        folder: that of the run.
        source: the data of the run.
        output: an empty or new folder, `export` in that of the run by default.
        formats: some of `FORMATS`.
        images: how many of the training split calibrate and check.
        test: whether the `.tflite` files are measured on the whole test split.

    Returns:
        What `export.json` holds, and the `folder`.

    Raises:
        ValueError: the run is not finished, its data has other classes, or `output` is in use.
    """
    import keras

    from keras_sharenets import files
    from keras_sharenets.training.run.finished import (
        check_classes,
        network_file,
        open_run,
        tested_crops,
        training_images,
    )
    from keras_sharenets.training.run.fit import check_output

    if keras.backend.backend() != "tensorflow" and set(formats) != {"keras"}:
        raise ValueError(f"`--formats` (={' '.join(formats)}) need KERAS_BACKEND=tensorflow, all but keras.")
    target = check_output(output or pathlib.Path(folder) / "export")
    trained = open_run(folder)
    if trained.state != "finished":
        raise ValueError(f"The run in {folder} is not finished: `fit --resume {folder}` goes on with it.")
    dataset = load_data(source)
    check_classes(dataset, folder, trained)
    representative_data = training_images(dataset, trained, images)
    model = files.load_model(network_file(folder))
    written = export(model, target, dataset.class_names, representative_data, formats=formats)
    if test:
        written = [entry | _tested(entry, target, dataset, tested_crops(trained.recipe)) for entry in written]
    record: dict[str, Any] = {"model": trained.model, "data": trained.data["name"], "files": written}
    files.write_json(target / "export.json", record)
    return record | {"folder": str(target)}


def _tested(entry: dict, output: pathlib.Path, dataset: Dataset, crops: str) -> dict:
    """What the test split says about a TFLite file; nothing about other formats."""
    from keras_sharenets.training.reports.evaluate import evaluate

    if entry["form"] not in TFLITE:
        return {}
    result = evaluate(output / entry["path"], dataset, crops)
    return {"test_accuracy": result.accuracy, "test_correct": result.correct, "test_pictures": result.images}


def _rows(written: Sequence[dict], output: pathlib.Path) -> list[list[str]]:
    head = ["file", "size", "compared with Keras"]
    rows = [[str(output / entry["path"]), f"{entry['bytes']:,} bytes", entry["checked"]] for entry in written]
    if any("test_accuracy" in entry for entry in written):
        head.append("test accuracy")
        for row, entry in zip(rows, written, strict=True):
            row.append(f"{entry['test_accuracy']:.2%}" if "test_accuracy" in entry else "-")
    return [head, *rows]


def export(
    model: keras.Model,
    output: pathlib.Path,
    class_names: Sequence[str],
    images: np.ndarray,
    *,
    formats: Sequence[str] = FORMATS,
) -> list[dict]:
    """Writes a trained network as "float" and "int8" (TFLite), "saved_model" and "keras", or some of these.

    `labels.txt` with the class names is beside them.

    Args:
        model: functional `keras.Model` from raw pixels to probabilities.
        output: the folder.
        class_names: one a class.
        images: float32 array `(n, height, width, channels)`, to calibrate and to compare with.
        formats: some of `FORMATS`.

    Returns:
        A list of dicts, one a format, with what its check has found. Paths are relative to `output`.

    Raises:
        ValueError: a layer cannot be exported.
        ExportMismatchError: a file does not compute what Keras does; it is not written.
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

        if name == "saved_model":
            report = mobile.export_saved_model(
                model, output / "saved_model", class_names=class_names, representative_data=images
            )
            checked = f"outputs differ by up to {report.largest_difference:.1e}"
            written.append(_entry(name, pathlib.Path(report.path).name, report.total_bytes, checked, report))
        else:
            path, quantization = output / f"{name}.tflite", None if name == "float" else name
            report = mobile.export_tflite(
                model, path, quantization=quantization, representative_data=images, class_names=class_names
            )
            checked = f"same class for {report.top1_agreement:.1%} of {report.verified_on}"
            written.append(_entry(name, pathlib.Path(report.path).name, report.file_bytes, checked, report))
    files.write_labels(output, class_names)
    return written


def _entry(
    name: str, path: str, size: int, checked: str, report: TFLiteReport | SavedModelReport | None = None
) -> dict:
    details = {} if report is None else {"report": dataclasses.asdict(report) | {"path": path}}
    # "form" is what older records call it.
    return {"form": name, "path": path, "bytes": size, "checked": checked, **details}
