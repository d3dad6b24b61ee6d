"""Report on a search, finished or not: Markdown tables, figures, `report.json`, and `report.html`.

sharenets report runs/search
"""

from __future__ import annotations

import argparse
import pathlib

from keras_sharenets.cli.command import Answer, say_over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of the search")


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.search import report

    folder = pathlib.Path(arguments.folder)
    found = report.make_report(folder, say_over)
    say_over("")
    text = report.write(found)
    return Answer(f"{text}\nreport: {folder / 'report.html'}", report.to_dict(found))
