"""One style for all figures, drawn with matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_sharenets.rendering.tables import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

# What a figure is about, what it is compared with, and what is wrong; others where there are more.
BLUE, GRAY, RED = "#1f5fbf", "#9aa5b1", "#c62828"
ORANGE, GREEN = "#d9822b", "#2a9d6f"
# Text, text beside it, lines of a grid.
DARK, QUIET, GRID = "#1f2933", "#52606d", "#e4e7eb"
DPI = 120
NARROW_DPI = 180  # Of figures up to 6 inches wide, which fill a phone, whose pixels are small.
# Fonts with characters that the font of matplotlib lacks, such as those of Chinese, Japanese, and Korean.
FALLBACKS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei")
FALLBACKS += ("WenQuanYi Micro Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Arial Unicode MS")
FALLBACKS += ("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Noto Sans Devanagari", "Noto Sans Thai")
# Where a name may stand beside its point, in points of print. A line joins what is far away.
_PLACES = tuple((x, y * sign) for y in range(6, 100, 14) for sign in (1, -1) for x in (6, -6))
_LONGEST = 34  # Characters of a line of a name.


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure.

    Args:
        width, height: in inches.
        title: on the left above everything, in as many lines as it needs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title is not None:
        figure.suptitle(textwrap.fill(title, int(10 * width)), x=0.01, ha="left", fontsize=12, color=DARK)
    return figure


def caption(figure: Figure, text: str) -> None:
    """Lines below everything, on the left."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=QUIET)


def frame(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """A grid behind the data, along `"x"`, `"y"` or `"both"`, and no lines on the right and at the top."""
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_ticks(axis: Axis, label: str | Formatter = "{x:,g}") -> None:
    """Ticks at 1, 2 and 5 times the powers of 10, for an axis with a logarithmic scale."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    only_major(axis, label)


def ticks_at(axis: Axis, places: Sequence[float], label: str = "{x:g}") -> None:
    """Ticks at these places and no others."""
    from matplotlib.ticker import FixedLocator

    axis.set_major_locator(FixedLocator(places))
    only_major(axis, label)


def only_major(axis: Axis, label: str | Formatter) -> None:
    """Labels of the major ticks, and no minor ones."""
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(label)


def percent(axis: Axis) -> None:
    """Shares of 1 as percentages."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=None))


def name_points(
    figure: Figure,
    axes: Axes,
    across: Sequence[float],
    up: Sequence[float],
    names: Sequence[str],
    *,
    nameless: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes each name beside its point, where it covers no other name and no point, or else as little as possible.

    The figure is finished but for these names: its layout is kept from here on. `nameless` are points without a name.
    """
    show_as_written(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    points = axes.transData.transform(np.reshape([*zip(across, up, strict=True), *nameless], (-1, 2)))
    style: dict[str, Any] = {"fontsize": 9, "color": DARK, "parse_math": False}
    texts = [_in_lines(name) for name in names]
    sizes = []
    for text in texts:
        label = figure.text(0, 0, text, **style)
        sizes.append(label.get_window_extent().size)
        label.remove()
    within = np.array([*axes.bbox.min, figure.bbox.x1 - 5, axes.bbox.y1])
    chosen = _free_places(points, np.reshape(sizes, (-1, 2)), within, figure.dpi / 72)
    for x, y, text, (right, high) in zip(across, up, texts, (_PLACES[each] for each in chosen), strict=True):
        side, edge = "left" if right > 0 else "right", "bottom" if high > 0 else "top"
        axes.annotate(text, (x, y), (right, high), textcoords="offset points", ha=side, va=edge, **style)
        if abs(high) > 6:
            line = {"arrowstyle": "-", "color": GRAY, "linewidth": 0.8}
            axes.annotate("", (x, y), (right, high), textcoords="offset points", arrowprops=line)


def _in_lines(name):
    """A name in lines of up to `_LONGEST` characters, without breaks after commas."""
    return textwrap.fill(name.replace(", ", ",\0"), _LONGEST, break_long_words=False).replace("\0", " ")


def _free_places(points, sizes, within, scale):
    """The number of a place for each size, so that boxes cover little of each other and of the points.

    One box after another moves to its best place, until all stand still. All numbers are in pixels; `scale` is the size
    of a point of print.
    """
    offsets = scale * np.array(_PLACES)
    corners = points[: len(sizes), None] + offsets - np.where(offsets < 0, sizes[:, None], 0)
    boxes = np.concatenate([corners, corners + sizes[:, None]], axis=-1)
    dots = np.concatenate([points - 5, points + 5], axis=-1)
    area = sizes.prod(1)[:, None]
    costs = (
        9 * (area - _covered(boxes, within)) + 9 * _covered(boxes[:, :, None], dots).sum(-1) + np.arange(len(_PLACES))
    )
    chosen = np.full(len(sizes), -1)
    for _ in range(20):
        before = chosen.copy()
        for number in range(len(sizes)):
            others = [boxes[other, place] for other, place in enumerate(chosen) if place >= 0 and other != number]
            covered = sum(_covered(boxes[number], other) for other in others)
            chosen[number] = np.argmin(costs[number] + covered)
        if np.array_equal(chosen, before):
            break
    return chosen


def _covered(boxes, others):
    """The areas of the parts of boxes that others cover; all are left, bottom, right, top."""
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    return sides.clip(0).prod(-1)


def name_lines(figure: Figure, axes: Axes) -> None:
    """Writes the label of each line behind its last point, in its color, one below the other where they are close.

    It takes the place of a legend; it comes last, when the lines and the limits of the axes are settled.
    """
    ends = []
    for line in axes.get_lines():
        points = [(x, y) for x, y in np.asarray(line.get_xydata(), float) if np.isfinite(y)]
        if points:
            ends.append((*points[-1], str(line.get_label()), line.get_color()))
    show_as_written(figure)
    figure.draw_without_rendering()
    heights = axes.transData.transform([(x, y) for x, y, _, _ in ends])[:, 1] if ends else []
    point, lowest = figure.dpi / 72, float("-inf")
    for (x, y, name, color), height in sorted(zip(ends, heights, strict=True), key=lambda end: end[1]):
        lowest = max(height, lowest + 11 * point)
        place = (7, (lowest - height) / point)
        text = {"va": "center", "fontsize": 9, "color": color, "parse_math": False}
        axes.annotate(name, (x, y), place, textcoords="offset points", **text)


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value that are no outliers: within three interquartile ranges of the quartiles.

    >>> usual_range([0.70, 0.71, 0.72, 0.73, 0.10])
    (0.7, 0.73)
    >>> usual_range([1.0, 9.0])
    (1.0, 9.0)
    """
    from statistics import quantiles

    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    usual = [value for value in values if low - 3 * (high - low) <= value <= high + 3 * (high - low)]
    return min(usual), max(usual)


def show_as_written(figure: Figure) -> None:
    """Shows names of classes and runs as they are: with `$`, not as formulas, and in a font with their characters.

    A character that no installed font has becomes a question mark.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if not text.get_text().isascii():
            text.set_text(_drawable(text.get_text()))
            text.set_fontfamily(_families())


def name_classes(class_names: Sequence[str], longest: int) -> list[str]:
    """The names of classes for a figure: as they are, or after the number of each class if they do not all fit.

    Names of more than `longest` characters are cut. Names with characters that no font has are left out.

    >>> name_classes(["ant", "bee"], 6)
    ['ant', 'bee']
    >>> name_classes(["ant", "bumblebee"], 6)
    ['0 ant', '1 bumbl…']
    """
    shown = [_drawable(name) == name for name in class_names]
    if all(shown) and all(len(name) <= longest for name in class_names):
        return list(class_names)
    named = enumerate(zip(class_names, shown, strict=True))
    return [f"{number} {shorten(name, longest)}" if known else str(number) for number, (name, known) in named]


def _families() -> list[str]:
    """The families of fonts for text: that of matplotlib, and those of `FALLBACKS` that are installed."""
    from matplotlib import font_manager, rcParams

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [*rcParams["font.family"], *(name for name in FALLBACKS if name in installed)]


def _drawable(text: str) -> str:
    """A text with question marks in place of the characters that no installed font has."""
    from matplotlib import font_manager

    if text.isascii():
        return text
    paths = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in _families()]
    fonts = [font_manager.get_font(path) for path in paths]

    def is_known(letter: str) -> bool:
        return letter.isascii() or any(font.get_char_index(ord(letter)) for font in fonts)

    return "".join(letter if is_known(letter) else "?" for letter in text)


def png(figure: Figure, *, dpi: float = DPI) -> bytes:
    """A figure as a PNG file, with so many pixels an inch."""
    show_as_written(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()
