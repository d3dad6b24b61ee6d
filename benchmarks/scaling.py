"""Fit how the time and the memory of a training step scale with G, R, T, depth, width, and batch size.

python -m benchmarks scaling --rows "hscnet, G" "depth" --output runs/scaling
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

import keras_sharenets as ksn
from benchmarks import timing, workloads
from benchmarks.arguments import add_run_arguments, progress, run_options
from benchmarks.table import Row, Table, joined, write
from keras_sharenets.cli.command import Answer
from keras_sharenets.models import HGCNet, HSCNet, IGCNet
from keras_sharenets.rendering import figures
from keras_sharenets.timing import take_turns

# Columns of a point; a power law is fitted to each.
LAWS = ("milliseconds", "multiply_adds", "kept_bytes", "activation_bytes", "peak_memory_bytes")
COLUMNS = {
    "at": "{values_text}",
    "ms": "{milliseconds_text}",
    "last to first": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} - {ratio_high:.3f}",
    "10^9 multiply-adds/s": "{speed_text}",
    "share of peak": "{share_text}",
    "time": "{milliseconds_law}",
    "multiply-adds": "{multiply_adds_law}",
    "weights and momenta": "{kept_bytes_law}",
    "activations": "{activation_bytes_law}",
    "peak memory": "{peak_memory_bytes_law}",
}
# Plotted columns: name, color, and marker.
LINES = {
    "milliseconds": ("time", figures.BLUE, "o"),
    "multiply_adds": ("multiply-adds", figures.GRAY, "s"),
    "activation_bytes": ("activations", figures.GREEN, "^"),
    "kept_bytes": ("weights and momenta", figures.ORANGE, "D"),
}
ACROSS = 4


@dataclasses.dataclass(frozen=True)
class Axis:
    """Networks of one family that differ in one argument of their factory, or in `"batch_size"`.

    The letter is the argument in the notation of the papers, or a word; values increase; the other arguments are fixed.
    """

    family: str
    letter: str
    argument: str
    values: tuple[int, ...]
    factory: Callable[..., keras.Model]
    fixed: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.family}, {self.letter}"

    def build(self, value: int) -> keras.Model:
        """The network for one value."""
        given = {} if self.argument == "batch_size" else {self.argument: value}
        return self.factory(**self.fixed, **given, include_preprocessing=False)

    def batch_size(self, value: int, default: int) -> int:
        """Images per step for one value."""
        return value if self.argument == "batch_size" else default


# The network of each family; an axis omits one argument and changes the ones that conflict with its values.
_HSC = {"width": 32, "groups": 4, "channel_repeats": 2, "arrangements": 2, "blocks_per_stage": 1}
_IGC = {"width": 64, "blocks_per_stage": 2}
_HGC = {"growth": 8, "groups": 4, "blocks_per_stage": 2}
_NETWORKS = {"hscnet": (HSCNet, _HSC), "igcv2": (IGCNet, _IGC), "hgcnet": (HGCNet, _HGC)}
_BATCHES = (4, 8, 16, 32, 64)


def _axis(family: str, letter: str, argument: str, values: tuple[int, ...], **changed: Any) -> Axis:
    factory, network = _NETWORKS[family]
    fixed = {name: value for name, value in {**network, **changed}.items() if name != argument}
    return Axis(family, letter, argument, values, factory, fixed)


AXES = (
    _axis("hscnet", "G", "groups", (1, 2, 4, 8, 16), width=64, channel_repeats=1, arrangements=1),
    _axis("hscnet", "R", "channel_repeats", (1, 2, 4, 8), width=64, groups=8, arrangements=1),
    # A shuffle in two rows has four orders for the 16 channels of a group, so that all arrangements are distinct.
    _axis("hscnet", "T", "arrangements", (1, 2, 4), width=64, groups=2),
    _axis("hscnet", "width", "width", (16, 32, 64, 128), groups=2),
    _axis("hscnet", "depth", "blocks_per_stage", (1, 2, 4, 8)),
    _axis("hscnet", "batch", "batch_size", _BATCHES),
    _axis("igcv2", "width", "width", (32, 64, 128)),
    _axis("igcv2", "depth", "blocks_per_stage", (2, 4, 8)),
    _axis("igcv2", "batch", "batch_size", _BATCHES),
    _axis("hgcnet", "G", "groups", (1, 2, 4, 8)),
    _axis("hgcnet", "width", "growth", (4, 8, 16)),
    _axis("hgcnet", "depth", "blocks_per_stage", (1, 2, 4, 8)),
    _axis("hgcnet", "batch", "batch_size", _BATCHES),
)
# The axis with the fewest networks among those that share.
QUICK = tuple(axis for axis in AXES if axis.name == "hscnet, T")


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`factor * x ** exponent`; points deviate by at most `deviation`, 0.1 for a tenth above or below."""

    exponent: float
    factor: float
    deviation: float

    def __call__(self, x):
        return self.factor * x**self.exponent

    def __str__(self):
        # Adding 0 avoids an exponent of -0.00 for a constant.
        return f"{round(self.exponent, 2) + 0:.2f}"


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw:
    """The power law that fits the logarithms of points above 0 best, by least squares.

    >>> law = fit_power_law([1, 2, 4], [3, 12, 48])
    >>> round(law.exponent, 6), round(law.factor, 6), round(law.deviation, 6)
    (2.0, 3.0, 0.0)
    """
    xs, ys = np.log(xs), np.log(ys)
    exponent, constant = np.polyfit(xs, ys, 1)
    farthest = np.abs(ys - exponent * xs - constant).max()
    return PowerLaw(float(exponent), math.exp(constant), math.expm1(farthest))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="TEXT", help="only rows whose name contains one of these")
    add_run_arguments(parser, repetitions=(7, 2), batch_size=(16, 2), quick=f"few steps of {QUICK[0].name}")
    memory_help = "also measure the memory, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(arguments: argparse.Namespace) -> Answer:
    options = run_options(arguments)
    axes = QUICK if options.quick else AXES
    axes = [axis for axis in axes if not arguments.rows or any(text in axis.name for text in arguments.rows)]
    if not axes:
        raise ValueError(f"`rows` (={arguments.rows}) must be part of a name such as '{AXES[0].name}'.")
    peak, measured = timing.measure_peak(options.quick), []
    for number, axis in enumerate(axes, start=1):
        progress(f"{number} of {len(axes)}: {axis.name} = {joined(axis.values)}")
        sizes = {"batch_size": options.batch_size, "repetitions": options.repetitions}
        measured.append(measure(axis, **sizes, memory=arguments.memory))
    peak = max(peak, timing.measure_peak(options.quick))
    note = (
        f"A training step with {options.batch_size} random images of 32x32, float32, without XLA where this is "
        f"optional; {options.repetitions} rounds in which the networks of a row run interleaved. The last columns are "
        "the exponents of power laws, fitted to the logarithms, with the largest deviation of a point in parentheses. "
        "A law holds only within the range of its points. multiply-adds: of the full step, three times those of the "
        f"forward pass. share of peak: relative to {peak / 1e9:.4g} * 10^9 multiply-adds per second of a large "
        "`keras.ops.matmul`. weights and momenta: bytes of all variables of network and optimizer. activations: bytes "
        "of the outputs of all layers, the most that a step keeps. peak memory: growth of a fresh process, including "
        "building and compiling."
    )
    table = Table(
        name="scaling",
        title="Scaling of a training step",
        note=note,
        ratio="Relative to the first point",
        panel="{family}",
        label="{letter}",
        columns=COLUMNS,
        rows=tuple(make_row(axis, points, peak) for axis, points in zip(axes, measured, strict=True)),
        draw=draw_growth,
    )
    return write(table, options)


def measure(axis: Axis, *, batch_size: int, repetitions: int, memory: bool = False) -> list[Row]:
    """Trains the networks of one axis, interleaved.

    Returns:
        One dict per value: `value`, the columns of `timing.columns` for a step with ratios to the first value, and
        `LAWS`: the multiply-adds of the full step, the bytes of weights and optimizer, of activations, and, with
        `memory`, the peak memory of a fresh process, otherwise `None`.
    """
    calls, points = {}, []
    for value in axis.values:
        model, size = axis.build(value), axis.batch_size(value, batch_size)
        calls[value] = workloads.training_step(model, size, jit_compile=False)
        point = {"value": value, "kept_bytes": sum(workloads.stored_bytes(model))}
        point["activation_bytes"] = workloads.activation_bytes(model, size)
        point["multiply_adds"] = 3 * size * ksn.profile(model).multiply_adds
        point["peak_memory_bytes"] = (
            timing.peak_memory(workloads.train_new, axis.build, value, size, False) if memory else None
        )
        points.append(point)
    columns = timing.columns(take_turns(calls, repetitions, warmup=1), axis.values[0])
    return [point | columns[point["value"]] for point in points]


def make_row(axis: Axis, points: Sequence[Row], peak: float) -> Row:
    """The row of one axis from its points; `peak` in multiply-adds per second.

    It has the points, the columns of `timing.columns` for the last one, a `PowerLaw` as a dict (or `None`) for each of
    `LAWS`, and the values that `COLUMNS` need.
    """
    speeds = [point["multiply_adds"] / point["milliseconds"] * 1000 for point in points]
    row = {"family": axis.family, "letter": axis.letter, "argument": axis.argument, "points": points, "peer": False}
    row |= {name: value for name, value in points[-1].items() if name.startswith(("milliseconds", "ratio"))}
    row["values_text"] = joined(point["value"] for point in points)
    row["milliseconds_text"] = joined(f"{point['milliseconds']:.3g}" for point in points)
    row["speed_text"] = joined(f"{speed / 1e9:.3g}" for speed in speeds)
    row["share_text"] = joined(f"{speed / peak:.0%}" for speed in speeds)
    row["laws"] = {}
    for name in LAWS:
        known = points[0][name] is not None
        law = fit_power_law(*([point[key] for point in points] for key in ("value", name))) if known else None
        row["laws"][name] = law and dataclasses.asdict(law)
        row[f"{name}_law"] = law and f"{law} (+-{law.deviation:.0%})"
    return row


def draw_growth(table: Table, machine: str) -> bytes:
    """One plot per row of a table, with logarithmic scales, as a PNG file.

    Values are relative to the power law at the first point, so that all lines start together and differ only in their
    exponents. Lines are the laws, markers the points.
    """
    down, across = math.ceil(len(table.rows) / ACROSS), min(ACROSS, len(table.rows))
    figure = figures.new_figure(max(3.3 * across, 6.6), 2.9 * down + 1.3, table.title)
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04, rect=(0, 0.03, 0.985, 0.97))
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(table.rows) :]:
        axes.axis("off")
    for axes, row in zip(grid, table.rows, strict=False):
        _draw_axis(axes, row)
    figures.caption(figure, f"Relative to the first point of the law; numbers: exponents\n{machine}")
    return figures.png(figure)


def _draw_axis(axes, row: Row) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = np.array([point["value"] for point in row["points"]])
    for name, (text, color, marker) in LINES.items():
        law = PowerLaw(**row["laws"][name])
        start = law(values[0])
        measured = [point[name] / start for point in row["points"]]
        style = {"color": color, "zorder": 3 if name == "milliseconds" else 2}
        axes.plot(values, law(values.astype(float)) / start, linewidth=1.4, **style)
        axes.plot(values, measured, marker, markersize=4, label=f"{text} {law}", **style)
    low, high = axes.get_ylim()
    # If nothing grows, a few percent should look small.
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.set_title(f"{row['family']}, {row['letter']}", loc="left", fontsize=9.5, color=figures.DARK)
    figures.ticks_at(axes.xaxis, values)
    figures.ticks_at(axes.yaxis, [2.0**power for power in range(-8, 13)])
    axes.tick_params(length=0, labelsize=8, labelcolor=figures.DARK)
    figures.frame(axes)
    axes.legend(fontsize=7, frameon=False, labelcolor=figures.QUIET, handletextpad=0.2)
