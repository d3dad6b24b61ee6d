"""How a command line is put together from modules, one a command.

A command's module has a docstring, the help text and then an example, and two functions:

* `add_arguments(parser)` adds its options. It imports nothing heavy: `--help` and wrong arguments answer at once.
* `run(arguments)` does the work, imports inside itself what it needs, and returns an `Answer`, or `None` if it has
  nothing to say. Progress goes to standard error.

Every command takes `--json FILE|-`, which is added here: the answer as data, in a file beside the text on standard
output, or on standard output in its place.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        text: for a person.
        data: the same for a program, as `json` takes it.
    """

    text: str
    data: object


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A program of several commands.

    Attributes:
        prog: how it is called.
        description: one sentence.
        commands: name of a command to `(module, summary)`. The summary stands here so that `--help` imports no command.
        version: what `--version` prints, or `None`.
    """

    prog: str
    description: str
    commands: Mapping[str, tuple[str, str]]
    version: str | None = None


def make_parser(line: CommandLine, wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command line; only the command `wanted` is imported and gets its options."""
    parser = argparse.ArgumentParser(prog=line.prog, description=line.description)
    if line.version is not None:
        parser.add_argument("--version", action="version", version=line.version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in line.commands.items():
        if name != wanted:
            commands.add_parser(name, help=summary)
            continue
        command = importlib.import_module(module)
        text, _, example = (command.__doc__ or summary).strip().partition("\n")
        subparser = commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=f"example:\n  {example.strip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.add_argument("--json", metavar="FILE|-", help="the answer as JSON: in a file, or - in place of text")
    return parser


def run_command_line(line: CommandLine, argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 for bad input, with one line on standard error; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = next((word for word in words if not word.startswith("-")), None)
    arguments = make_parser(line, wanted).parse_args(words)
    try:
        answer = importlib.import_module(line.commands[arguments.command][0]).run(arguments)
        if answer is not None:
            _give(answer, arguments.json)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{line.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _give(answer: Answer, target: str | None) -> None:
    if target == "-":
        print(json.dumps(answer.data, indent=2))
        return
    print(answer.text.rstrip("\n"))
    if target is not None:
        from keras_sharenets import files

        files.write_json(target, answer.data)
