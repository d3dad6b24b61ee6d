"""Fits how the time and the memory of a step of training grow with G, R, T, depth, width and batch.

python -m benchmarks scaling --rows "hscnet, G" "depth" --output runs/scaling
"""

import dataclasses
import pathlib

import keras_sharenets as ksn
from benchmarks import power_law, results, scaling_picture, timing, training_step
from benchmarks.arguments import add_run_arguments, chosen, progress
from benchmarks.memory import peak_memory
from benchmarks.scaling_axes import AXES, QUICK
from keras_sharenets import files
from keras_sharenets.machine import describe_machine

NAME, TITLE = "scaling", "How a step of training grows"
# Columns of a point to each of which a power law is fitted.
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


def add_arguments(parser):
    parser.add_argument("--rows", nargs="+", metavar="TEXT", help="only growths with one of these in their name")
    add_run_arguments(parser, repetitions=(7, 2), batch_size=(16, 2), quick=f"few steps of {QUICK[0].name}")
    memory_help = "also measure the memory, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(args):
    """Writes and prints the table."""
    repetitions, batch_size = chosen(args, "repetitions"), chosen(args, "batch_size")
    axes = QUICK if args.quick else AXES
    axes = [axis for axis in axes if not args.rows or any(text in axis.name for text in args.rows)]
    if not axes:
        raise ValueError(f"`rows` (={args.rows}) must be part of a name such as '{AXES[0].name}'.")
    folder = pathlib.Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    peak, measured = timing.measure_peak(args.quick), []
    for number, axis in enumerate(axes, start=1):
        progress(f"{number} of {len(axes)}: {axis.name} = {', '.join(map(str, axis.values))}")
        measured.append(measure(axis, batch_size, repetitions, args.memory))
    peak = max(peak, timing.measure_peak(args.quick))
    rows = [make_row(axis, points, peak) for axis, points in zip(axes, measured, strict=True)]
    written = write(make_table(rows, peak, batch_size, repetitions), folder, args.command_line)
    return results.answer(written)


def measure(axis, batch_size, repetitions, memory=False):
    """Trains the networks of one axis in turns.

    Args:
        axis: `Axis`.
        batch_size: int, pictures a step, unless that is what grows.
        repetitions: int.
        memory: bool, whether to measure the memory of each too, in a fresh process.

    Returns:
        A list of dicts, one for each value: `value`, the columns of `timing.figures` for a step, its ratios to the
        first value's, and `LAWS`: the multiply-adds of the whole step, the bytes of weights and optimizer, of
        activations, and of peak memory or `None`.
    """
    calls, points = {}, []
    for value in axis.values:
        model, size = axis.build(value), axis.batch_size(value, batch_size)
        calls[value] = training_step.make(model, size, jit_compile=False)
        point = {"value": value, "kept_bytes": sum(training_step.stored_bytes(model))}
        point["activation_bytes"] = training_step.activation_bytes(model, size)
        point["multiply_adds"] = 3 * size * ksn.profile(model).multiply_adds
        point["peak_memory_bytes"] = (
            peak_memory(training_step.train_new, axis.build, value, size, False) if memory else None
        )
        points.append(point)
    figures = timing.figures(timing.take_turns(calls, repetitions, warmup=1), axis.values[0])
    return [point | figures[point["value"]] for point in points]


def make_row(axis, points, peak):
    """The row of one axis from its points; `peak` in multiply-adds a second.

    Returns:
        A dict: the points, the last one's columns of `timing.figures`, a `PowerLaw` as a dict for each of `LAWS`, or
        `None`, and what `COLUMNS` need.
    """
    speeds = [point["multiply_adds"] / point["milliseconds"] * 1000 for point in points]
    row = {"family": axis.family, "letter": axis.letter, "argument": axis.argument, "points": points, "peer": False}
    row |= {name: value for name, value in points[-1].items() if name.startswith(("milliseconds", "ratio"))}
    row["values_text"] = _listed(point["value"] for point in points)
    row["milliseconds_text"] = _listed(f"{point['milliseconds']:.3g}" for point in points)
    row["speed_text"] = _listed(f"{speed / 1e9:.3g}" for speed in speeds)
    row["share_text"] = _listed(f"{speed / peak:.0%}" for speed in speeds)
    row["laws"] = {}
    for name in LAWS:
        known = points[0][name] is not None
        law = power_law.fit(*([point[key] for point in points] for key in ("value", name))) if known else None
        row["laws"][name] = law and dataclasses.asdict(law)
        row[f"{name}_law"] = law and f"{law} (+-{law.deviation:.0%})"
    return row


def _listed(values):
    return ", ".join(map(str, values))


def make_table(rows, peak, batch_size, repetitions):
    """The `Table` of rows from `make_row`; `peak` in multiply-adds a second."""
    note = (
        f"A step of training with {batch_size} random pictures of 32x32, float32, without XLA where there is a choice; "
        f"{repetitions} rounds in which the networks of a row take turns. The last columns are exponents: the power of "
        "what grows by which it grows, fitted to the logarithms, and in brackets by how much a point is off the law at "
        "most. A law says nothing beyond its points. multiply-adds: of the whole step, three times those of the "
        f"forward pass. share of peak: of the {peak / 1e9:.4g} * 10^9 multiply-adds a second of a large "
        "`keras.ops.matmul`. weights and momenta: bytes of all variables of network and optimizer. activations: of "
        "the outputs of all layers, what a step keeps at most. peak memory: growth of a fresh process, building and "
        "compiling included."
    )
    return results.Table(
        name=NAME,
        title=TITLE,
        note=note,
        ratio="To the first point",
        panel="{family}",
        label="{letter}",
        columns=COLUMNS,
        rows=tuple(rows),
    )


def write(table, folder, command):
    """Writes the table into a folder as `scaling.md`, `scaling.json` and `scaling.png`; returns the three paths."""
    context = {"command": command, **describe_machine()}
    paths = [folder / f"{table.name}.{ending}" for ending in ("md", "json", "png")]
    files.write_text(paths[0], results.to_markdown(table, context))
    files.write_json(paths[1], {"title": table.title, "note": table.note, **context, "rows": table.rows})
    machine = f"{context['processor']}, {context['cores']} cores"
    files.write_bytes(paths[2], scaling_picture.draw(table.rows, table.title, machine))
    return paths
