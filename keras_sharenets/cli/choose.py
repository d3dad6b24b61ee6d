"""Recommend networks for a task and a budget, best first, with the command to train each.

sharenets choose --classes 5 --input-shape 32 32 3 --max-bytes 100000
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import add_input_shape
from keras_sharenets.cli.command import Answer, say_over
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds

NOTE = (
    "Accuracies are for the pretrained networks on the data set they were trained on, not on yours. Bytes with a ~ are "
    "estimates; the others are file sizes of trained networks."
)
MEASURED = "Milliseconds, and the bytes of the same files, were measured here, in LiteRT with one thread."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    add_input_shape(parser, "size of the images (default: 32 32 3)", default=(32, 32, 3))
    parser.add_argument("--max-bytes", type=int, metavar="N", help="maximum size of the int8 .tflite file")
    parser.add_argument(
        "--max-ms",
        type=float,
        metavar="T",
        help="maximum latency per image in LiteRT on this machine; measures the networks, a few seconds each",
    )
    parser.add_argument(
        "--limit", type=int, default=5, metavar="N", help="maximum number of recommendations (default: 5)"
    )


def check(arguments: argparse.Namespace) -> None:
    from keras_sharenets.models.choosing import check_task

    check_task(arguments.classes, tuple(arguments.input_shape))
    for name in ("limit", "max_bytes"):
        if getattr(arguments, name) is not None:
            _checks.positive(name.replace("_", "-"), getattr(arguments, name))
    if arguments.max_ms is not None:
        _checks.above_zero("max-ms", arguments.max_ms)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.models.choosing import choose
    from keras_sharenets.rendering.tables import text_table

    budget = {"max_bytes": arguments.max_bytes, "max_milliseconds": arguments.max_ms}
    found = choose(
        arguments.classes,
        tuple(arguments.input_shape),
        **budget,
        limit=arguments.limit,
        show=lambda name: say_over(f"checking {name} ..."),
    )
    say_over("")
    if not found:
        limits = {"--max-bytes": arguments.max_bytes, "--max-ms": arguments.max_ms}
        given = " and ".join(f"`{name}` (={value})" for name, value in limits.items() if value is not None)
        raise ValueError(f"No named network fits {given or 'such images'}; `sharenets search` can find others.")
    timed = arguments.max_ms is not None
    notes = [NOTE, *([MEASURED] if timed else []), *([UNSTEADY_NOTE] if any(each.unsteady for each in found) else [])]
    header = ["network", "accuracy, trained on", "int8 bytes", *(["ms"] if timed else [])]
    header += ["parameters", "multiply-adds"]
    rows = [
        (
            each.label,
            "untrained" if each.test_accuracy is None else f"{each.test_accuracy:.2%}, {each.trained_on}",
            f"{'~' if each.estimated else ''}{each.int8_bytes:,}",
            *([in_milliseconds(each.milliseconds, unsteady=each.unsteady)] if each.milliseconds is not None else []),
            f"{each.stored_parameters:,}",
            f"{each.multiply_adds:,}",
        )
        for each in found
    ]
    commands = "\n".join(each.command for each in found)
    text = f"{text_table([tuple(header), *rows])}\n\n{' '.join(notes)}\n\n{commands}"
    return Answer(text, [dataclasses.asdict(each) for each in found])
