"""Measure latency, memory, and size of .tflite files with LiteRT, side by side.

sharenets benchmark a.tflite b.tflite --threads 2
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Collection, Iterable

from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE.tflite", help="files to measure")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="number of threads (default: 1)")
    parser.add_argument("--repetitions", type=int, default=200, metavar="N", help="inferences per file (default: 200)")
    parser.add_argument("--operators", action="store_true", help="also measure each operator of each file in isolation")
    accuracy_help = "known accuracies to show in the table and the figure, for example 0.77"
    parser.add_argument(
        "--accuracy", nargs="+", action="extend", default=[], metavar="FILE=FRACTION", help=accuracy_help
    )
    parser.add_argument("--figure", "--picture", metavar="FILE.png", help="plot accuracy against size")


def parse_accuracies(entries: Iterable[str], paths: Collection[str]) -> dict[str, float]:
    """`{file: share}` from the `FILE=FRACTION` of `--accuracy`.

    >>> parse_accuracies(["a.tflite=0.77"], ["a.tflite", "b.tflite"])
    {'a.tflite': 0.77}

    Raises:
        ValueError: a file is not in `paths`, or a share is not a number from 0 to 1.
    """
    accuracies = {}
    for entry in entries:
        path, _, share = entry.rpartition("=")
        if path not in paths or not re.fullmatch(r"[01]|[01]?\.\d+", share) or float(share) > 1:
            raise ValueError(
                f"`--accuracy` (={entry}) must be FILE=FRACTION: a file of this run and a number from 0 to 1."
            )
        accuracies[path] = float(share)
    return accuracies


def check(arguments: argparse.Namespace) -> None:
    accuracies = parse_accuracies(arguments.accuracy, arguments.files)
    if arguments.figure and len(accuracies) < len(set(arguments.files)):
        raise ValueError("`--figure` needs `--accuracy FILE=FRACTION` for every file.")
    if arguments.figure:
        importlib.import_module("matplotlib")  # Fails before the files are measured.
        check_writable(arguments.figure, "--figure")
    check_paths(*arguments.files)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets import files, mobile
    from keras_sharenets.machine import describe_machine
    from keras_sharenets.mobile.inspect import tables
    from keras_sharenets.mobile.inspect.benchmark import operator_times

    accuracies = parse_accuracies(arguments.accuracy, arguments.files)
    reports = mobile.compare_tflite(arguments.files, num_threads=arguments.threads, repetitions=arguments.repetitions)
    parts = [tables.benchmark_table(reports, accuracies)]
    operators = {}
    for path in arguments.files if arguments.operators else ():
        operators[path] = operator_times(path, num_threads=arguments.threads)
        parts.append(tables.operator_table(path, operators[path]))
    if arguments.figure:
        from keras_sharenets.rendering.tables import short_names
        from keras_sharenets.training.reports.plots import draw_accuracies

        named = zip(short_names(arguments.files), reports, strict=True)
        points = {name: (report.file_bytes / 1000, [accuracies[report.path]]) for name, report in named}
        size = "size of the file in kB (1000 bytes)"
        files.write_bytes(arguments.figure, draw_accuracies(points, size, "Accuracy and size of TFLite files"))
    entries = tables.benchmark_entries(reports, accuracies, operators)
    return Answer("\n".join(parts), {"machine": describe_machine(), "files": entries})
