"""Prune the blending layers of a trained ShardNet step by step, and plot which channels they use.

sharenets blending runs/sl3/last.keras --data digits --output runs/sl3/blending
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer, say
from keras_sharenets.files import check_paths

if TYPE_CHECKING:
    import pathlib

    import keras

    from keras_sharenets.analysis.blending import Pattern
    from keras_sharenets.analysis.blending_pruning import CurveRow
    from keras_sharenets.rendering.page import Section
    from keras_sharenets.training.data.batches import Batches
    from keras_sharenets.training.data.dataset import Dataset

HARDLY_USED = 2  # An input channel is reported if it is blue this many times as often as by chance.
RANKED = {"global": "of all blending layers together", "per_layer": "of each blending layer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.keras", help="trained network")
    add_data_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")
    add_blending_arguments(parser)


def add_blending_arguments(parser: argparse._ActionsContainer, layers: str = "--layers") -> None:
    """Adds the options that `report` reads; `layers` is the name of the option for the layers."""
    parser.add_argument(
        layers,
        nargs="+",
        metavar="NAME",
        help="names of the blending layers (default: 1x1 convolutions named blend...)",
    )
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="F",
        help="fractions of their weights to set to 0, each below 1 (default: 0 to 0.9 in steps of 0.1, and 0.95)",
    )
    parser.add_argument(
        "--ranking",
        choices=RANKED,
        default="global",
        help="rank the weights over all blending layers or within each layer (default: global)",
    )
    parser.add_argument(
        "--baseline",
        metavar="N|NAME",
        help="network to compare with: its name, or the number of parameters in its convolutions",
    )
    parser.add_argument(
        "--strongest",
        type=int,
        default=32,
        metavar="N",
        help="number of smallest and of largest weights to mark in each row (default: 32)",
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """Results for the blending layers: data for JSON, sections of a page, and PNG files by name."""

    data: dict[str, object]
    sections: dict[str, Section]
    images: dict[str, bytes]


def check(arguments: argparse.Namespace) -> None:
    check_options(arguments)
    check_paths(arguments.file)


def run(arguments: argparse.Namespace) -> Answer:
    """Prints each row as soon as it is measured; writes the curve, two figures, and a page."""
    from keras_sharenets import analysis, files
    from keras_sharenets.rendering.page import COUNTS, page
    from keras_sharenets.training.data.batches import held_out_batches
    from keras_sharenets.training.reports.evaluate import BATCH_SIZE, evaluate
    from keras_sharenets.training.run.fit import check_output

    output = check_output(arguments.output)
    model = files.load_model(arguments.file)
    patterns = analysis.blending_patterns(model, arguments.strongest, layers=arguments.layers)
    dataset = load_data(data_source(arguments))
    # The unpruned network first: this also checks that the file and the data match.
    before = evaluate(arguments.file, dataset)
    trained = f"accuracy {before.accuracy:.4f} ({before.correct} of {before.images})"
    say(f"{before.file} on {dataset.name}: {trained}")
    counts = analysis.to_text(analysis.profile(model, dataset.shape))
    tested = held_out_batches(dataset, BATCH_SIZE)
    found = report(arguments, model, patterns, dataset, tested, output / "curve.csv")
    data = {"model": model.name, "file": before.file, "data": dataset.name, "note": dataset.note}
    data |= {"accuracy": before.accuracy} | found.data
    first = {"accuracy as trained": trained.removeprefix("accuracy ")}
    sections = {"": first, **found.sections, COUNTS: counts}
    for name, image in found.images.items():
        files.write_bytes(output / name, image)
    files.write_json(output / "curve.json", data)
    heading = f"Blending layers of {model.name} on {dataset.name}"
    files.write_text(output / "index.html", page(heading, f"{dataset.note}. {note(arguments)}", sections))
    return Answer(f"files in {output}", data)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises a `ValueError` for options that are invalid for any network."""
    for fraction in arguments.fractions or ():
        _checks.rate("--fractions", fraction)
    if arguments.baseline is not None and re.fullmatch(r"-?\d+", arguments.baseline):
        _checks.positive("--baseline", int(arguments.baseline))


def note(arguments: argparse.Namespace) -> str:
    """A description of the method."""
    return (
        f"The smallest weights {RANKED[arguments.ranking]} are set to 0, without retraining. An input is hardly used "
        f"if its weight is among the smallest of a row {HARDLY_USED} times as often as by chance."
    )


def report(
    arguments: argparse.Namespace,
    model: keras.Model,
    patterns: Sequence[Pattern],
    dataset: Dataset,
    batches: Batches,
    curve_file: pathlib.Path,
) -> Report:
    """Prunes the layers of the patterns step by step and updates the curve file after each row.

    `batches` are batches of the test split of `dataset`.
    """
    from keras_sharenets import analysis
    from keras_sharenets.analysis.figures import draw_blending_patterns, draw_pruning_curve

    rows: list[CurveRow] = []

    def keep(row: CurveRow) -> None:
        rows.append(row)
        _write_curve(rows, curve_file)
        part = f"{100 * row.fraction:5.3g} % of the blending weights set to 0"
        say(f"{part}: {_summary(row)}")

    baseline = _baseline(arguments.baseline, len(dataset.class_names))
    fractions = arguments.fractions or analysis.FRACTIONS
    choices = {"layers": [pattern.name for pattern in patterns], "ranking": arguments.ranking, "baseline": baseline}
    analysis.pruning_curve(model, batches, dataset.test.labels, fractions, **choices, on_row=keep)
    convolutions = analysis.count_parameters(model, "conv_kernels_and_biases")
    data = {
        "ranking": arguments.ranking,
        "convolution_parameters": convolutions,
        "baseline": baseline,
        "curve": [dataclasses.asdict(row) for row in rows],
        "patterns": [_entry(pattern) for pattern in patterns],
    }
    table = [
        ("parameters of all convolutions", f"{convolutions:,}"),
        ("weights of blending layers", f"{sum(pattern.matrix.size for pattern in patterns):,}"),
        *((f"{100 * row.fraction:g} % of them set to 0", _summary(row)) for row in rows),
        *((f"inputs that {pattern.name} hardly uses", _hardly_used(pattern)) for pattern in patterns),
    ]
    heading = f"Blending layers of {model.name} on {dataset.name}"
    curve, figure = draw_pruning_curve(rows, heading), draw_blending_patterns(patterns, heading)
    sections: dict[str, Section] = {
        "Pruned blending layers": dict(table),
        "Accuracy of the pruned network": [curve],
        "Inputs that the outputs use least and most": [figure],
    }
    return Report(data, sections, {"curve.png": curve, "patterns.png": figure})


def _baseline(text: str | None, classes: int) -> int | None:
    """The number of convolution parameters, given as a number or by the name of a network."""
    from keras_sharenets.analysis import count_parameters
    from keras_sharenets.models import create_model

    if text is None or text.isdecimal():
        return None if text is None else int(text)
    return count_parameters(create_model(text, num_classes=classes), "conv_kernels_and_biases")


def _write_curve(rows: Sequence[CurveRow], path: pathlib.Path) -> None:
    from keras_sharenets import files
    from keras_sharenets.rendering.tables import csv_table

    files.write_text(path, csv_table([dataclasses.asdict(row) for row in rows]))


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
