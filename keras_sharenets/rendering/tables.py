"""Tables of words, for a terminal and in Markdown; of values, as CSV."""

from __future__ import annotations

import collections
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Sequence[str]]
_NUMBER = re.compile(r"[~+-]?[\d,]*\.?\d+(e[+-]?\d+)?( ?[%KM])?|\?")


def shorten(text: str, longest: int) -> str:
    """A text of at most so many characters; a longer one is cut and ends in an ellipsis.

    >>> shorten("bumblebee", 6), shorten("ant", 6)
    ('bumbl…', 'ant')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def short_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last part, or the whole path if another path has the same last part.

    >>> short_names(["runs/a/", "x/run", "y/run"])
    ['a', 'x/run', 'y/run']
    """
    ends = {path: os.path.basename(os.path.abspath(path)) for path in paths}
    counts = collections.Counter(ends.values())
    return [path if counts[ends[path]] > 1 else ends[path] for path in paths]


def text_table(rows: Rows, *, align: str | None = None) -> str:
    """Rows of equally many words as aligned columns, two spaces between them; the first row is the header.

    Args:
        rows: the cells.
        align: one letter a column, `l` or `r`. By default columns of which most cells are numbers are on the right.

    >>> print(text_table([("name", "epochs"), ("fast", "15")]))
    name  epochs
    fast      15
    """
    align = align or column_sides(rows)
    # A name of several lines would look like several rows.
    rows = [[cell.replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, align, strict=True)
        lines.append("  ".join(f"{cell:{'>' if side == 'r' else '<'}{width}}" for cell, width, side in cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Rows, *, align: str | None = None) -> str:
    """The same in Markdown, whose cells may contain Markdown.

    >>> print(markdown_table([("name", "epochs"), ("fast|slow\\nrun", "15")]))
    | name | epochs |
    | --- | ---: |
    | fast\\|slow<br>run | 15 |
    """
    header, *body = [f"| {' | '.join(map(_markdown_cell, row))} |" for row in rows]
    rules = ["---:" if side == "r" else "---" for side in align or column_sides(rows)]
    return "\n".join([header, f"| {' | '.join(rules)} |", *body])


def _markdown_cell(text: str) -> str:
    """A text without the characters that would end a cell or a row."""
    return "<br>".join(text.replace("|", r"\|").splitlines())


def column_sides(rows: Rows) -> str:
    """A letter for each column: `r` where most cells below the header are numbers, else `l`.

    >>> column_sides([("name", "bytes", "ms"), ("fast", "1,200", "~0.19")])
    'lrr'
    """
    return "".join("r" if _are_numbers(column) else "l" for _, *column in zip(*rows, strict=True))


def _are_numbers(cells: Sequence[str]) -> bool:
    given = [cell for cell in cells if cell not in ("", "-")]
    return 2 * sum(_NUMBER.fullmatch(cell) is not None for cell in given) > len(given)


def csv_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV: a header, then a line per row with the values of these `columns`, by default the keys of the first.

    >>> csv_table([{"name": "fast", "epochs": 15}])
    'name,epochs\\nfast,15\\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
