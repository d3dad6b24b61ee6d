"""`python -m trainers`: the training commands of `sharenets`, and a demo."""

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
COMMANDS["demo"] = ("trainers.demo", "Train a small network on digits, export it, run the files, and write a report.")
LINE = CommandLine("python -m trainers", "Train networks that reuse their filters.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
