"""Measure the accuracy of a .keras or .tflite file on a test split.

sharenets evaluate runs/digits/last.keras --data digits
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths

_ENLARGED = "of images resized so that the short side is 8/7 of the crop"
CROPS_NOTES = {"none": "", "center": f"on the center crop {_ENLARGED}", "ten": f"on ten crops {_ENLARGED}"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=".keras or .tflite file")
    add_data_arguments(parser)
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


def run(arguments: argparse.Namespace) -> Answer:
    """The accuracy and its data set, the error rates, and the crops if there are any."""
    from keras_sharenets.training.reports.evaluate import evaluate
    from keras_sharenets.training.run.finished import crops_of_file

    dataset = load_data(data_source(arguments))
    crops = arguments.crops or crops_of_file(arguments.file)
    result = evaluate(arguments.file, dataset, crops)
    text = f"accuracy {result.accuracy:.4f} ({result.correct} of {result.images} test images) on {dataset.note}"
    more = {"error_rate": 1 - result.accuracy, "top5_accuracy": result.top5_accuracy, "crops": crops}
    text += f"\nerror rate {1 - result.accuracy:.4f}"
    if result.top5_accuracy is not None:
        text += f"; top-5 accuracy {result.top5_accuracy:.4f}, error rate {1 - result.top5_accuracy:.4f}"
    text += f"\n{CROPS_NOTES[crops]}" if crops != "none" else ""
    return Answer(text, dataclasses.asdict(result) | {"accuracy": result.accuracy, "note": dataset.note} | more)
