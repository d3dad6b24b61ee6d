"""Measure the accuracy of a .keras or .tflite file on a test split.

sharenets evaluate runs/digits/last.keras --data digits
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=".keras or .tflite file")
    add_data_arguments(parser)
    parser.add_argument(
        "--crops",
        choices=("none", "center", "ten"),
        default="none",
        help="look at the middle of larger images, or at ten parts, corners and mirrors (default: none)",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """One line: the accuracy, and on what."""
    from keras_sharenets.training.reports.evaluate import evaluate

    dataset = load_data(data_source(arguments))
    result = evaluate(arguments.file, dataset, arguments.crops)
    text = f"accuracy {result.accuracy:.4f} ({result.correct} of {result.images} test images) on {dataset.note}"
    return Answer(text, dataclasses.asdict(result) | {"accuracy": result.accuracy, "note": dataset.note})
