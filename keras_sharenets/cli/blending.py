"""Prunes the blending layers of a trained ShardNet step by step, and draws which channels they use.

python -m trainers blending runs/sl3/last.keras --data digits --output runs/sl3/blending
"""

import csv
import dataclasses
import io

from keras_sharenets import _checks, analysis, files
from keras_sharenets.analysis.blending import blending_patterns
from keras_sharenets.analysis.blending_pruning import FRACTIONS, RANKINGS, CurveRow, pruning_curve
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.figures import draw_blending_patterns, draw_pruning_curve
from keras_sharenets.cli.arguments import add_data_arguments, load_data
from keras_sharenets.rendering.page import COUNTS, page
from keras_sharenets.training.data.batches import held_out_batches
from keras_sharenets.training.reports.evaluate import BATCH_SIZE, evaluate
from keras_sharenets.training.run.fit import check_output

HARDLY_USED = 2  # An input channel is worth a word if it is blue this many times as often as by chance.


def add_arguments(parser):
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
        default=FRACTIONS,
        metavar="F",
        help=f"parts of their weights to set to 0, each below 1 (default: {' '.join(f'{f:g}' for f in FRACTIONS)})",
    )
    parser.add_argument(
        "--ranking",
        choices=RANKINGS,
        default=RANKINGS[0],
        help="find the smallest weights in all blending layers together or in each (default: global)",
    )
    parser.add_argument(
        "--baseline", type=int, metavar="N", help="parameters of the convolutions of a network to compare with"
    )
    parser.add_argument(
        "--strongest", type=int, default=32, metavar="N", help="weights of a row to mark on either end (default: 32)"
    )


def run(args):
    """Prints a row as soon as it is measured; leaves the curve, two pictures and a page about them."""
    output = check_output(args.output)
    for fraction in args.fractions:
        _checks.rate("--fractions", fraction)
    if args.baseline is not None:
        _checks.positive("--baseline", args.baseline)
    model = files.load_model(args.file)
    patterns = blending_patterns(model, args.strongest, args.layers)
    dataset = load_data(args)
    # First the network as it is: this also checks that the file and the data fit together.
    before = evaluate(args.file, dataset)
    print(f"{before.file} on {dataset.name}: accuracy {before.accuracy:.4f} ({before.correct} of {before.pictures})")
    rows = _measure(model, dataset, args, output / "curve.csv")
    _write_all(model, dataset, before, rows, patterns, args, output)
    print(f"files in {output}")


def _measure(model, dataset, args, path):
    """The rows of the curve; `path` always holds those that are known."""
    rows = []

    def keep(row):
        rows.append(row)
        files.write_text(path, _csv(rows))
        print(f"{100 * row.fraction:5.3g} % of the blending weights set to 0: {_summary(row)}", flush=True)

    batches = held_out_batches(dataset, BATCH_SIZE)
    choices = {"layers": args.layers, "ranking": args.ranking, "baseline": args.baseline}
    return pruning_curve(model, batches, dataset.test.labels, args.fractions, **choices, on_row=keep)


def _csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(CurveRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()


def _summary(row):
    compression = "" if row.compression is None else f", compression {row.compression:.2f}"
    return f"accuracy {row.accuracy:.4f}, {row.remaining:,} parameters left in convolutions{compression}"


def _hardly_used(pattern):
    channels = [index for index, share in enumerate(pattern.blue_share) if share >= HARDLY_USED * pattern.chance]
    return f"{len(channels)} of {pattern.matrix.shape[1]}" + (f" ({', '.join(map(str, channels))})" if channels else "")


def _write_all(model, dataset, before, rows, patterns, args, output):
    convolutions = count_parameters(model, "conv_kernels_and_biases")
    heading = f"Blending layers of {model.name} on {dataset.name}"
    curve, drawn = draw_pruning_curve(rows, heading), draw_blending_patterns(patterns, heading)
    report = {
        "model": model.name,
        "file": before.file,
        "data": dataset.name,
        "note": dataset.note,
        "accuracy": before.accuracy,
        "ranking": args.ranking,
        "convolution_parameters": convolutions,
        "baseline": args.baseline,
        "curve": [dataclasses.asdict(row) for row in rows],
        "patterns": [_plain(pattern) for pattern in patterns],
    }
    table = [
        ("accuracy as trained", f"{before.accuracy:.4f} ({before.correct} of {before.pictures})"),
        ("parameters of all convolutions", f"{convolutions:,}"),
        ("weights of blending layers", f"{sum(pattern.matrix.size for pattern in patterns):,}"),
        *((f"{100 * row.fraction:g} % of them set to 0", _summary(row)) for row in rows),
        *((f"inputs that {pattern.name} hardly uses", _hardly_used(pattern)) for pattern in patterns),
    ]
    sections = {
        "": table,
        "Accuracy of the pruned network": curve,
        "Which inputs the outputs use least and most": drawn,
        COUNTS: analysis.to_text(analysis.profile(model)),
    }
    files.write_bytes(output / "curve.png", curve)
    files.write_bytes(output / "patterns.png", drawn)
    files.write_json(output / "curve.json", report)
    files.write_text(output / "index.html", page(heading, _note(dataset, args.ranking), sections))


def _plain(pattern):
    outputs, inputs = pattern.matrix.shape
    return {
        "layer": pattern.name,
        "outputs": outputs,
        "inputs": inputs,
        "each": pattern.each,
        "chance": pattern.chance,
        "blue_share": pattern.blue_share.tolist(),
    }


def _note(dataset, ranking):
    where = {"global": "of all blending layers together", "per_layer": "of each blending layer"}[ranking]
    return (
        f"{dataset.note}. The smallest weights {where} are set to 0, nothing is retrained. An input is hardly used if "
        f"its weight is among the smallest of a row {HARDLY_USED} times as often as by chance."
    )
