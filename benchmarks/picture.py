"""Ratios as horizontal bars. It needs matplotlib: `pip install 'keras_sharenets[plots]'`."""

import io
import math

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

OURS, PEER, DARK, QUIET, GRID = "#1f5fbf", "#9aa5b1", "#1f2933", "#52606d", "#e4e7eb"
# The scale reaches at least over these: a few per cent shall look like that.
_LOW, _HIGH = 0.7, 2.0
_FINE_TICKS = (0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4)
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(table, machine):
    """The rows of a `Table` as bars: one plot a panel, two side by side and to one scale.

    Bars start at 1, the peer's time, and grow to the right where something takes longer and to the left where it takes
    less; the scale is logarithmic, so that half and twice the time are as far from 1. The line on a bar goes from the
    lower to the upper quartile.

    Args:
        table: `Table` with at least one row.
        machine: str, for the last line.

    Returns:
        bytes: a PNG file.
    """
    panels = table.panels()
    columns = min(2, len(panels))
    lines = [list(panels.items())[start : start + columns] for start in range(0, len(panels), columns)]
    bars = [max(len(rows) for _, rows in line) for line in lines]
    figure = Figure(
        figsize=(6.6 * columns, 1.3 + sum(0.24 * count + 0.65 for count in bars)), dpi=110, layout="constrained"
    )
    figure.get_layout_engine().set(hspace=0.06, wspace=0.03, rect=(0, 0, 0.985, 1))
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=[count + 2 for count in bars])
    for row_of_axes, line, count in zip(grid, lines, bars, strict=True):
        limits = _limits([row for _, rows in line for row in rows])
        for axes in row_of_axes[len(line) :]:
            axes.axis("off")
        for axes, (name, rows) in zip(row_of_axes, line, strict=False):
            _draw_panel(axes, name, rows, table.label, limits)
            axes.set_ylim(count - 0.4, -0.6)
    figure.suptitle(table.title, x=0.01, ha="left", fontsize=13, color=DARK)
    figure.supxlabel(f"{table.ratio}; lines: quartiles\n{machine}", x=0.01, ha="left", fontsize=9, color=QUIET)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _limits(rows):
    """The ends of the scale: a little beyond all quartiles."""
    measured = [row for row in rows if row["ratio"] is not None]
    low = min(_LOW, *(row["ratio_low"] for row in measured))
    high = max(_HIGH, *(row["ratio_high"] for row in measured))
    margin = (high / low) ** 0.03
    return low / margin, high * margin


def _draw_panel(axes, name, rows, label, limits):
    axes.set_xscale("log")
    for place, row in enumerate(rows):
        _draw_bar(axes, place, row)
    axes.axvline(1, color=DARK, linewidth=0.8, zorder=4)
    axes.set_xlim(limits)
    ticks = _FINE_TICKS if limits[1] / limits[0] < 10 else _TICKS
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(length=0, labelsize=8, labelcolor=DARK)
    axes.set_yticks(range(len(rows)), [label.format(**row) for row in rows])
    axes.set_title(name, loc="left", fontsize=9.5, color=DARK)
    axes.grid(axis="x", color=GRID, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_bar(axes, place, row):
    texts = {1.28: "not measured"}
    if row["ratio"] is not None:
        axes.barh(place, row["ratio"] - 1, left=1, height=0.66, color=PEER if row["peer"] else OURS, zorder=2)
        axes.hlines(place, row["ratio_low"], row["ratio_high"], DARK, linewidth=1.2, zorder=3)
        texts = {1.09: _three_digits(row["ratio"]), 1.28: f"{_three_digits(row['milliseconds'])} ms"}
    for across, text in texts.items():
        where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(across, place, text, fontsize=8, color=QUIET, **where)


def _three_digits(value):
    """A number above 0 with three digits that count, at least: `0.0659`, `1.00`, `113`, `1250`."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
