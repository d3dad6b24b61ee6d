"""Compare the implementations of every kernel-shared layer with each other, dense convolutions, and references.

python -m benchmarks layers --rows interleaved "G=16 R=8" --output runs/layers
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

import keras_sharenets as ksn
from benchmarks import layer_shapes, timing, workloads
from benchmarks.arguments import add_run_arguments, progress, run_options
from benchmarks.table import Claim, Row, Table, write
from keras_sharenets.cli.command import Answer
from keras_sharenets.ops import choices
from keras_sharenets.timing import take_turns

DIRECTIONS = {"training": True, "inference": False}
COMPILERS = {"tensorflow": {"tensorflow": False, "xla": True}, "jax": {"jax": True}}
# If a call with one image takes longer than this, in seconds, larger batches are not measured.
SLOW = 0.05
TOO_LONG = 10
COLUMNS = {
    "auto": "{auto}",
    "ms": "{milliseconds:.4g}",
    "fastest": "{fastest}",
    "to the fastest": "{to_fastest:.3f}",
    "to dense": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} - {ratio_high:.3f}",
    "to the reference": "{to_reference:.4g}",
    "10^9 multiply-adds/s": "{speed:.4g}",
    "share of peak": "{share_of_peak:.1%}",
    "all, ms": "{all_text}",
}
TO_FASTEST = 1.1
TO_DENSE = 1.3
# To the reference in a training step, by kind, without XLA and with it.
TO_REFERENCE = {
    "interleaved": {"tensorflow": 1 / 3, "xla": 1 / 100, "jax": 1 / 100},
    "hierarchical": dict.fromkeys(("tensorflow", "xla", "jax"), 1 / 1.25),
    "repeated": dict.fromkeys(("tensorflow", "xla", "jax"), 1),
    "dense pointwise": dict.fromkeys(("tensorflow", "xla", "jax"), 1),
}
TO_TILED = 1 / 100
# Minimum time saved, as a fraction, for a threshold between two implementations.
WORTH = 0.015


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="TEXT", help="only layers whose name contains one of these")
    add_run_arguments(parser, repetitions=(15, 2), batch_size=(16, 2), quick="few layers, runs, and images")


def run(arguments: argparse.Namespace) -> Answer:
    """Writes the table and `layer_choices.txt`, the rule derived from these times."""
    options = run_options(arguments)
    shapes = layer_shapes.collect(layer_shapes.QUICK if options.quick else layer_shapes.NETWORKS)
    shapes += layer_shapes.unshared()[-1 if options.quick else 0 :]
    wanted = [shape for shape in shapes if not arguments.rows or any(text in shape.name for text in arguments.rows)]
    if not wanted:
        raise ValueError(f"`rows` (={arguments.rows}) must be part of the name of a layer, such as '{shapes[0].name}'.")
    peak, rows = timing.measure_peak(options.quick), []
    for number, shape in enumerate(wanted, start=1):
        progress(f"{number} of {len(wanted)}: {shape.name}")
        rows += measure(shape, batch_size=options.batch_size, repetitions=options.repetitions, peak=peak)
    rows.sort(key=lambda row: (row["runtime"], row["direction"]))
    note = (
        f"Each layer alone, on {options.batch_size} random images; training: forward pass and gradients with respect "
        f"to inputs and weights. {options.repetitions} interleaved rounds, ratios taken round by round; times are per "
        "batch. xla: compiled with XLA. dense: `keras.layers.Conv2D` with the same input, output, and kernel size. "
        "reference: splits, grouped `keras.layers.Conv2D`, gathers, and concatenations; omitted (-) if a call would "
        f"take more than {TOO_LONG} s. ~: one run of one image, times {options.batch_size}. multiply-adds: of the "
        f"reference, three times as many in training. share of peak: relative to {peak / 1e9:.4g} * 10^9 multiply-adds "
        "per second of a large `keras.ops.matmul`."
    )
    table = Table(
        name="layers",
        title="Implementations of kernel-shared layers",
        note=note,
        ratio="Time of `auto` relative to a dense convolution",
        panel="{runtime}, {direction}",
        label="{layer}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows),
    )
    return write(table, options, {"layer_choices.txt": to_text(fit_choices(rows))})


def measure(shape: layer_shapes.Shape, *, batch_size: int, repetitions: int, peak: float) -> list[Row]:
    """Rows for one shape, one per compiler and direction.

    They have the columns of `timing.columns` for `"auto"` relative to the dense convolution, and the values that
    `COLUMNS` and [`fit_choices`] need. `all` has the milliseconds of everything by name, `None` if omitted.
    """
    models = {name: shape.build(name) for name in shape.implementations}
    models |= {"dense": shape.build_dense(), "reference": shape.build_reference()}
    products = batch_size * ksn.profile(models[shape.implementations[0]]).multiply_adds
    sides, channels = shape.sides, shape.input_shape[-1]
    rows = []
    for runtime, compiled in COMPILERS[keras.backend.backend()].items():
        for direction, training in DIRECTIONS.items():
            seconds, slow = measure_models(
                models, batch_size=batch_size, training=training, compiled=compiled, repetitions=repetitions
            )
            auto = choices.choose(shape.kind, channels, sides, training, runtime)
            implementations = {name: seconds[name] for name in shape.implementations if name in seconds}
            fastest = min(implementations, key=lambda name: timing.spread(implementations[name]).median)
            everything = {name: 1000 * timing.spread(times).median for name, times in seconds.items()} | slow
            row = {"layer": shape.name, "network": shape.network, "kind": shape.kind, "peer": False}
            row |= {"runtime": runtime, "direction": direction, "depth": choices.depth(channels, sides)}
            row |= {"implementations": shape.implementations, "auto": auto, "fastest": fastest, "all": everything}
            row |= timing.columns(seconds, "dense")[auto]
            row["to_fastest"] = timing.ratio(seconds[auto], seconds[fastest]).median
            row["to_reference"] = everything["reference"] and row["milliseconds"] / everything["reference"]
            row["all_text"] = ", ".join(
                f"{name} " + ("-" if value is None else f"{'~' * (name in slow)}{value:.4g}")
                for name, value in everything.items()
            )
            per_second = (3 if training else 1) * products / row["milliseconds"] * 1000
            row |= {"speed": per_second / 1e9, "share_of_peak": per_second / peak}
            rows.append(row)
    return rows


def measure_models(
    models: Mapping[str, keras.Model], *, batch_size: int, training: bool, compiled: bool, repetitions: int
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Times of models that run interleaved.

    Returns:
        `(seconds, slow)`: the result of `take_turns` without the models that XLA makes very slow; and their
        milliseconds, estimated from one image, `None` above `TOO_LONG`.
    """
    calls, slow = {}, {}
    for name, model in models.items():
        # One image is enough to detect slow groups under XLA; Keras always runs those of the reference through XLA.
        if name == "reference" or (name == "grouped" and compiled):
            alone = {name: workloads.model_pass(model, 1, training=training, compiled=compiled)}
            one = min(take_turns(alone, 2, warmup=1)[name])
            if one > SLOW:
                slow[name] = 1000 * one * batch_size if one * batch_size < TOO_LONG else None
                continue
        calls[name] = workloads.model_pass(model, batch_size, training=training, compiled=compiled)
    return take_turns(calls, repetitions), slow


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """The library's claims about the speed of its layers, checked against rows of [`measure`].

    `"auto"` is near the fastest implementation. In training, it is not much slower than a dense convolution; it is
    faster than the reference for interleaved layers in the first stage of wide networks and for hierarchical layers
    with four groups; and, under XLA, faster than a grouped convolution of repeated filters.
    """
    made = []
    for row in rows:
        kind, runtime = row["kind"], row["runtime"]
        where = f"{row['layer']}; {runtime}, {row['direction']}"
        made.append(Claim("time: auto / fastest implementation", where, row["to_fastest"], TO_FASTEST))
        if row["direction"] != "training":
            continue
        made.append(Claim("time: auto / dense convolution", where, row["ratio"], TO_DENSE))
        if row["to_reference"] is not None and _is_claimed(row):
            made.append(Claim("time: auto / reference", where, row["to_reference"], TO_REFERENCE[kind][runtime]))
        tiled = row["all"].get("grouped")
        if tiled and runtime != "tensorflow" and kind == "repeated" and "G=16 R=8" in row["layer"]:
            made.append(Claim("time: auto / grouped convolution", where, row["milliseconds"] / tiled, TO_TILED))
    return tuple(made)


def _is_claimed(row: Row) -> bool:
    """Whether there is a claim about a layer and its reference."""
    if row["kind"] == "interleaved":
        return "32x32x" in row["layer"] and "K=8,8,8" in row["layer"]
    return row["kind"] in ("repeated", "dense pointwise") or (row["kind"] == "hierarchical" and "G=4" in row["layer"])


def fit_choices(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], Any]]:
    """The rule of `keras_sharenets.ops.choices` from measured times, a dict like its `MEASURED`.

    For every runtime, kind, and direction, it has the one or two implementations with the smallest loss to the fastest.

    Args:
        rows: have `runtime`, `kind`, `direction`, `depth`, `implementations`, and `all`, milliseconds by name.
    """
    table = {}
    for row in rows:
        table.setdefault(row["runtime"], {}).setdefault((row["kind"], row["direction"]), []).append(row)
    return {runtime: {case: best(table[runtime][case]) for case in sorted(table[runtime])} for runtime in sorted(table)}


def best(rows: Sequence[Row]) -> str | tuple[str, float, str]:
    """An entry of the table for rows of one kind.

    >>> row = {"implementations": ("a", "b")}
    >>> best([row | {"depth": 1, "all": {"a": 1, "b": 2}}, row | {"depth": 4, "all": {"a": 3, "b": 1}}])
    ('a', 2.0, 'b')
    """
    names = [name for name in rows[0]["implementations"] if all(row["all"].get(name) for row in rows)]
    if rows[0].get("runtime") != "tensorflow" and len(names) > 1:
        # XLA's gradient of native groups is far too slow, and gradients may be taken without `training=True`.
        names = [name for name in names if name != "grouped"]
    chosen = min(names, key=lambda name: loss(rows, name))
    depths = sorted({row["depth"] for row in rows})
    stumps = [
        (shallow, float(f"{math.sqrt(low * high):.2g}"), deep)
        for low, high in itertools.pairwise(depths)
        for shallow, deep in itertools.permutations(names, 2)
    ]
    stump = min(stumps, key=lambda stump: loss(rows, *stump), default=None)
    return stump if stump and loss(rows, *stump) < loss(rows, chosen) - WORTH else chosen


def loss(rows: Sequence[Row], shallow: str, limit: float = math.inf, deep: str | None = None) -> float:
    """The mean logarithm of the time of a choice relative to the fastest."""
    total = 0
    for row in rows:
        times = [row["all"][name] for name in row["implementations"] if row["all"].get(name)]
        chosen = deep if row["depth"] > limit else shallow
        total += math.log(row["all"][chosen] / min(times))
    return total / len(rows)


def to_text(table: Mapping[str, Mapping[tuple[str, str], Any]]) -> str:
    """The table as the source of `choices.MEASURED`."""
    lines = ["MEASURED = {"]
    for runtime, cases in table.items():
        lines += [f'    "{runtime}": {{', *(f"        {case!r}: {cases[case]!r}," for case in cases), "    },"]
    return "\n".join([*lines, "}"]).replace("'", '"') + "\n"
