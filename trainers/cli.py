"""The command line: `python -m trainers COMMAND`."""

import argparse
import sys

from keras_sharenets.cli import blending as blending_command
from keras_sharenets.cli import compare as compare_command
from keras_sharenets.cli import deliver as export_command
from keras_sharenets.cli import fit as fit_command
from keras_sharenets.cli import predict as predict_command
from keras_sharenets.cli import recipes as recipes_command
from keras_sharenets.cli import report as report_command
from keras_sharenets.cli import results as results_command
from keras_sharenets.training.reports import evaluate
from trainers import demo

# A command is a module: its docstring is the help text, `add_arguments(parser)` its options, `run(args)` its work.
COMMANDS = {
    "fit": fit_command,
    "recipes": recipes_command,
    "evaluate": evaluate,
    "predict": predict_command,
    "export": export_command,
    "report": report_command,
    "compare": compare_command,
    "results": results_command,
    "demo": demo,
    "blending": blending_command,
}


def make_parser():
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m trainers", description="Trains networks that reuse their filters.")
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
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
