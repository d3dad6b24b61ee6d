"""Turn a .keras file, or a finished run, into files for phones and servers; checked against Keras before they are kept.

sharenets export best.keras --quantization int8 --representative-data images/
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks, precisions, targets
from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer
from keras_sharenets.extras import ONNX_PACKAGES, require
from keras_sharenets.files import check_paths
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.training.run.export import CHOICES, FORMATS, HUB, ONNX, TFLITE, check_exportable, export_run

if TYPE_CHECKING:
    import numpy as np

    from keras_sharenets.mobile.export.onnx import ONNXReport
    from keras_sharenets.mobile.export.saved_model import SavedModelReport
    from keras_sharenets.mobile.export.tflite import TFLiteReport

_CHOSEN = ("quantization", "prefer", "input_type", "output_type")
_OF_FILE = ("to", "device", *_CHOSEN, "max_bytes", "representative_data")
_OF_RUN = ("formats", "test", "data", "data_dir", "download", "skip_unreadable", "input_shape")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = ".keras file, labels.txt beside it gives the class names; or the folder of a finished run"
    parser.add_argument("target", metavar="FILE.keras|RUN_DIR", help=target_help)
    parser.add_argument("--output", metavar="PATH", help="default: beside the file, or RUN_DIR/export, an empty folder")
    images_help = "representative images, to calibrate int8 and to check with (default: 200)"
    parser.add_argument("--images", "--pictures", type=int, default=200, metavar="N", help=images_help)
    group = parser.add_argument_group("a .keras file")
    to_help = "c_array: C source for microcontrollers, int8 at the ends; onnx also from a run (default: tflite)"
    group.add_argument("--to", choices=("tflite", "c_array", "saved_model", ONNX), help=to_help)
    names = ", ".join(name for name in precisions.PRECISIONS if name)
    quantization_help = f"{names}; or for some layers, 'stage1_*=dynamic_int8,*=dynamic_int4' (default: float32)"
    group.add_argument("--quantization", type=precisions.parse, metavar="NAME", help=quantization_help)
    prefer_help = (
        "speed: every use of a shared kernel has one of its own; memory: small tensor arena; npu: small after Vela; "
        "gpu: right on WebGPU (default: size; of c_array: memory)"
    )
    group.add_argument("--prefer", choices=targets.PREFERENCES, help=prefer_help)
    device_help = "sets the quantization, what to prefer and the types, where they are not given"
    group.add_argument("--target", dest="device", choices=targets.TARGETS, help=device_help)
    group.add_argument("--max-bytes", type=int, metavar="N", help="instead: the fastest that fits into so many bytes")
    for end, verb in (("input", "takes"), ("output", "gives")):
        end_help = f"what an int8 file {verb} (default: uint8; microcontrollers: int8)"
        group.add_argument(f"--{end}-type", choices=("float32", "uint8", "int8"), help=end_help)
    data_help = "representative images, anywhere below a folder"
    group.add_argument("--representative-data", "--calibration", metavar="FOLDER", help=data_help)
    group = parser.add_argument_group("a run", "The representative images are of its training split.")
    formats_help = f"some of {', '.join(FORMATS)} (default: all), {ONNX}, or {HUB}: a folder for the Hugging Face Hub"
    group.add_argument("--formats", "--forms", nargs="+", choices=CHOICES, metavar="FORMAT", help=formats_help)
    test_help = "measure the .tflite files on the whole test split, and record it"
    group.add_argument("--test", action="store_true", default=None, help=test_help)
    add_data_arguments(parser, required=False, note="Of a run; by default what it was trained on.")


def check(arguments: argparse.Namespace) -> None:
    _checks.positive("--images", arguments.images)
    of_run = pathlib.Path(arguments.target).is_dir()
    if of_run and arguments.to == ONNX and not arguments.formats:
        arguments.to, arguments.formats = None, [ONNX]
    for name in _OF_FILE if of_run else _OF_RUN:
        if getattr(arguments, name) is not None:
            wanted = "a .keras file, but TARGET is a folder" if of_run else "the folder of a run, but TARGET is none"
            raise ValueError(f"`{_option(name)}` is for {wanted} (={arguments.target}).")
    for name in ("device", *_CHOSEN, "max_bytes"):
        if arguments.to in ("saved_model", ONNX) and getattr(arguments, name):
            raise ValueError(f"`{_option(name)}` goes with `--to tflite`.")
    given = {name: getattr(arguments, name) for name in _CHOSEN}
    vars(arguments).update(targets.choose(arguments.device, **given))
    precisions.check_quantization(arguments.quantization, "--quantization")
    if arguments.to == "c_array" and arguments.quantization not in (None, "int8"):
        raise ValueError(
            "`--to c_array` is for float32 and int8: LiteRT for Microcontrollers does not widen weights in float16, and"
            " files of the other precisions were not tried there."
        )
    if precisions.needs_ranges(arguments.quantization) and arguments.representative_data is None:
        told = precisions.tell(arguments.quantization)
        raise ValueError(
            f"`--quantization {told}` needs `--representative-data FOLDER`: images to measure the ranges with."
        )
    if arguments.test and arguments.formats and not set(arguments.formats) & set(TFLITE):
        raise ValueError(
            f"`--test` is for {' and '.join(TFLITE)}, but `--formats` (={' '.join(arguments.formats)}) has neither."
        )
    if ONNX in (arguments.to, *(arguments.formats or ())):
        require(*ONNX_PACKAGES)
    check_paths(arguments.target)


def _option(name):
    return {"device": "--target"}.get(name, f"--{name.replace('_', '-')}")


def run(arguments: argparse.Namespace) -> Answer:
    if pathlib.Path(arguments.target).is_dir():
        formats, output = arguments.formats or FORMATS, arguments.output
        # Before the data is read.
        trained, _ = check_exportable(arguments.target, output, formats=formats)
        dataset = load_data(data_source(arguments, trained.source))
        data = export_run(
            arguments.target, dataset, output, formats=formats, images=arguments.images, test=bool(arguments.test)
        )
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
    if arguments.to == ONNX:
        target = arguments.output or file.with_suffix(".onnx")
        report = mobile.export_onnx(model, target, class_names=class_names, representative_data=images)
        return Answer(_fields(report), dataclasses.asdict(report))
    to_c, target = arguments.to == "c_array", pathlib.Path(arguments.output or file.with_suffix(".tflite"))
    end_type = "int8" if to_c and arguments.quantization == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        report = mobile.export_tflite(
            model,
            pathlib.Path(folder, target.name) if to_c else target,
            quantization=arguments.quantization,
            representative_data=images,
            class_names=None if to_c else class_names,
            prefer=arguments.prefer or ("memory" if to_c else "size"),
            max_bytes=arguments.max_bytes,
            input_type=arguments.input_type or end_type,
            output_type=arguments.output_type or end_type,
        )
        if to_c:
            written = mobile.write_c_array(report.path, target if arguments.output else file.with_suffix(""))
            report = dataclasses.replace(report, path=written[0])
    text = f"{_fields(report)}\nthe weights in the file take {report.repetition:.2f} times what is stored"
    if report.fallback_layers:
        text += "\nlayers without a lowering rule compute in float, as TensorFlow's converter writes them"
    return Answer(text, dataclasses.asdict(report) | {"repetition": report.repetition})


def representative_images(folder: str, shape: Sequence[int], count: int) -> np.ndarray:
    """Up to `count` images spread evenly over those below `folder`, as `read_images` gives them."""
    from keras_sharenets.cli.predict import read_images
    from keras_sharenets.images import evenly_spaced, find_images

    found = find_images(folder)
    if not found:
        raise ValueError(f"`--representative-data` (={folder}) must be a folder with images in it.")
    return read_images([found[index] for index in evenly_spaced(len(found), count)], shape)


def _fields(report: TFLiteReport | SavedModelReport | ONNXReport) -> str:
    """A report's fields, one a line; without those that say nothing of this file."""
    lines = []
    for name, value in ({"path": report.path} | dataclasses.asdict(report)).items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = precisions.tell(value)
        if isinstance(value, tuple):
            value = ", ".join(map(str, value)) or "none"
        text = {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)
        lines.append(f"{name.replace('_', ' '):22} {text}")
    return "\n".join(lines)


def _rows(written: Sequence[dict], output: pathlib.Path) -> list[list[str]]:
    head = ["file", "size", "compared with Keras"]
    rows = [[str(output / entry["path"]), f"{entry['bytes']:,} bytes", entry["checked"]] for entry in written]
    if any("test_accuracy" in entry for entry in written):
        head.append("test accuracy")
        for row, entry in zip(rows, written, strict=True):
            row.append(f"{entry['test_accuracy']:.2%}" if "test_accuracy" in entry else "-")
    return [head, *rows]
