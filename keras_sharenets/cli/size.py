"""Break down the size of .tflite files, side by side.

sharenets size small.tflite fast.tflite
"""

from __future__ import annotations

import argparse

from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE.tflite", help="files to analyze")


def check(arguments: argparse.Namespace) -> None:
    check_paths(*arguments.files)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets import mobile
    from keras_sharenets.mobile.inspect.tables import size_table

    reports = [mobile.size_report(path) for path in arguments.files]
    fields = ("path", "file_bytes", "parts", "arena_bytes")
    data = [{name: getattr(report, name) for name in fields} for report in reports]
    return Answer(size_table(reports), data)
