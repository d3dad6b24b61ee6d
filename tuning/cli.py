"""The command line: `python -m tuning COMMAND`."""

import argparse
import sys

from keras_sharenets.cli import enumerate as enumerate_command
from keras_sharenets.cli import search as search_command
from keras_sharenets.cli import search_report as report_command

# A command is a module: its docstring is the help text, `add_arguments(parser)` its options, `run(args)` its work.
COMMANDS = {"enumerate": enumerate_command, "search": search_command, "report": report_command}


def make_parser():
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m tuning", description="Looks for the best network for a budget.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary, _, example = module.__doc__.strip().partition("\n")
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example.strip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return parser


def main(arguments=None):
    """Runs a command; returns its exit code: 0, 2 for bad input (one line on standard error), 130 when interrupted."""
    args = make_parser().parse_args(arguments)
    try:
        COMMANDS[args.command].run(args)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(": ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
        return 130
    return 0
