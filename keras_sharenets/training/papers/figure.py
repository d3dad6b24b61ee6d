"""Plots a table or figure of a paper: published points together with those of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator

from keras_sharenets.models.variant import printed_count
from keras_sharenets.rendering.figures import (
    BLUE,
    DARK,
    GRAY,
    GREEN,
    ORANGE,
    QUIET,
    RED,
    caption,
    frame,
    log_ticks,
    name_points,
    new_figure,
    percent,
    png,
    ticks_at,
)
from keras_sharenets.training.papers.entries import DATA, Entry, Paper, Row, counts_of
from keras_sharenets.training.papers.runs import Group, groups_of, mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (BLUE, ORANGE, GREEN, RED, DARK, GRAY)
_LOGARITHMIC = {"parameters": "parameters, counted as in the paper", "compression": "parameter reduction factor"}


def draw(
    paper: Paper,
    entries: Sequence[Entry],
    chosen: Mapping[str, Sequence[Row]],
    groups: Sequence[Group],
    data: str | None,
) -> bytes:
    """A PNG file with a column of panels for each entry and data set: accuracies, and further panels of the entry.

    Args:
        paper: the paper.
        entries: entries to plot.
        chosen: maps the key of each entry to the rows to plot.
        groups: available runs.
        data: name of the data set of the runs; `None` for the data set of each row.

    Raises:
        ValueError: there is nothing to plot: no published numbers, no further panels, and no runs.
    """
    columns = []
    for entry in entries:
        for name in dict.fromkeys(row.data for row in chosen[entry.key]):
            rows = [row for row in chosen[entry.key] if row.data == name]
            found = {index: groups_of(groups, row, data or name) for index, row in enumerate(rows)}
            is_drawn = any(found.values()) or (entry.across != "epochs" and any(row.printed for row in rows))
            panels = (*(("",) if is_drawn else ()), *entry.also)
            columns += [(entry, name, rows, found, panels)] if panels else []
    if not columns:
        keys = ", ".join(entry.key for entry in entries)
        raise ValueError(f"There is nothing to plot for {keys}: no numbers in the paper's text, and no runs (`--run`).")
    most = max(len(panels) for *_, panels in columns)
    figure = new_figure(7.5 * len(columns), 6 if most == 1 else 4 * most, paper.name)
    places = figure.subplots(most, len(columns), squeeze=False).T
    named = []
    for column, (entry, name, rows, found, panels) in zip(places, columns, strict=True):
        shown = f"{DATA[name].name}" if data is None else f"runs on {data}, paper on {DATA[name].name}"
        column[0].set_title(f"{entry.name}: {shown}", loc="left", fontsize=11)
        epochs = sorted({group.run.recipe.epochs for groups_here in found.values() for group in groups_here})
        if epochs:
            text = " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
            column[0].set_title(f"our runs: {text} epochs", loc="right", fontsize=9, color=QUIET)
        for axes in column[len(panels) :]:
            axes.remove()
        for axes, size in zip(column, panels, strict=False):
            if axes is not column[0]:
                axes.sharex(column[0])
            if size:
                _draw_sizes(axes, paper, entry, rows, size)
                if axes is column[0] and rows[0].series:
                    axes.legend(frameon=False, fontsize=9)
            elif entry.across == "epochs":
                _draw_curves(axes, rows, found)
            else:
                named.append((axes, *_draw_points(axes, paper, entry, rows, found)))
            if not size:
                percent(axes.yaxis)
            frame(axes)
    drawn = {bool(size) for *_, panels in columns for size in panels}
    points = "Filled points and bands: our runs, mean and standard deviation over seeds. Open points: paper."
    squares = "Squares: computed from the architecture, without training."
    caption(figure, "\n".join(text for text, of_sizes in ((points, False), (squares, True)) if of_sizes in drawn))
    for axes, across, up, names in named:
        if names:
            name_points(figure, axes, across, up, names)
    return png(figure)


def _draw_sizes(axes: Axes, paper: Paper, entry: Entry, rows: Sequence[Row], size: str) -> None:
    """Plots one of the rows' `sizes`, or the parameters of their networks, over the axis of the accuracies."""
    series = list(dict.fromkeys(row.series for row in rows))
    for name in series:
        own = [row for row in rows if row.series == name]
        heights = [counts_of(paper, row).counted_parameters if size == "parameters" else row.sizes[size] for row in own]
        color = COLORS[series.index(name) % len(COLORS)]
        across = [row.at for row in own if row.at is not None]
        axes.plot(across, heights, marker="s", markersize=5, color=color, label=name or None)
    ticks_at(axes.xaxis, sorted({row.at for row in rows if row.at is not None}))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(entry.across)
    axes.set_ylabel(size)


def _draw_curves(axes: Axes, rows: Sequence[Row], found: Mapping[int, Sequence[Group]]) -> None:
    """Plots test accuracy by epoch: the mean over the seeds, and the standard deviation as a band."""
    labeled = [(rows[index], group) for index, groups in found.items() for group in groups]
    for number, (row, group) in enumerate(labeled):
        color = COLORS[number % len(COLORS)]
        length = min(len(run.epochs) for run in group.runs)
        # `None`, for an epoch without a test, becomes NaN.
        values = np.array([[epoch.test_accuracy for epoch in run.epochs[:length]] for run in group.runs], float)
        epochs, mean = np.arange(1, length + 1), values.mean(axis=0)
        label = f"{row.label} ({len(group.runs)} seed{'' if len(group.runs) == 1 else 's'})"
        axes.plot(
            epochs, mean, color=color, label=label, linewidth=1.8, marker="o" if length <= 20 else "", markersize=4
        )
        if len(group.runs) > 1:
            spread = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy")
    axes.legend(frameon=False, fontsize=9)


Names = tuple[list[float], list[float], list[str]]


def _draw_points(
    axes: Axes, paper: Paper, entry: Entry, rows: Sequence[Row], found: Mapping[int, Sequence[Group]]
) -> Names:
    """Plots the published points and those of runs; returns positions and names of points outside lines."""
    is_error = rows[0].is_error
    # If some rows belong to no line, all points are labeled instead.
    lined = all(row.series for row in rows)
    series = list(dict.fromkeys(row.series for row in rows)) if lined else []
    names: Names = [], [], []
    lines: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    for index, row in enumerate(rows):
        across = _across(paper, entry, row)
        if across is None:
            continue
        points = []
        if row.accuracy is not None:
            points.append((float(row.accuracy) / 100, float(row.deviation or "nan") / 100, False))
        finished = [group for group in found[index] if group.accuracies]
        if finished:
            # Of several groups, the one with the most epochs is the closest to the paper.
            longest = max(finished, key=lambda group: group.run.recipe.epochs)
            mean, deviation = mean_and_deviation(longest.accuracies.values())
            points.append((mean, np.nan if deviation is None else deviation, True))
        for value, deviation, is_ours in points:
            height = 1 - value if is_error else value
            lines.setdefault((row.series if lined else "", is_ours), []).append((across, height, deviation))
            if not lined:
                names[0].append(across)
                names[1].append(height)
                names[2].append(row.label)
    for (name, is_ours), points in lines.items():
        points.sort()
        color = COLORS[series.index(name) % len(COLORS)] if name else BLUE
        style = {
            "color": color,
            "marker": "o",
            "markersize": 6,
            "capsize": 3,
            "markerfacecolor": color if is_ours else "none",
        }
        line = "none" if not name else "-" if is_ours else "--"
        label = f"{name}, {'ours' if is_ours else 'paper'}" if name else None
        places, heights, deviations = zip(*points, strict=True)
        axes.errorbar(places, heights, deviations, linestyle=line, label=label, **style)
    if entry.across in _LOGARITHMIC:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, EngFormatter() if entry.across == "parameters" else "{x:,.0f}")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.2, high * 1.5)
    axes.set_xlabel(_LOGARITHMIC.get(entry.across, entry.across))
    axes.set_ylabel("test error" if is_error else "test accuracy")
    if series:
        axes.legend(frameon=False, fontsize=9)
    return names


def _across(paper: Paper, entry: Entry, row: Row) -> float | None:
    """The horizontal position of a row; `None` if unknown."""
    if entry.across not in _LOGARITHMIC:
        return row.at
    if row.network is None:
        return None if row.parameters is None else printed_count(row.parameters)
    counted = counts_of(paper, row).counted_parameters
    if entry.across == "parameters":
        return counted
    baseline = next(each for each in entry.rows if each.network == entry.baseline and each.data == row.data)
    return counts_of(paper, baseline).counted_parameters / counted
