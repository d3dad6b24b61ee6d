"""`python -m trainers`: the commands of `sharenets` that train, and the demo of a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets.cli import COMMANDS as ALL
from keras_sharenets.cli.command import CommandLine, run_command_line

NAMES = (
    "fit",
    "recipes",
    "evaluate",
    "predict",
    "export",
    "report",
    "compare",
    "results",
    "paper",
    "analyze",
    "blending",
)
COMMANDS = {name: ALL[name] for name in NAMES}
COMMANDS["demo"] = ("trainers.demo", "Train a small network on digits, export it, run the files and write a page.")
LINE = CommandLine("python -m trainers", "Trains networks that reuse their filters.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
