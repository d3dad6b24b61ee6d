"""Prune the blending layers of a trained ShardNet step by step, and draw which channels they use.

sharenets blending runs/sl3/last.keras --data digits --output runs/sl3/blending
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer, say

if TYPE_CHECKING:
    import pathlib

    from keras_sharenets.analysis.blending import Pattern
    from keras_sharenets.analysis.blending_pruning import CurveRow

HARDLY_USED = 2  # An input channel is worth a word if it is blue this many times as often as by chance.
RANKED = {"global": "of all blending layers together", "per_layer": "of each blending layer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.keras", help="trained network")
    add_data_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")
    parser.add_argument(
        "--layers", nargs="+", metavar="NAME", help="the blending layers (default: 1x1 convolutions called blend...)"
    )
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="F",
        help="parts of their weights to set to 0, each below 1 (default: 0 to 0.9 in steps of 0.1, and 0.95)",
    )
    parser.add_argument(
        "--ranking",
        choices=RANKED,
        default="global",
        help="find the smallest weights in all blending layers together or in each (default: global)",
    )
    parser.add_argument(
        "--baseline", type=int, metavar="N", help="parameters of the convolutions of a network to compare with"
    )
    parser.add_argument(
        "--strongest", type=int, default=32, metavar="N", help="weights of a row to mark on either end (default: 32)"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """A row is shown as soon as it is measured; the curve, two figures and a page about them are left."""
    from keras_sharenets import analysis, files
    from keras_sharenets.analysis.blending import blending_patterns
    from keras_sharenets.analysis.blending_pruning import FRACTIONS, pruning_curve
    from keras_sharenets.analysis.figures import draw_blending_patterns, draw_pruning_curve
    from keras_sharenets.rendering.page import COUNTS, page
    from keras_sharenets.training.data.batches import held_out_batches
    from keras_sharenets.training.reports.evaluate import BATCH_SIZE, evaluate
    from keras_sharenets.training.run.fit import check_output

    output = check_output(arguments.output)
    fractions = arguments.fractions or FRACTIONS
    for fraction in fractions:
        _checks.rate("--fractions", fraction)
    if arguments.baseline is not None:
        _checks.positive("--baseline", arguments.baseline)
    model = files.load_model(arguments.file)
    patterns = blending_patterns(model, arguments.strongest, layers=arguments.layers)
    dataset = load_data(data_source(arguments))
    # First the network as it is: this also checks that the file and the data fit together.
    before = evaluate(arguments.file, dataset)
    trained = f"accuracy {before.accuracy:.4f} ({before.correct} of {before.images})"
    say(f"{before.file} on {dataset.name}: {trained}")

    rows: list[CurveRow] = []

    def keep(row: CurveRow) -> None:
        rows.append(row)
        _write_curve(rows, output / "curve.csv")
        part = f"{100 * row.fraction:5.3g} % of the blending weights set to 0"
        say(f"{part}: {_summary(row)}")

    choices = {"layers": arguments.layers, "ranking": arguments.ranking, "baseline": arguments.baseline}
    batches = held_out_batches(dataset, BATCH_SIZE)
    pruning_curve(model, batches, dataset.test.labels, fractions, **choices, on_row=keep)
    heading = f"Blending layers of {model.name} on {dataset.name}"
    convolutions = analysis.count_parameters(model, "conv_kernels_and_biases")
    data = {
        "model": model.name,
        "file": before.file,
        "data": dataset.name,
        "note": dataset.note,
        "accuracy": before.accuracy,
        "ranking": arguments.ranking,
        "convolution_parameters": convolutions,
        "baseline": arguments.baseline,
        "curve": [dataclasses.asdict(row) for row in rows],
        "patterns": [_entry(pattern) for pattern in patterns],
    }
    table = [
        ("accuracy as trained", trained.removeprefix("accuracy ")),
        ("parameters of all convolutions", f"{convolutions:,}"),
        ("weights of blending layers", f"{sum(pattern.matrix.size for pattern in patterns):,}"),
        *((f"{100 * row.fraction:g} % of them set to 0", _summary(row)) for row in rows),
        *((f"inputs that {pattern.name} hardly uses", _hardly_used(pattern)) for pattern in patterns),
    ]
    curve, figure = draw_pruning_curve(rows, heading), draw_blending_patterns(patterns, heading)
    sections = {
        "": table,
        "Accuracy of the pruned network": curve,
        "Which inputs the outputs use least and most": figure,
        COUNTS: analysis.to_text(analysis.profile(model)),
    }
    note = (
        f"{dataset.note}. The smallest weights {RANKED[arguments.ranking]} are set to 0, nothing is retrained. An "
        f"input is hardly used if its weight is among the smallest of a row {HARDLY_USED} times as often as by chance."
    )
    files.write_bytes(output / "curve.png", curve)
    files.write_bytes(output / "patterns.png", figure)
    files.write_json(output / "curve.json", data)
    files.write_text(output / "index.html", page(heading, note, sections))
    return Answer(f"files in {output}", data)


def _write_curve(rows: Sequence[CurveRow], path: pathlib.Path) -> None:
    from keras_sharenets import files

    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    files.write_text(path, text.getvalue())


def _summary(row: CurveRow) -> str:
    compression = "" if row.compression is None else f", compression {row.compression:.2f}"
    return f"accuracy {row.accuracy:.4f}, {row.remaining:,} parameters left in convolutions{compression}"


def _hardly_used(pattern: Pattern) -> str:
    channels = [index for index, share in enumerate(pattern.blue_share) if share >= HARDLY_USED * pattern.chance]
    return f"{len(channels)} of {pattern.matrix.shape[1]}" + (f" ({', '.join(map(str, channels))})" if channels else "")


def _entry(pattern: Pattern) -> dict[str, object]:
    outputs, inputs = pattern.matrix.shape
    return {
        "layer": pattern.name,
        "outputs": outputs,
        "inputs": inputs,
        "each": pattern.each,
        "chance": pattern.chance,
        "blue_share": pattern.blue_share.tolist(),
    }
