"""Draws the five sharing schemes and an ordinary convolution as one figure: `docs/sharing.png`.

python -m tools.draw_sharing docs/sharing.png

Kernels and numbers come from small layers of the library. A square is a weight of a 1x1 kernel, a row is an input
channel, and a column is a filter; equal colors are equal weights.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import keras
import numpy as np

import keras_sharenets as ksn
from keras_sharenets import files
from keras_sharenets.ops import kernels
from keras_sharenets.rendering.figures import BLUE, DARK, DPI, GRAY, GRID, ORANGE, QUIET, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANNELS, GROUPS = 16, 4
LIGHT_BLUE, LIGHT_ORANGE = "#9dbfec", "#f3cd9f"
TEXTS = {
    "Ordinary convolution": "{stored} stored weights,\neach used once in the kernel.",
    "HSC-Net: repeat and rearrange": "{stored} stored weights, {used} in the kernel: filters are\n"
    "repeated along channels and with reordered inputs.",
    "HGCNet: chain the groups": "{stored} stored weights, {used} in the kernel: each group\n"
    "also reads the output of the previous group (orange).",
    "IGC-V2: multiply sparse kernels": "{stored} stored weights, {used} in the kernel: group\n"
    "convolutions with a shuffle form one dense kernel.",
    "ShaResNet: one 3x3 kernel per stage": "The blocks of a stage share their 3x3 convolution\n"
    "(blue); 1x1 convolutions (gray) are not shared.",
    "ShardNet: one kernel for all": "All 3x3 convolutions are the same layer (blue) at every\n"
    "resolution; 1x1 layers (orange) blend its channels.",
}


def _built(layer: keras.Layer) -> keras.Layer:
    """The layer, with its stored weights numbered from 1."""
    layer.build((None, 1, 1, CHANNELS))
    weights = [np.asarray(weight) for weight in layer.get_weights()]
    starts = np.cumsum([1, *(weight.size for weight in weights)])
    layer.set_weights(
        [start + np.arange(each.size).reshape(each.shape) for start, each in zip(starts, weights, strict=False)]
    )
    return layer


def kernel_of(layer: keras.Layer, *, groups: int = 1) -> np.ndarray:
    """The effective dense 1x1 kernel `(inputs, filters)` of a layer, with its stored weights numbered from 1."""
    effective = _built(layer).effective_kernel()
    return np.asarray(kernels.block_diagonal(effective, groups))[0, 0]


def example_layers() -> dict[str, keras.Layer]:
    """The layers in the figure, by name."""
    return {
        "ordinary": ksn.layers.HighlySharedConv2D(CHANNELS, 1),
        "hscnet": ksn.layers.HighlySharedConv2D(CHANNELS, 1, groups=GROUPS, channel_repeats=2, arrangements=2),
        "hgcnet": ksn.layers.HierarchicalGroupConv2D(CHANNELS, groups=GROUPS),
        "igcv2": ksn.layers.InterleavedGroupConv2D(CHANNELS, branch_channels=(4, 4)),
    }


def _panel(axes: Axes, title: str, stored: int = 0, used: int = 0) -> None:
    axes.set(xlim=(0, 32), ylim=(-4.2, 14), aspect="equal")
    axes.axis("off")
    text = TEXTS[title].format(stored=stored, used=used)
    axes.text(0, 13.2, title, fontsize=11, weight="bold", color=DARK, va="center")
    axes.text(0, -1.1, text, fontsize=9, color=QUIET, va="top", linespacing=1.35)


def _box(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor="white", linewidth=0.8))


def _shade(name: str, share: float) -> str:
    """A color of a matplotlib color map, without its lightest and darkest colors."""
    import matplotlib

    return matplotlib.colors.to_hex(matplotlib.colormaps[name](0.25 + 0.65 * share))


def _matrix(axes: Axes, colors: list[list[str]], x: float, size: float) -> None:
    """A square matrix of cells with its left edge at `x`."""
    cell = size / len(colors)
    for row, column in np.ndindex(len(colors), len(colors[0])):
        _box(axes, x + column * cell, 11 - (row + 1) * cell - (11 - size) / 2, cell, cell, colors[row][column])


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], color: str, style: str = "-|>") -> None:
    line = {"arrowstyle": style, "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, begin, arrowprops=line)


def _ordinary(axes: Axes, layer: keras.Layer) -> None:
    kernel = kernel_of(layer)
    _panel(axes, "Ordinary convolution", layer.count_params())
    # Steps of the golden ratio give neighbors distinct shades.
    _matrix(axes, [[_shade("Grays", 0.618 * number % 1) for number in row] for row in kernel], 0, 11)
    axes.text(12.5, 5.5, "square: a weight\nrow: input channel\ncolumn: filter", fontsize=9, color=QUIET, va="center")


def _hscnet(axes: Axes, layer: keras.Layer) -> None:
    kernel = kernel_of(layer, groups=GROUPS)
    stored, used = layer.count_params(), np.count_nonzero(kernel)
    _panel(axes, "HSC-Net: repeat and rearrange", stored, used)
    # Half of the stored filters in blue, half in orange, each weight in a different shade.
    filters = layer.filters // (layer.channel_repeats * layer.arrangements)

    def color(number: float) -> str:
        row, column = divmod(int(number) - 1, filters)
        share = (row + CHANNELS // GROUPS * (column % (filters // 2))) / (stored // 2 - 1)
        return GRID if number == 0 else _shade("Oranges" if column >= filters // 2 else "Blues", share)

    _matrix(axes, [[color(number) for number in row] for row in kernel], 0, 11)
    axes.text(12.5, 5.5, "equal colors:\nthe same weight", fontsize=9, color=QUIET, va="center")


def _hgcnet(axes: Axes, layer: keras.Layer) -> None:
    kernel = kernel_of(layer)
    stored, used = layer.count_params(), np.count_nonzero(kernel)
    _panel(axes, "HGCNet: chain the groups", stored, used)
    blocks = np.kron(np.eye(GROUPS), np.ones((CHANNELS // GROUPS,) * 2))
    colors = np.where(blocks, BLUE, np.where(kernel, LIGHT_ORANGE, GRID))
    _matrix(axes, colors.tolist(), 0, 11)
    for group in range(GROUPS):
        x = 14 + 4.6 * group
        _box(axes, x, 9, 3, 2, GRAY)
        _box(axes, x, 0, 3, 2, GRAY)
        _arrow(axes, (x + 1.5, 9), (x + 1.5, 2.1), BLUE)
        if group:
            _arrow(axes, (x - 2.6, 2.1), (x + 0.6, 8.2), ORANGE, "-")
            _arrow(axes, (x + 0.6, 8.2), (x + 0.6, 2.1), ORANGE)


def _igcv2(axes: Axes, layer: keras.Layer) -> None:
    kernel = kernel_of(layer)
    stored, used = layer.count_params(), np.count_nonzero(kernel)
    _panel(axes, "IGC-V2: multiply sparse kernels", stored, used)
    first = np.kron(np.eye(4), np.ones((4, 4)))
    order = np.arange(CHANNELS).reshape(4, 4).T.ravel()
    second = first[order][:, order]
    for factor, color, x in ((first, BLUE, 0), (second, ORANGE, 11), (kernel, LIGHT_BLUE, 22)):
        _matrix(axes, np.where(factor, color, GRID).tolist(), x, 9)
    for x, sign in ((10, "·"), (21, "=")):
        axes.text(x, 5.5, sign, fontsize=13, color=DARK, ha="center", va="center")


def _shared_layer(axes: Axes, places: list[tuple[float, float]]) -> None:
    """The stored kernel at the top, with a line to every place `(x, top)` that uses it."""
    left, right = places[0][0], places[-1][0]
    _box(axes, (left + right) / 2 - 1.1, 9.2, 2.2, 2.2, BLUE)
    axes.text((left + right) / 2 + 1.8, 10.4, "stored once", fontsize=9, color=QUIET, va="center")
    axes.plot([left, right], [8.1, 8.1], color=BLUE, linewidth=1.2)
    axes.plot([(left + right) / 2] * 2, [8.1, 9.2], color=BLUE, linewidth=1.2)
    for x, top in places:
        _arrow(axes, (x, 8.1), (x, top), BLUE)


def _sharesnet(axes: Axes) -> None:
    _panel(axes, "ShaResNet: one 3x3 kernel per stage")
    places = []
    for block in range(4):
        x = 8.1 * block
        for offset, width, color in ((0, 1.4, GRAY), (1.7, 2.4, BLUE), (4.4, 1.4, GRAY)):
            _box(axes, x + offset, 1, width, 5, color)
        if block < 3:
            _arrow(axes, (x + 5.9, 3.5), (x + 8, 3.5), DARK)
        places.append((x + 2.9, 6.1))
    _shared_layer(axes, places)


def _shardnet(axes: Axes) -> None:
    _panel(axes, "ShardNet: one kernel for all")
    places, x = [], 0.0
    for stage, height in enumerate((6.0, 4.4, 2.8)):
        for _ in range(3):
            _box(axes, x, 3.5 - height / 2, 2.4, height, BLUE)
            places.append((x + 1.2, 3.6 + height / 2))
            x += 3.0
        if stage < 2:
            _box(axes, x, 3.5 - height / 2, 1.0, height, ORANGE)
            x += 1.8
    _shared_layer(axes, places)


def draw() -> bytes:
    """The figure as a PNG file."""
    figure = new_figure(7.2, 5.8)
    layers = example_layers()
    panels = figure.subplots(3, 2)
    _ordinary(panels[0, 0], layers["ordinary"])
    _hscnet(panels[0, 1], layers["hscnet"])
    _hgcnet(panels[1, 0], layers["hgcnet"])
    _igcv2(panels[1, 1], layers["igcv2"])
    _sharesnet(panels[2, 0])
    _shardnet(panels[2, 1])
    return png(figure, dpi=2 * DPI)


if __name__ == "__main__":
    files.write_bytes(pathlib.Path(sys.argv[1]), draw())
