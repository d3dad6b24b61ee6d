"""What a benchmark found, as a table in Markdown and JSON and as a picture."""

import dataclasses
import json
import pathlib
import string

from benchmarks.arguments import progress
from benchmarks.picture import draw
from keras_sharenets import files
from keras_sharenets.cli.command import Answer
from keras_sharenets.machine import describe_machine
from keras_sharenets.rendering.tables import markdown_table


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something that a benchmark can refute: a measured value that must not be above a limit.

    Attributes:
        text: str, what is claimed.
        where: str, for which network and the like.
        value: float, what was measured.
        limit: float.
    """

    text: str
    where: str
    value: float
    limit: float

    @property
    def holds(self):
        return self.value <= self.limit


@dataclasses.dataclass(frozen=True)
class Table:
    """The result of a benchmark.

    Attributes:
        name: str, of its files.
        title: str.
        note: str, what was measured and what the columns mean.
        ratio: str, what the ratios in the rows are: the axis of the picture.
        panel, label: templates for `str.format` with a row: rows of one panel stand together, in the order of their
            first ones, each under its label.
        columns: dict, heading to such a template.
        rows: tuple of dicts of plain data. All have the columns of `timing.figures`, `None` where nothing could be
            measured, and `peer`: whether the row is something to compare with, and not the library's own.
        claims: tuple of `Claim`.
    """

    name: str
    title: str
    note: str
    ratio: str
    panel: str
    label: str
    columns: dict
    rows: tuple
    claims: tuple = ()

    def panels(self):
        """`{panel: its rows}`."""
        panels = {}
        for row in self.rows:
            panels.setdefault(self.panel.format(**row), []).append(row)
        return panels


def write(table, folder, command):
    """Writes a `Table` into a folder as `NAME.md`, `NAME.json` and `NAME.png`, with the machine and the command.

    Args:
        table: `Table` with at least one row.
        folder: path; it is made if need be.
        command: str, the command line.

    Returns:
        The three paths.
    """
    context = {"command": command, **describe_machine()}
    claims = [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in table.claims]
    contents = {"title": table.title, "note": table.note, **context, "claims": claims, "rows": table.rows}
    paths = [pathlib.Path(folder) / f"{table.name}.{ending}" for ending in ("md", "json", "png")]
    files.write_text(paths[0], to_markdown(table, context))
    files.write_json(paths[1], contents)
    files.write_bytes(paths[2], draw(table, f"{context['processor']}, {context['cores']} cores"))
    return paths


def answer(written):
    """The `Answer` of a benchmark that has written these files: a table's three, and perhaps another text."""
    page, numbers, _, *others = written
    progress(f"written: {', '.join(map(str, written))}")
    return Answer("".join(path.read_text() for path in (page, *others)), json.loads(numbers.read_text()))


def to_markdown(table, context):
    """A `Table` as a page: what it ran on, one table a panel, and what becomes of the claims.

    Args:
        table: `Table`.
        context: dict as from `describe_machine`, with the `command`.

    Returns:
        str.
    """
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items() if version)
    machine = f"{context['processor']}, {context['cores']} cores, load {context['load']}"
    parts = [f"# {table.title}", f"`{context['command']}`", f"{context['date']}; {machine}; {versions}.", table.note]
    for panel, rows in table.panels().items():
        cells = [[fill(table.label, row), *(fill(form, row) for form in table.columns.values())] for row in rows]
        parts += [f"## {panel}", markdown_table([["", *table.columns], *cells], align="l" + "r" * len(table.columns))]
    if table.claims:
        cells = [
            [claim.text, claim.where, f"{claim.value:.3g}", f"{claim.limit:g}", "yes" if claim.holds else "**no**"]
            for claim in table.claims
        ]
        parts += ["## Claims", markdown_table([["", "", "measured", "at most", "holds"], *cells], align="llrrr")]
    return "\n\n".join(parts) + "\n"


def fill(template, row):
    """A template with the values of a row, or `-` where one of them is `None`.

    >>> fill("{low:.1f}-{high:.1f}", {"low": 1, "high": 2}), fill("{low:.1f}-{high:.1f}", {"low": 1, "high": None})
    ('1.0-2.0', '-')
    """
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return "-" if any(row[name] is None for name in names) else template.format(**row)
