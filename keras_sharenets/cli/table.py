"""Show counts of named networks next to the figures in their papers, as Markdown tables.

sharenets table 'igcv2*'
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from keras_sharenets.cli.command import Answer
from keras_sharenets.cli.list import add_pattern, matching_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pattern(parser)
    parser.add_argument("--update", metavar="FILE", help="replace the tables between the markers in a Markdown file")


def check(arguments: argparse.Namespace) -> None:
    matching_names(arguments.pattern)
    if arguments.update is not None and arguments.pattern != "*":
        raise ValueError(f"`--update` writes the tables of all networks: omit the pattern (={arguments.pattern!r}).")


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets import files
    from keras_sharenets.analysis import catalog
    from keras_sharenets.models.registry import VARIANTS

    # In the order of the papers' tables, not alphabetically.
    names = sorted(matching_names(arguments.pattern), key=list(VARIANTS).index)
    listed = list(catalog.entries(names))
    text = catalog.to_markdown(listed)
    data = [dataclasses.asdict(entry) for entry in listed]
    if arguments.update is None:
        return Answer(text, data)
    page = pathlib.Path(arguments.update)
    files.write_text(page, catalog.replace_table(page.read_text(encoding="utf-8"), text))
    return Answer(f"tables of {len(names)} networks in {page}", data)
