"""Export a .keras file or a finished run for phones and servers; each file is verified against Keras.

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
from keras_sharenets.cli.command import Answer, say
from keras_sharenets.extras import ONNX_PACKAGES, require
from keras_sharenets.files import LABELS, check_paths, check_writable
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.training.run.export import CHOICES, FORMATS, HUB, ONNX, TFLITE, check_exportable, export_run

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_sharenets.mobile.export.onnx import ONNXReport
    from keras_sharenets.mobile.export.saved_model import SavedModelReport
    from keras_sharenets.mobile.export.tflite import TFLiteReport

_IMAGES = 200  # The default of `--images`.
CROPPED = (
    "The network is tested on the center crop of images whose short side is 8/7 of it. The files contain no such crop: "
    "crop images in your program. (`serve_encoded` of a SavedModel resizes whole images: some predictions differ.)"
)
_CHOSEN = ("quantization", "prefer", "input_type", "output_type")
_OF_FILE = ("to", "device", *_CHOSEN, "max_bytes", "representative_data")
_OF_RUN = ("formats", "test", "data", "data_dir", "download", "skip_unreadable", "split_seed", "input_shape")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = ".keras file, with class names in labels.txt next to it; or the folder of a finished run"
    parser.add_argument("target", metavar="FILE.keras|RUN_DIR", help=target_help)
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="where to write (default: next to the file; for a run, RUN_DIR/export, which must be empty or new)",
    )
    images_help = f"number of representative images, for int8 calibration and verification (default: {_IMAGES})"
    parser.add_argument("--images", "--pictures", type=int, metavar="N", help=images_help)
    group = parser.add_argument_group("a .keras file")
    to_help = (
        "c_array: C source for microcontrollers, in int8 with int8 inputs and outputs; onnx: also for a run "
        "(default: tflite)"
    )
    group.add_argument("--to", choices=("tflite", "c_array", "saved_model", ONNX), help=to_help)
    names = ", ".join(name or "float32" for name in precisions.PRECISIONS)
    quantization_help = f"{names}; or by layer, as in 'stage1_*=dynamic_int8,*=dynamic_int4' (default: float32)"
    group.add_argument("--quantization", type=precisions.parse, metavar="NAME", help=quantization_help)
    prefer_help = (
        "speed: one kernel for each use of a shared kernel; memory: small tensor arena; npu: small after Vela; "
        "gpu: correct on WebGPU (default: size; for c_array: memory)"
    )
    group.add_argument("--prefer", choices=targets.PREFERENCES, help=prefer_help)
    device_help = (
        "preset for --quantization, --prefer, --input-type, and --output-type; options that are given take precedence"
    )
    group.add_argument("--target", dest="device", choices=targets.TARGETS, help=device_help)
    group.add_argument(
        "--max-bytes", type=int, metavar="N", help="instead of --prefer: the fastest file of at most N bytes"
    )
    for end in ("input", "output"):
        end_help = f"{end} type of an int8 file (default: uint8; for microcontrollers: int8)"
        group.add_argument(f"--{end}-type", choices=("float32", "uint8", "int8"), help=end_help)
    data_help = "folder of representative images, searched recursively"
    group.add_argument("--representative-data", "--calibration", metavar="FOLDER", help=data_help)
    group = parser.add_argument_group("a run", "The representative images are taken from its training split.")
    formats_help = f"some of {', '.join(FORMATS)} (default: all), {ONNX}, or {HUB}: a folder for the Hugging Face Hub"
    group.add_argument("--formats", "--forms", nargs="+", choices=CHOICES, metavar="FORMAT", help=formats_help)
    test_help = "measure the accuracy of the .tflite files on the full test split, and record it"
    group.add_argument("--test", action="store_true", default=None, help=test_help)
    add_data_arguments(parser, required=False, note="For a run (default: its training data).")


def check(arguments: argparse.Namespace) -> None:
    of_run = pathlib.Path(arguments.target).is_dir()
    if arguments.images is None:
        arguments.images = _IMAGES
    elif not of_run and arguments.representative_data is None:
        raise ValueError("`--images` requires `--representative-data FOLDER`: it is the number of images from there.")
    _checks.positive("--images", arguments.images)
    if of_run and arguments.to == ONNX and not arguments.formats:
        arguments.to, arguments.formats = None, [ONNX]
    for name in _OF_FILE if of_run else _OF_RUN:
        if getattr(arguments, name) is not None:
            wanted = (
                "a .keras file, but TARGET is a folder" if of_run else "the folder of a run, but TARGET is not a folder"
            )
            file = pathlib.Path(arguments.target, "last.keras")
            instead = f": export {file}" if of_run and file.is_file() else ""
            raise ValueError(f"`{_option(name)}` is for {wanted} (={arguments.target}){instead}.")
    for name in ("device", *_CHOSEN, "max_bytes"):
        if arguments.to in ("saved_model", ONNX) and getattr(arguments, name) is not None:
            raise ValueError(f"`{_option(name)}` does not apply to `--to {arguments.to}`.")
    given = {name: getattr(arguments, name) for name in _CHOSEN}
    vars(arguments).update(targets.choose(arguments.device, **given))
    precisions.check_quantization(arguments.quantization, "--quantization")
    if arguments.to == "c_array" and arguments.quantization not in (None, "int8"):
        raise ValueError(
            "`--to c_array` supports float32 and int8 only: LiteRT for Microcontrollers does not dequantize float16 "
            "weights, and the other precisions are untested there."
        )
    if precisions.needs_ranges(arguments.quantization) and arguments.representative_data is None:
        told = precisions.tell(arguments.quantization)
        raise ValueError(f"`--quantization {told}` requires `--representative-data FOLDER`: images for calibration.")
    if arguments.test and arguments.formats and not set(arguments.formats) & set(TFLITE):
        raise ValueError(
            f"`--test` is for {' and '.join(TFLITE)}, but `--formats` (={' '.join(arguments.formats)}) has neither."
        )
    if ONNX in (arguments.to, *(arguments.formats or ())):
        require(*ONNX_PACKAGES)
    check_paths(arguments.target, arguments.representative_data)
    if arguments.representative_data is not None and not pathlib.Path(arguments.representative_data).is_dir():
        told = arguments.representative_data
        raise ValueError(f"`--representative-data` (={told}) must be a folder that contains images, but is a file.")
    if arguments.output and pathlib.Path(arguments.output).resolve() == pathlib.Path(arguments.target).resolve():
        raise ValueError(f"`--output` (={arguments.output}) must differ from the network, which it would replace.")
    if arguments.output and not of_run:
        output = pathlib.Path(arguments.output)
        if arguments.to == "c_array":
            output = pathlib.Path(f"{str(output).removesuffix('.c')}.c")
        if arguments.to != "saved_model" or not output.exists():  # The export itself refuses an existing folder.
            check_writable(output, "--output")


def _option(name):
    return {"device": "--target"}.get(name, f"--{name.replace('_', '-')}")


def run(arguments: argparse.Namespace) -> Answer:
    if pathlib.Path(arguments.target).is_dir():
        formats, output = arguments.formats or FORMATS, arguments.output
        # Fails before the data is read.
        trained, _ = check_exportable(arguments.target, output, formats=formats)
        dataset = load_data(data_source(arguments, trained.source))
        data = export_run(
            arguments.target, dataset, output, formats=formats, images=arguments.images, test=bool(arguments.test)
        )
        if trained.recipe.crop_size:
            say(CROPPED)
        return Answer(text_table(_rows(data["files"], pathlib.Path(data["folder"]))), data)
    from keras_sharenets import files, mobile
    from keras_sharenets.training.run.finished import crops_of_file

    model = files.load_model(arguments.target)
    file, images = pathlib.Path(arguments.target), None
    class_names = None if arguments.to == "c_array" else _class_names(model, file)
    if arguments.representative_data is not None:
        if len(getattr(model, "inputs", ())) > 1:
            raise ValueError(
                f"`--representative-data` is for one input of images, but {file} has {len(model.inputs)} inputs: export"
                " it in Python (`keras_sharenets.mobile.export_tflite`), with an array for each input."
            )
        crops = crops_of_file(file)
        images = representative_images(arguments.representative_data, model.input_shape[1:], arguments.images, crops)
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
            class_names=class_names,
            prefer=arguments.prefer or ("memory" if to_c else "size"),
            max_bytes=arguments.max_bytes,
            input_type=arguments.input_type or end_type,
            output_type=arguments.output_type or end_type,
        )
        if to_c:
            written = mobile.write_c_array(report.path, target if arguments.output else file.with_suffix(""))
            report = dataclasses.replace(report, path=written[0])
    text = f"{_fields(report)}\nthe weights in the file take {report.repetition:.2f} times their stored size"
    if report.fallback_layers:
        text += "\nlayers without a lowering rule run in float, as converted by TensorFlow"
    return Answer(text, dataclasses.asdict(report) | {"repetition": report.repetition})


def _class_names(model: keras.Model, path: pathlib.Path) -> Sequence[str] | None:
    """The class names in the file next to a network, if any; an error names that file if they do not fit."""
    from keras_sharenets import files
    from keras_sharenets.analysis.graph import is_functional, trace
    from keras_sharenets.heads import heads_of

    names = files.read_labels(path)
    if names is None or not is_functional(model):
        return names
    heads = heads_of(trace(model))
    place = path.with_name(LABELS)
    if len(heads) > 1:
        raise ValueError(f"{place} has class names, which require a network with one output; {path} has {len(heads)}.")
    return heads[0].check_names(names, str(place))


def representative_images(folder: str, shape: Sequence[int], count: int, crops: str = "none") -> np.ndarray:
    """Up to `count` evenly spaced images from below `folder`, in the format of `read_images`.

    `crops` is "none", or "center" for a network that was trained on crops.
    """
    from keras_sharenets.cli.predict import read_images
    from keras_sharenets.images import evenly_spaced, find_images
    from keras_sharenets.training.data.augmentation import CENTER

    found = find_images(folder)
    if not found:
        raise ValueError(f"`--representative-data` (={folder}) must be a folder that contains images.")
    view = None if crops == "none" else CENTER
    return read_images([found[index] for index in evenly_spaced(len(found), count)], shape, view)


def _fields(report: TFLiteReport | SavedModelReport | ONNXReport) -> str:
    """The fields of a report, one per line, without those that do not apply to the file."""
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
