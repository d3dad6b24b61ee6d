"""`python -m tuning`: the commands of `sharenets` that search."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets.cli import COMMANDS as ALL
from keras_sharenets.cli.command import CommandLine, run_command_line

COMMANDS = {
    "enumerate": ALL["enumerate"],
    "search": ALL["search"],
    "report": ("keras_sharenets.cli.search_report", "Report on a search, finished or not."),
}
LINE = CommandLine("python -m tuning", "Looks for the best network for a budget.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
