"""Compares the implementations of every kernel-shared layer with each other, dense convolutions and the drawings.

python -m benchmarks layers --rows interleaved "G=16 R=8" --output runs/layers
"""

import pathlib

import keras

import keras_sharenets as ksn
from benchmarks import layer_choices, layer_shapes, results, steps, timing
from benchmarks.arguments import add_run_arguments, chosen, progress
from benchmarks.layer_claims import claims
from keras_sharenets import files
from keras_sharenets.ops import choices

DIRECTIONS = {"training": True, "inference": False}
COMPILERS = {"tensorflow": {"tensorflow": False, "xla": True}, "jax": {"jax": True}}
# A call with one picture that takes longer is not measured with more.
SLOW = 0.05
TOO_LONG = 10
COLUMNS = {
    "auto": "{auto}",
    "ms": "{milliseconds:.4g}",
    "fastest": "{fastest}",
    "to the fastest": "{to_fastest:.3f}",
    "to dense": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} - {ratio_high:.3f}",
    "to the drawing": "{to_literal:.4g}",
    "10^9 multiply-adds/s": "{speed:.4g}",
    "share of peak": "{share_of_peak:.1%}",
    "all, ms": "{all_text}",
}


def add_arguments(parser):
    parser.add_argument("--rows", nargs="+", metavar="TEXT", help="only layers with one of these in their name")
    add_run_arguments(parser, repetitions=(15, 2), batch_size=(16, 2), quick="few layers, runs and pictures")


def run(args):
    """Writes and prints the table, and beside it `layer_choices.txt`, the rule that these times give."""
    repetitions, batch_size = chosen(args, "repetitions"), chosen(args, "batch_size")
    shapes = layer_shapes.collect(layer_shapes.QUICK if args.quick else layer_shapes.NETWORKS)
    shapes += layer_shapes.unshared()[-1 if args.quick else 0 :]
    wanted = [shape for shape in shapes if not args.rows or any(text in shape.name for text in args.rows)]
    if not wanted:
        raise ValueError(f"`rows` (={args.rows}) must be part of the name of a layer, such as '{shapes[0].name}'.")
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    peak = timing.measure_peak(args.quick)
    rows = []
    for number, shape in enumerate(wanted, start=1):
        progress(f"{number} of {len(wanted)}: {shape.name}")
        rows += measure(shape, batch_size, repetitions, peak)
    rows.sort(key=lambda row: (row["runtime"], row["direction"]))
    written = results.write(make_table(rows, peak, batch_size, repetitions), args.output, args.command_line)
    rule = pathlib.Path(args.output) / "layer_choices.txt"
    files.write_text(rule, layer_choices.to_text(layer_choices.fit(rows)))
    return results.answer([*written, rule])


def make_table(rows, peak, batch_size, repetitions):
    """The `Table` of rows from `measure`; `peak` in multiply-adds a second."""
    note = (
        f"Each layer alone, on {batch_size} random pictures; training: forward and gradients by inputs and weights. "
        f"{repetitions} rounds in which all take turns, ratios round by round; times are for a whole batch. xla: what "
        "is compiled by it. dense: `keras.layers.Conv2D` of the same input, output and kernel size. drawing: splits, "
        "grouped `keras.layers.Conv2D`, gathers and concatenations; left out (-) where a call would take more "
        f"than {TOO_LONG} s. ~: one run of one picture, times {batch_size}. multiply-adds: of the drawing, three times "
        f"as many in training. share of peak: of the {peak / 1e9:.4g} * 10^9 multiply-adds a second of a large "
        "`keras.ops.matmul`."
    )
    return results.Table(
        name="layers",
        title="Implementations of kernel-shared layers",
        note=note,
        ratio="Time of what `auto` runs, as a multiple of a dense convolution's",
        panel="{runtime}, {direction}",
        label="{layer}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows),
    )


def measure(shape, batch_size, repetitions, peak):
    """Rows for one `Shape`, one for each compiler and direction.

    Returns:
        A list of dicts: the columns of `timing.figures` for what `"auto"` runs, to the dense convolution, and what
        `COLUMNS` and `layer_choices.fit` need. `all` has the milliseconds of everything by name, `None` if left out.
    """
    models = {name: shape.build(name) for name in shape.implementations}
    models |= {"dense": shape.build_dense(), "drawing": shape.build_literal()}
    products = batch_size * ksn.profile(models[shape.implementations[0]]).multiply_adds
    sides, channels = shape.sides, shape.input_shape[-1]
    rows = []
    for runtime, compiled in COMPILERS[keras.backend.backend()].items():
        for direction, training in DIRECTIONS.items():
            seconds, slow = measure_models(models, batch_size, training, compiled, repetitions)
            auto = choices.choose(shape.kind, channels, sides, training, runtime)
            implementations = {name: seconds[name] for name in shape.implementations if name in seconds}
            fastest = min(implementations, key=lambda name: timing.spread(implementations[name]).median)
            everything = {name: 1000 * timing.spread(times).median for name, times in seconds.items()} | slow
            row = {"layer": shape.name, "network": shape.network, "kind": shape.kind, "peer": False}
            row |= {"runtime": runtime, "direction": direction, "depth": choices.depth(channels, sides)}
            row |= {"implementations": shape.implementations, "auto": auto, "fastest": fastest, "all": everything}
            row |= timing.figures(seconds, "dense")[auto]
            row["to_fastest"] = timing.ratio(seconds[auto], seconds[fastest]).median
            row["to_literal"] = everything["drawing"] and row["milliseconds"] / everything["drawing"]
            row["all_text"] = ", ".join(_text(name, value, name in slow) for name, value in everything.items())
            per_second = (3 if training else 1) * products / row["milliseconds"] * 1000
            row |= {"speed": per_second / 1e9, "share_of_peak": per_second / peak}
            rows.append(row)
    return rows


def _text(name, milliseconds, guessed):
    return f"{name} " + ("-" if milliseconds is None else f"{'~' * guessed}{milliseconds:.4g}")


def measure_models(models, batch_size, training, compiled, repetitions):
    """Times of models that take turns.

    Returns:
        `(seconds, slow)`: what `timing.take_turns` gives, without those that XLA makes very slow; their milliseconds,
        guessed from one picture, `None` above `TOO_LONG`.
    """
    calls, slow = {}, {}
    for name, model in models.items():
        # What XLA does to groups shows in a single picture; Keras hands those of the drawing to it in any case.
        if name == "drawing" or (name == "grouped" and compiled):
            one = min(timing.take_turns({name: steps.make(model, 1, training, compiled)}, 2, warmup=1)[name])
            if one > SLOW:
                slow[name] = 1000 * one * batch_size if one * batch_size < TOO_LONG else None
                continue
        calls[name] = steps.make(model, batch_size, training, compiled)
    return timing.take_turns(calls, repetitions), slow
