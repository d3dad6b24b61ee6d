"""Plots of the papers' figures on blending layers. Requires matplotlib: `keras_sharenets[plots]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_sharenets.rendering import figures

if TYPE_CHECKING:
    from keras_sharenets.analysis.blending import Pattern
    from keras_sharenets.analysis.blending_pruning import CurveRow


def draw_pruning_curve(rows: Sequence[CurveRow], title: str) -> bytes:
    """Plots accuracy against the fraction of pruned blending weights (ShardNet, figure 5), as a PNG file.

    Compression ratios, if available, are shown along the top.
    """
    rows = sorted(rows, key=lambda row: row.fraction)
    fractions = [row.fraction for row in rows]
    figure = figures.new_figure(7.5, 4.2, title)
    axes = figure.subplots()
    accuracies = [row.accuracy for row in rows]
    axes.plot(fractions, accuracies, color=figures.BLUE, marker="o", markersize=5, linewidth=1.8)
    axes.set_xlim(-0.02, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("blending weights set to 0")
    axes.set_ylabel("accuracy")
    figures.frame(axes)
    for axis in (axes.xaxis, axes.yaxis):
        figures.percent(axis)
    if all(row.compression is not None for row in rows):
        top = axes.secondary_xaxis("top")
        top.set_xticks(fractions, [f"{row.compression:.2f}" for row in rows], fontsize=8)
        top.set_xlabel("compression: parameters of the baseline per remaining parameter", fontsize=9)
        top.spines["top"].set_color(figures.GRID)
        top.tick_params(color=figures.GRID)
    return figures.png(figure)


def draw_blending_patterns(patterns: Sequence[Pattern], title: str) -> bytes:
    """Plots the inputs that blending layers use least and most (ShardNet, figures 4, 7 and 8), one panel per layer.

    Rows are output channels, columns input channels. Blue marks the smallest weights of a row, red the largest. A
    channel that is hardly used is a vertical blue line. The lower plot shows the share of rows in which each column is
    blue.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Cells are square within limits: a layer with four times as many outputs as inputs would be a narrow strip.
    shapes = [pattern.matrix.shape for pattern in patterns]
    widths = [min(max(inputs / outputs, 0.5), 2) for outputs, inputs in shapes]
    height = min(max(max(outputs for outputs, _ in shapes) / figures.DPI, 3.6), 8)
    across = 1 + sum(height * width + 0.4 for width in widths)
    figure = figures.new_figure(max(across, 5), height + 2.2, title)
    grid = figure.subplots(2, len(patterns), squeeze=False, width_ratios=widths, height_ratios=(height, 0.8))
    for matrix_axes, share_axes, pattern in zip(*grid, patterns, strict=True):
        _draw_matrix(matrix_axes, pattern, height * figures.DPI)
        _draw_blue_share(share_axes, pattern)
    grid[0][0].set_ylabel("output channel")
    grid[1][0].set_ylabel("blue rows")
    keys = [
        Patch(facecolor=figures.BLUE, label="smallest weights of the row"),
        Patch(facecolor=figures.RED, label="largest"),
        Line2D([], [], color=figures.DARK, linestyle="--", linewidth=1, label="by chance"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figures.png(figure)


def _draw_matrix(axes, pattern: Pattern, pixels: float) -> None:
    """Plots the pattern with a height of about `pixels` pixels."""
    from matplotlib.colors import to_rgb

    outputs, inputs = pattern.matrix.shape
    # Colors rather than numbers: with more cells than pixels, colors are averaged, and no line disappears.
    colors = np.array([to_rgb(color) for color in (figures.BLUE, "white", figures.RED)])[pattern.matrix + 1]
    if max(outputs, inputs) > pixels / 2:
        # Repeats cells to the pixel resolution, so that averaging does not blur the borders of large cells.
        for axis, cells in enumerate((outputs, inputs)):
            colors = colors.repeat(math.ceil(pixels / cells), axis)
        extent = (-0.5, inputs - 0.5, outputs - 0.5, -0.5)
        axes.imshow(colors, aspect="auto", interpolation="antialiased", extent=extent)
    else:
        axes.imshow(colors, aspect="auto", interpolation="nearest")
    axes.set_title(f"{pattern.name}\n{inputs} to {outputs}, {pattern.each} of each", loc="left", fontsize=9)
    axes.tick_params(labelbottom=False)


def _draw_blue_share(axes, pattern: Pattern) -> None:
    from matplotlib.ticker import MaxNLocator

    inputs, shares = pattern.matrix.shape[1], [*pattern.blue_share, 0]
    axes.fill_between(np.arange(inputs + 1) - 0.5, shares, step="post", color=figures.BLUE, linewidth=0)
    axes.axhline(pattern.chance, color=figures.DARK, linestyle="--", linewidth=1)
    axes.set_xlim(-0.5, inputs - 0.5)
    axes.set_ylim(0, max(1.05 * pattern.blue_share.max(), 2 * pattern.chance))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    figures.percent(axes.yaxis)
    axes.set_xlabel("input channel")
    axes.spines[["top", "right"]].set_visible(False)
