"""Accuracy against cost as a picture. It needs matplotlib: `pip install 'keras_sharenets[plots]'`."""

import io

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from keras_sharenets.search import trials

FRONT, OTHER, PEER, DARK, GRID = "#1f5fbf", "#93a1b1", "#c2762b", "#1f2933", "#e4e7eb"


def draw_front(results, references, cost, label, unit=1):
    """The candidates of a search, those on the Pareto front joined; networks to compare with beside them.

    Trials that were trained for a part of the epochs are shown on the front alone, as circles. A network to compare
    with whose accuracy is not known is a vertical line at what it costs.

    Args:
        results: list of `Result`, at least one of them a candidate.
        references: list of `Reference`.
        cost: `"int8_bytes"` or `"latency_ms"`.
        label: str, of the axis.
        unit: number that costs are divided by.

    Returns:
        bytes: a PNG file.
    """
    figure = Figure(figsize=(7.5, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    front = trials.pareto_front(results, cost)
    full = trials.longest(results)
    shown = [result for result in trials.candidates(results) if result in full or result in front]
    for result in shown:
        colour = FRONT if result in front else OTHER
        look = {"edgecolors": colour, "facecolors": colour if result in full else "white", "s": 30, "zorder": 3}
        axes.scatter([getattr(result, cost) / unit], [result.accuracy], **look)
    across = [getattr(result, cost) / unit for result in front]
    axes.step(across, [result.accuracy for result in front], where="post", color=FRONT, linewidth=1.2, zorder=2)
    for result, place in zip(front, across, strict=True):
        # Above and to the left of the front there is no trial.
        text = {"textcoords": "offset points", "fontsize": 8, "color": DARK, "ha": "right"}
        axes.annotate(result.id, (place, result.accuracy), (-4, 4), **text)
    for height, reference in enumerate(references):
        _draw_reference(axes, reference, getattr(reference, cost) / unit, 0.04 + 0.07 * height)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy on the held-out part")
    if any(reference.accuracy is None for reference in references):
        # Room for their names below all trials.
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.35 * (high - low), high)
    left_out = len(trials.candidates(results)) - len(shown)
    entries = {"handles": _legend(front, full, shown), "title": f"{left_out} of fewer epochs left out" * bool(left_out)}
    axes.legend(**entries, fontsize=8, title_fontsize=8, loc="best", framealpha=1)
    axes.grid(color=GRID, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _legend(front, full, shown):
    """One entry for each kind of trial that is there."""
    kinds = dict.fromkeys((result in front, result in full) for result in shown)
    entries = []
    for on_front, in_full in sorted(kinds, reverse=True):
        colour = FRONT if on_front else OTHER
        text = ("on the front" if on_front else "other trials") + ("" if in_full else ", fewer epochs")
        look = {"linestyle": "none", "marker": "o", "markersize": 5, "markeredgecolor": colour}
        entries.append(Line2D([], [], markerfacecolor=colour if in_full else "white", label=text, **look))
    return entries


def _draw_reference(axes, reference, place, height):
    if reference.accuracy is None:
        axes.axvline(place, color=PEER, linewidth=1, linestyle=":", zorder=1)
        where = {"transform": axes.get_xaxis_transform(), "ha": "right", "fontsize": 8, "color": PEER, "zorder": 2}
        # The lines of others do not go through it.
        where["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(place, height, f"{reference.name}, accuracy unknown ", **where)
        return
    axes.scatter([place], [reference.accuracy], color=PEER, marker="s", s=32, zorder=3)
    where = {"textcoords": "offset points", "ha": "right", "fontsize": 8, "color": PEER}
    axes.annotate(f"{reference.name}, test split", (place, reference.accuracy), (-6, -3), **where)
