"""`python -m tuning`: the search commands of `sharenets`."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets.cli import COMMANDS as ALL
from keras_sharenets.cli.command import CommandLine, run_command_line

COMMANDS = {
    "enumerate": ALL["enumerate"],
    "search": ALL["search"],
    "report": ("keras_sharenets.cli.search_report", "Report on a search, finished or not."),
}
LINE = CommandLine("python -m tuning", "Search for the best network within a budget.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
