"""How something grows, as points and power laws. It needs matplotlib: `pip install 'keras_sharenets[plots]'`."""

import io
import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.picture import DARK, GRID, OURS, QUIET
from benchmarks.power_law import PowerLaw

# What is drawn, by its column: its name, colour and marker.
LINES = {
    "milliseconds": ("time", OURS, "o"),
    "multiply_adds": ("multiply-adds", "#9aa5b1", "s"),
    "activation_bytes": ("activations", "#2a9d6f", "^"),
    "kept_bytes": ("weights and momenta", "#d9822b", "D"),
}
ACROSS = 4
TICKS = tuple(2.0**power for power in range(-8, 13))


def draw(rows, title, machine):
    """The rows of `scaling.make_row`, a plot each, both scales logarithmic.

    All that is drawn is a multiple of what the power law gives for the first point, so that lines start together and
    differ by their exponents. Lines are the laws, marks the points.

    Args:
        rows: sequence of at least one.
        title: str.
        machine: str, for the last line.

    Returns:
        bytes: a PNG file.
    """
    down = math.ceil(len(rows) / ACROSS)
    across = min(ACROSS, len(rows))
    figure = Figure(figsize=(max(3.3 * across, 6.6), 2.9 * down + 1.3), dpi=110, layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04, rect=(0, 0.03, 0.985, 0.97))
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(rows) :]:
        axes.axis("off")
    for axes, row in zip(grid, rows, strict=False):
        _draw_axis(axes, row)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=DARK)
    text = f"Multiples of the first point, by the law; numbers: exponents\n{machine}"
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=QUIET)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_axis(axes, row):
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = np.array([point["value"] for point in row["points"]])
    for name, (text, colour, marker) in LINES.items():
        law = PowerLaw(**row["laws"][name])
        start = law(values[0])
        measured = [point[name] / start for point in row["points"]]
        style = {"color": colour, "zorder": 3 if name == "milliseconds" else 2}
        axes.plot(values, law(values.astype(float)) / start, linewidth=1.4, **style)
        axes.plot(values, measured, marker, markersize=4, label=f"{text} {law}", **style)
    low, high = axes.get_ylim()
    # Where nothing grows, a few per cent shall look like that.
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.set_title(f"{row['family']}, {row['letter']}", loc="left", fontsize=9.5, color=DARK)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    for each in (axes.xaxis, axes.yaxis):
        each.set_minor_locator(NullLocator())
        each.set_major_formatter("{x:g}")
    axes.tick_params(length=0, labelsize=8, labelcolor=DARK)
    axes.grid(color=GRID, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, labelcolor=QUIET, handletextpad=0.2)
