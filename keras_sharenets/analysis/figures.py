"""The papers' pictures, drawn from data. They need matplotlib: `pip install 'keras_sharenets[plots]'`."""

import io
import math

import numpy as np

BLUE, WHITE, RED = "#1f5fbf", "#ffffff", "#c62828"
DARK, GRID = "#1f2933", "#e4e7eb"
DPI = 120


def draw_pruning_curve(rows, title):
    """Accuracy against the part of the blending weights that is 0 (ShardNet, figure 5).

    Args:
        rows: sequence of `CurveRow` of `keras_sharenets.analysis.blending_pruning`; compressions, if they have any, are
            written along the top.
        title: str.

    Returns:
        bytes: a PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    rows = sorted(rows, key=lambda row: row.fraction)
    fractions = [row.fraction for row in rows]
    figure = Figure(figsize=(7.5, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(fractions, [row.accuracy for row in rows], color=BLUE, marker="o", markersize=5, linewidth=1.8)
    axes.set_xlim(-0.02, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("blending weights set to 0")
    axes.set_ylabel("accuracy")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    if all(row.compression is not None for row in rows):
        top = axes.secondary_xaxis("top")
        top.set_xticks(fractions, [f"{row.compression:.2f}" for row in rows], fontsize=8)
        top.set_xlabel("compression: parameters of the baseline for each one that is left", fontsize=9)
        top.spines["top"].set_color(GRID)
        top.tick_params(color=GRID)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return _png(figure)


def draw_blending_patterns(patterns, title):
    """Which inputs the blending layers use least and most (ShardNet, figures 4, 7 and 8): one panel a layer.

    A row is an output channel, a column an input channel; blue marks the smallest weights of a row, red the largest. A
    channel that hardly any output uses is a blue line from top to bottom. Below is the share of rows in which each
    column is blue.

    Args:
        patterns: sequence of `Pattern` of `keras_sharenets.analysis.blending`, drawn from left to right.
        title: str.

    Returns:
        bytes: a PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Cells are square, within limits: a layer with four times as many outputs as inputs would be a strip.
    shapes = [pattern.matrix.shape for pattern in patterns]
    widths = [min(max(inputs / outputs, 0.5), 2) for outputs, inputs in shapes]
    height = min(max(max(outputs for outputs, _ in shapes) / DPI, 3.6), 8)
    across = 1 + sum(height * width + 0.4 for width in widths)
    figure = Figure(figsize=(max(across, 5), height + 2.2), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(patterns), squeeze=False, width_ratios=widths, height_ratios=(height, 0.8))
    for matrix_axes, share_axes, pattern in zip(*grid, patterns, strict=True):
        _draw_matrix(matrix_axes, pattern, height * DPI)
        _draw_blue_share(share_axes, pattern)
    grid[0][0].set_ylabel("output channel")
    grid[1][0].set_ylabel("blue rows")
    keys = [
        Patch(facecolor=BLUE, label="smallest weights of the row"),
        Patch(facecolor=RED, label="largest"),
        Line2D([], [], color=DARK, linestyle="--", linewidth=1, label="by chance"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return _png(figure)


def _draw_matrix(axes, pattern, pixels):
    """The pattern in colours, on about `pixels` pixels from top to bottom."""
    from matplotlib.colors import to_rgb

    outputs, inputs = pattern.matrix.shape
    # Colours and not numbers: where there are more cells than pixels the colours are averaged, and no line gets lost.
    colours = np.array([to_rgb(colour) for colour in (BLUE, WHITE, RED)])[pattern.matrix + 1]
    if max(outputs, inputs) > pixels / 2:
        # The average would run across the borders of large cells as well: each gets as many points as it has pixels.
        for axis, cells in enumerate((outputs, inputs)):
            colours = colours.repeat(math.ceil(pixels / cells), axis)
        axes.imshow(
            colours, aspect="auto", interpolation="antialiased", extent=(-0.5, inputs - 0.5, outputs - 0.5, -0.5)
        )
    else:
        axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set_title(f"{pattern.name}\n{inputs} to {outputs}, {pattern.each} of each", loc="left", fontsize=9)
    axes.tick_params(labelbottom=False)


def _draw_blue_share(axes, pattern):
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    inputs = pattern.matrix.shape[1]
    axes.fill_between(np.arange(inputs + 1) - 0.5, [*pattern.blue_share, 0], step="post", color=BLUE, linewidth=0)
    axes.axhline(pattern.chance, color=DARK, linestyle="--", linewidth=1)
    axes.set_xlim(-0.5, inputs - 0.5)
    axes.set_ylim(0, max(1.05 * pattern.blue_share.max(), 2 * pattern.chance))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel("input channel")
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
