"""The command line: `python -m benchmarks COMMAND`."""

import argparse
import shlex
import sys

from benchmarks import delivery, inference, layers, scaling, training
from benchmarks import input as input_speed

# A command is a module: its docstring is the help text, `add_arguments(parser)` its options, `run(args)` its work.
COMMANDS = {
    "delivery": delivery,
    "inference": inference,
    "input": input_speed,
    "layers": layers,
    "scaling": scaling,
    "training": training,
}


def make_parser():
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures networks beside their peers.")
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
    arguments = sys.argv[1:] if arguments is None else arguments
    args = make_parser().parse_args(arguments)
    args.command_line = shlex.join(["python", "-m", "benchmarks", *arguments])
    try:
        COMMANDS[args.command].run(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
