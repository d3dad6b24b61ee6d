"""Measure the accuracy of a .keras or .tflite file, or of the network of a run, on a test split.

sharenets evaluate runs/digits/last.keras --data digits
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths

SUFFIXES = (".keras", ".tflite")
_ENLARGED = "of images resized so that the short side is 8/7 of the crop"
CROPS_NOTES = {"none": "", "center": f"on the center crop {_ENLARGED}", "ten": f"on ten crops {_ENLARGED}"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE|RUN_DIR", help=".keras or .tflite file, or the folder of a run")
    add_data_arguments(parser, required=False, note="Default: the data of the run or search that the file belongs to.")
    add_crops(parser, "test on")


def add_crops(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds `--crops`; `verb` is what the command does with them."""
    parser.add_argument(
        "--crops",
        choices=("none", "center", "ten"),
        help=f"{verb} the center crop of enlarged images, or ten crops: corners and center, plain and mirrored "
        "(default: as in the run or search that the file belongs to, else none)",
    )


def check(arguments: argparse.Namespace) -> None:
    check_paths(arguments.file)
    path = pathlib.Path(arguments.file)
    if not path.is_dir() and path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is neither a .keras nor a .tflite file.")


def run(arguments: argparse.Namespace) -> Answer:
    """The accuracy and its data set, the error rates, and the crops if there are any."""
    from keras_sharenets.training.reports.evaluate import evaluate
    from keras_sharenets.training.run.finished import crops_of_file, network_file, open_run, source_of_file

    path = pathlib.Path(arguments.file)
    if path.is_dir():
        open_run(path)
        path = network_file(path)
    # Other data has another size, and other splits, than the record says.
    source = None if arguments.data is not None else source_of_file(path)
    if source is None and arguments.data is None:
        raise ValueError(f"`--data` is required: {path} belongs to no run and to no search.")
    dataset = load_data(data_source(arguments, source))
    crops = arguments.crops or crops_of_file(path)
    result = evaluate(path, dataset, crops)
    text = f"accuracy {result.accuracy:.4f} ({result.correct} of {result.images} test images) on {dataset.note}"
    more = {"error_rate": 1 - result.accuracy, "top5_accuracy": result.top5_accuracy, "crops": crops}
    text += f"\nerror rate {1 - result.accuracy:.4f}"
    if result.top5_accuracy is not None:
        text += f"; top-5 accuracy {result.top5_accuracy:.4f}, error rate {1 - result.top5_accuracy:.4f}"
    text += f"\n{CROPS_NOTES[crops]}" if crops != "none" else ""
    return Answer(text, dataclasses.asdict(result) | {"accuracy": result.accuracy, "note": dataset.note} | more)
