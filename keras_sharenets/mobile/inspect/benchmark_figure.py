"""Figure of accuracy against file size."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_sharenets.rendering import figures


def draw_accuracy_against_size(reports: Sequence[Any], accuracies: Mapping[str, float], title: str) -> bytes:
    """Plots size against accuracy, one point per file.

    Args:
        reports: `BenchmarkReport`s, or other objects with `path` and `file_bytes`.
        accuracies: accuracy from 0 to 1 for each path.
        title: title of the figure, one line.

    Returns:
        The bytes of a PNG file.
    """
    sizes = [report.file_bytes / 1000 for report in reports]
    shares = [accuracies[report.path] for report in reports]
    figure = figures.new_figure(7.5, 4.2, title)
    axes = figure.subplots()
    axes.scatter(sizes, shares, color=figures.BLUE, s=36, zorder=3)
    if max(sizes) > 8 * min(sizes):
        axes.set_xscale("log")
        figures.log_ticks(axes.xaxis)
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    else:
        axes.set_xlim(0, 1.15 * max(sizes))
        axes.xaxis.set_major_formatter("{x:,g}")
    middle, half = (max(shares) + min(shares)) / 2, max(0.75 * (max(shares) - min(shares)), 0.01)
    axes.set_ylim(middle - half, middle + half)
    figures.percent(axes.yaxis)
    axes.set_xlabel("size of the file in kB (1000 bytes)")
    axes.set_ylabel("accuracy")
    figures.frame(axes)
    figures.name_points(figure, axes, sizes, shares, _short_names([report.path for report in reports]))
    return figures.png(figure)


def _short_names(paths: Sequence[str]) -> list[str]:
    """The paths without their common folder and without the extension."""
    full = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in full])
    return [pathlib.Path(path).relative_to(folder).with_suffix("").as_posix() for path in full]
