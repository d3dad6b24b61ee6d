"""Plots of the papers' figures on filters, activations, and blending layers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_sharenets.rendering import figures

if TYPE_CHECKING:
    from keras_sharenets.analysis.activations import Maps
    from keras_sharenets.analysis.blending import Pattern
    from keras_sharenets.analysis.blending_pruning import CurveRow
    from keras_sharenets.analysis.filters import Filters

COLORS = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.RED, figures.DARK, figures.GRAY)
BINS, SHOWN = 101, 99.5  # Number of histogram bins; percentile of the magnitudes that sets the axis limit.
MOST_FILTERS, MOST_PLANES = 16, 48  # Maximum numbers shown per kernel.
HIGH = (0.9, 0.8)  # Shares of images, as in figure 7 of HSC-Net.


def draw_distributions(values: Mapping[str, np.ndarray], across: str, title: str) -> bytes:
    """Plots overlaid distributions of several networks (HSC-Net, figures 2 and 6), as a PNG file.

    Args:
        values: dict from names of networks to their numbers, which may be non-negative or of both signs.
        across: label of the horizontal axis.
        title: title of the figure.
    """
    figure = figures.new_figure(5.6, 4, title)
    axes = figure.subplots()
    end = max(float(np.percentile(np.abs(numbers), SHOWN)) for numbers in values.values()) or 1.0
    start = 0 if all(numbers.min() >= 0 for numbers in values.values()) else -end
    for number, (name, numbers) in enumerate(values.items()):
        # Values outside the axis still count in the total, so the areas of two networks are comparable.
        heights, edges = np.histogram(numbers, BINS, (start, end))
        color, label = COLORS[number % len(COLORS)], f"{name}: {numbers.size:,}"
        axes.stairs(heights / numbers.size, edges, color=color, linewidth=1.6, label=label)
        axes.stairs(heights / numbers.size, edges, color=color, alpha=0.12, fill=True)
    axes.set_xlim(start, end)
    axes.set_ylim(0, axes.get_ylim()[1] * (1 + 0.09 * len(values)))  # Room for the legend.
    axes.set_xlabel(across)
    axes.set_ylabel("fraction per bin")
    figures.percent(axes.yaxis)
    figures.frame(axes)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figures.png(figure, dpi=figures.NARROW_DPI)


def draw_strongest(places: Sequence[Maps], class_names: Sequence[str], title: str) -> bytes:
    """Plots how often a map is among the strongest for each class (HSC-Net, figures 3 and 8), one panel per place.

    Orange ticks below mark maps of arranged filters. Only the first twenty classes are shown.
    """
    rows = min(len(class_names), 20)
    tall = 0.22 * rows + 1.1
    figure = figures.new_figure(5.6, tall * len(places) + 0.9, title)
    panels = figure.subplots(len(places), squeeze=False)[:, 0]
    for axes, maps in zip(panels, places, strict=True):
        shares = maps.strongest[:rows] / np.maximum(maps.images[:rows, None], 1)
        shown = axes.imshow(shares, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
        axes.set_yticks(range(len(shares)), figures.name_classes(class_names[:rows], 24), fontsize=8)
        axes.set_title(textwrap.fill(_title(maps), 60), loc="left", fontsize=9)
        for index in np.flatnonzero(maps.arrangement):
            axes.axvspan(index - 0.5, index + 0.5, -0.05, -0.01, color=figures.ORANGE, clip_on=False, linewidth=0)
        axes.tick_params(axis="x", pad=6, labelsize=8)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("map" + (" (orange: arranged filters)" if any(m.arrangement.any() for m in places) else ""))
    bar = figure.colorbar(shown, ax=list(panels), aspect=30, pad=0.01)
    bar.set_label("images of the class", fontsize=9)
    bar.outline.set_visible(False)
    figures.percent(bar.ax.yaxis)
    return figures.png(figure, dpi=figures.NARROW_DPI)


def _title(maps: Maps) -> str:
    height, width = maps.size
    source = "" if maps.filters in (None, maps.name) else f", filters of {maps.filters}"
    return f"{maps.name}{source}: {maps.arrangement.size} maps of {height}x{width}, strongest {maps.each} of an image"


def draw_high(places: Mapping[str, Sequence[Maps]], title: str) -> bytes:
    """Plots the number of maps that are among the strongest for nearly all images (HSC-Net, figure 7), by network.

    Args:
        places: dict from names of networks to their `Maps`; the n-th `Maps` of all networks are plotted together.
        title: title of the figure.
    """
    figure = figures.new_figure(5.6, 2.8 * len(HIGH), title)
    panels = figure.subplots(len(HIGH), sharex=True, sharey=True)
    count = max(map(len, places.values()))
    width = 0.8 / len(places)
    for axes, share in zip(panels, HIGH, strict=True):
        for number, (name, found) in enumerate(places.items()):
            heights = [maps.high(share) for maps in found]
            across = np.arange(len(found)) + (number - (len(places) - 1) / 2) * width
            bars = axes.bar(across, heights, width * 0.92, color=COLORS[number % len(COLORS)], label=name)
            axes.bar_label(bars, fontsize=8, color=figures.DARK)
        axes.set_title(f"for more than {share:.0%} of the images", loc="left", fontsize=10)
        axes.set_xticks(range(count), [f"stage {index + 1}" for index in range(count)])
        axes.yaxis.get_major_locator().set_params(integer=True)
        figures.frame(axes, "y")
        axes.set_ylabel("maps among the strongest")
    panels[0].set_ylim(0, 1.1 * max(1, *(maps.high(min(HIGH)) for found in places.values() for maps in found)))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figures.png(figure, dpi=figures.NARROW_DPI)


def draw_kernels(filters: Sequence[Filters], title: str) -> bytes:
    """Plots the effective kernels of some convolutions, with one row or column per filter and one square per plane.

    Red is positive, blue negative; each filter is scaled by its largest weight. An arranged copy follows its original
    filter, with the same planes in a different order (HSC-Net, figure 4).
    """
    panels = [_mosaic(each) for each in filters]
    # Cells are square: a panel is as wide as the page, and at most half as tall.
    heights = [min(max(4.6 * image.shape[0] / image.shape[1], 0.7), 5) for image, _, _ in panels]
    figure = figures.new_figure(5.6, sum(heights) + 0.9 * len(panels) + 0.4, title)
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, each, (image, names, step) in zip(grid, filters, panels, strict=True):
        axes.imshow(image, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        middles = [step * number + (each.kernel.shape[0] - 1) / 2 for number in range(len(names))]
        if each.kernel.shape[2] < len(names):
            axes.set_xticks(middles, names, fontsize=7, rotation=90)
            axes.set_yticks([])
        else:
            axes.set_yticks(middles, names, fontsize=7)
            axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        height, width, planes, count = each.kernel.shape
        notes = [f"{len(names)} filters"] if count > len(names) else []
        notes += [f"{MOST_PLANES} planes"] if planes > MOST_PLANES else []
        about = f"{each.name}: {count} filters of {height}x{width}x{planes}"
        about += f"; shown: {', '.join(notes)}" if notes else ""
        axes.set_title(textwrap.fill(about, 66), loc="left", fontsize=9)
    return figures.png(figure, dpi=figures.NARROW_DPI)


def _mosaic(filters: Filters) -> tuple[np.ndarray, list[str], int]:
    """The planes of a kernel as a mosaic, the names of the filters, and the distance between two filters.

    Filters are rows, or columns if there are more filters than planes.
    """
    height, width, planes, count = filters.kernel.shape
    planes, gap = min(planes, MOST_PLANES), int(height > 1)
    chosen = _with_copies(filters.arrangement, count // filters.groups)[:MOST_FILTERS]
    turned = planes < len(chosen)
    step = (width if turned else height) + gap
    down, across = (planes, len(chosen)) if turned else (len(chosen), planes)
    image = np.full((down * (height + gap) - gap, across * (width + gap) - gap), np.nan)
    for place, index in enumerate(chosen):
        weights = filters.kernel[..., index]
        weights = weights / (np.abs(weights).max() or 1)
        for plane in range(planes):
            row, column = (plane, place) if turned else (place, plane)
            top, left = row * (height + gap), column * (width + gap)
            image[top : top + height, left : left + width] = weights[..., plane]
    names = [f"{index}{' arranged' if filters.arrangement[index] else ''}" for index in chosen]
    return image, names, step


def _with_copies(arrangement: np.ndarray, per_group: int) -> list[int]:
    """The indices of the filters of a layer, with each original filter followed by its arranged copies.

    >>> _with_copies(np.array([0, 0, 1, 1, 0, 0, 1, 1]), 4)
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    originals = per_group // (int(arrangement.max()) + 1)
    return sorted(
        range(len(arrangement)),
        key=lambda index: (index // per_group, index % per_group % originals, arrangement[index]),
    )


def draw_exciting(rows: Mapping[str, tuple[Sequence[int], np.ndarray]], title: str) -> bytes:
    """Plots images that maximize single maps (HSC-Net, figure 9); each row has a name, maps and their images."""
    across = max(len(channels) for channels, _ in rows.values())
    figure = figures.new_figure(5.6, 5.6 / max(across, 3) * len(rows) + 0.7, title)
    grid = figure.subplots(len(rows), across, squeeze=False)
    for places, (name, (channels, images)) in zip(grid, rows.items(), strict=True):
        for axes in places:
            axes.axis("off")
        for axes, channel, image in zip(places, channels, images, strict=False):
            gray = image.shape[-1] == 1
            pixels = image[..., 0] if gray else image
            axes.imshow(pixels.round().astype("uint8"), cmap="gray" if gray else None, vmin=0, vmax=255)
            axes.set_title(f"map {channel}\n{name}", fontsize=8, loc="left")
    return figures.png(figure, dpi=figures.NARROW_DPI)


def draw_pruning_curve(rows: Sequence[CurveRow], title: str) -> bytes:
    """Plots accuracy against the fraction of pruned blending weights (ShardNet, figure 5), as a PNG file.

    Compression ratios, if available, are shown along the top.
    """
    rows = sorted(rows, key=lambda row: row.fraction)
    fractions = [row.fraction for row in rows]
    figure = figures.new_figure(5.6, 4, title)
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
        named = [row for row, before in zip(rows, [-1.0, *fractions], strict=False) if row.fraction - before > 0.08]
        top.set_xticks([row.fraction for row in named], [f"{row.compression:.2f}" for row in named], fontsize=8)
        top.set_xlabel("compression: parameters of the baseline per remaining parameter", fontsize=9)
        top.spines["top"].set_color(figures.GRID)
        top.tick_params(color=figures.GRID)
    return figures.png(figure, dpi=figures.NARROW_DPI)


def draw_blending_patterns(patterns: Sequence[Pattern], title: str) -> bytes:
    """Plots the inputs that blending layers use least and most (ShardNet, figures 4, 7 and 8), one below the other.

    Rows are output channels, columns input channels. Blue marks the smallest weights of a row, red the largest. A
    channel that is hardly used is a vertical blue line. The plot below shows the share of rows in which each column is
    blue.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # Cells are square within limits: a layer with four times as many outputs as inputs would be a long strip.
    shapes = [pattern.matrix.shape for pattern in patterns]
    heights = [4.4 * min(max(outputs / inputs, 0.5), 1.5) for outputs, inputs in shapes]
    figure = figures.new_figure(5.6, sum(heights) + 1.7 * len(patterns) + 0.8, title)
    ratios = [part for height in heights for part in (height, 0.8)]
    panels = figure.subplots(2 * len(patterns), squeeze=False, height_ratios=ratios)[:, 0]
    for matrix_axes, share_axes, pattern, height in zip(panels[::2], panels[1::2], patterns, heights, strict=True):
        _draw_matrix(matrix_axes, pattern, min(4.4, height) * figures.NARROW_DPI)
        _draw_blue_share(share_axes, pattern)
        matrix_axes.set_ylabel("output channel")
        share_axes.set_ylabel("blue rows")
    keys = [
        Patch(facecolor=figures.BLUE, label="smallest weights of the row"),
        Patch(facecolor=figures.RED, label="largest"),
        Line2D([], [], color=figures.DARK, linestyle="--", linewidth=1, label="by chance"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figures.png(figure, dpi=figures.NARROW_DPI)


def _draw_matrix(axes, pattern: Pattern, pixels: float) -> None:
    """Plots the pattern with a shorter side of about `pixels` pixels."""
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
