"""Report on a search, finished or not: Markdown tables, figures, `report.json`, and `report.html`.

sharenets report runs/search
"""

from __future__ import annotations

import argparse
import pathlib

from keras_sharenets.cli.arguments import add_data_arguments, data_source
from keras_sharenets.cli.command import Answer, say_over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of the search")
    add_data_arguments(parser, required=False, note="Default: the data of the search.")


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.search import report, settings

    folder = pathlib.Path(arguments.folder)
    source = data_source(arguments, settings.read(folder)["source"])
    found = report.make_report(folder, say_over, source)
    say_over("")
    text = report.write(found)
    return Answer(f"{text}\nreport: {folder / 'report.html'}", report.to_dict(found))
