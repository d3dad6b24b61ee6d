"""The results of a benchmark, as a table in Markdown and JSON and as a figure."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.arguments import RunOptions, progress
from keras_sharenets import files
from keras_sharenets.cli.command import Answer
from keras_sharenets.machine import describe_machine
from keras_sharenets.rendering import figures
from keras_sharenets.rendering.tables import markdown_table

Row = dict[str, Any]

# Minimum range of the scale of bars, so that a few percent look small.
_LOW, _HIGH = 0.7, 2.0
_FINE_TICKS = (0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4)
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that a benchmark can refute: a measured value must not exceed a limit."""

    text: str
    where: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


@dataclasses.dataclass(frozen=True)
class Table:
    """The result of a benchmark.

    Attributes:
        name: of its files.
        title: one line.
        note: description of the measurement and the columns.
        ratio: meaning of the ratios in the rows, the axis of the figure.
        panel, label: templates for `str.format` with a row. Rows of one panel are grouped, in the order of their first
            rows, each under its label.
        columns: heading to such a template.
        rows: plain data. All have the columns of `timing.columns`, `None` where nothing could be measured, and `peer`:
            whether the row is a comparison rather than the library's own.
        claims: claims that were checked against the rows.
        draw: function from a table and the description of a machine to a PNG file.
    """

    name: str
    title: str
    note: str
    ratio: str
    panel: str
    label: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    draw: Callable[[Table, str], bytes] | None = None

    def panels(self) -> dict[str, list[Row]]:
        """`{panel: its rows}`."""
        panels = {}
        for row in self.rows:
            panels.setdefault(self.panel.format(**row), []).append(row)
        return panels


def write(table: Table, options: RunOptions, more: Mapping[str, str] | None = None) -> Answer:
    """Writes a table with at least one row as `NAME.md`, `NAME.json`, and `NAME.png`, plus `more` by file name."""
    context = {"command": options.command, **describe_machine()}
    claims = [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in table.claims]
    data = {"title": table.title, "note": table.note, **context, "claims": claims, "rows": table.rows}
    texts = {f"{table.name}.md": to_markdown(table, context)} | (more or {})
    image = (table.draw or draw_bars)(table, f"{context['processor']}, {context['cores']} cores")
    for name, text in texts.items():
        files.write_text(options.folder / name, text)
    files.write_json(options.folder / f"{table.name}.json", data)
    files.write_bytes(options.folder / f"{table.name}.png", image)
    progress(f"written: {', '.join([*texts, f'{table.name}.json', f'{table.name}.png'])} in {options.folder}")
    return Answer("".join(texts.values()), data)


def to_markdown(table: Table, context: Mapping[str, Any]) -> str:
    """A table as a page: the `command`, the machine, one table per panel, and the outcome of the claims."""
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


def time_columns(ratio: str) -> dict[str, str]:
    """The columns for the values of `timing.columns`; `ratio` is the heading of the ratio to the peer."""
    return {
        "median ms": "{milliseconds:.4g}",
        "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
        ratio: "{ratio:.3f}",
        "quartiles of the ratio": "{ratio_low:.3f} - {ratio_high:.3f}",
    }


def fill(template: str, row: Row) -> str:
    """A template filled with the values of a row, or `-` if one of them is `None`.

    >>> fill("{low:.1f}-{high:.1f}", {"low": 1, "high": 2}), fill("{low:.1f}-{high:.1f}", {"low": 1, "high": None})
    ('1.0-2.0', '-')
    """
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return "-" if any(row[name] is None for name in names) else template.format(**row)


def joined(values: Iterable[object]) -> str:
    """Values in one cell, separated by commas."""
    return ", ".join(map(str, values))


def draw_bars(table: Table, machine: str) -> bytes:
    """The rows of a table as bars: one plot per panel, two side by side with the same scale.

    Bars start at 1, the peer's time, and extend to the right for longer times and to the left for shorter ones. The
    scale is logarithmic, so that half and twice the time are equally far from 1. The line on a bar spans the quartiles.
    Returns a PNG file.
    """
    panels = table.panels()
    columns = min(2, len(panels))
    lines = [list(panels.items())[start : start + columns] for start in range(0, len(panels), columns)]
    bars = [max(len(rows) for _, rows in line) for line in lines]
    figure = figures.new_figure(6.6 * columns, 1.3 + sum(0.24 * count + 0.65 for count in bars), table.title)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.03, rect=(0, 0, 0.985, 1))
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=[count + 2 for count in bars])
    for row_of_axes, line, count in zip(grid, lines, bars, strict=True):
        limits = _limits([row for _, rows in line for row in rows])
        for axes in row_of_axes[len(line) :]:
            axes.axis("off")
        for axes, (name, rows) in zip(row_of_axes, line, strict=False):
            _draw_panel(axes, name, rows, table.label, limits)
            axes.set_ylim(count - 0.4, -0.6)
    figures.caption(figure, f"{table.ratio}; lines: quartiles\n{machine}")
    return figures.png(figure)


def _limits(rows: list[Row]) -> tuple[float, float]:
    """The ends of the scale: slightly beyond all quartiles."""
    measured = [row for row in rows if row["ratio"] is not None]
    low = min(_LOW, *(row["ratio_low"] for row in measured))
    high = max(_HIGH, *(row["ratio_high"] for row in measured))
    margin = (high / low) ** 0.03
    return low / margin, high * margin


def _draw_panel(axes, name: str, rows: list[Row], label: str, limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    for place, row in enumerate(rows):
        _draw_bar(axes, place, row)
    axes.axvline(1, color=figures.DARK, linewidth=0.8, zorder=4)
    axes.set_xlim(limits)
    figures.ticks_at(axes.xaxis, _FINE_TICKS if limits[1] / limits[0] < 10 else _TICKS)
    axes.tick_params(length=0, labelsize=8, labelcolor=figures.DARK)
    axes.set_yticks(range(len(rows)), [label.format(**row) for row in rows])
    axes.set_title(name, loc="left", fontsize=9.5, color=figures.DARK)
    figures.frame(axes, grid="x")
    axes.spines["left"].set_visible(False)


def _draw_bar(axes, place: int, row: Row) -> None:
    texts = {1.28: "not measured"}
    if row["ratio"] is not None:
        color = figures.GRAY if row["peer"] else figures.BLUE
        axes.barh(place, row["ratio"] - 1, left=1, height=0.66, color=color, zorder=2)
        axes.hlines(place, row["ratio_low"], row["ratio_high"], figures.DARK, linewidth=1.2, zorder=3)
        texts = {1.09: _three_digits(row["ratio"]), 1.28: f"{_three_digits(row['milliseconds'])} ms"}
    for across, text in texts.items():
        where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(across, place, text, fontsize=8, color=figures.QUIET, **where)


def _three_digits(value: float) -> str:
    """A number above 0 with at least three significant digits: `0.0659`, `1.00`, `113`, `1250`."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
