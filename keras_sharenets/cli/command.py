"""A command line built from modules, one per command.

The module of a command has a docstring (the help text, then an example) and two functions:

* `add_arguments(parser)` adds its options. It must not import heavy modules, so that `--help` and errors are fast.
* `run(arguments)` does the work and returns an `Answer`, or `None` without output. It imports heavy modules inside the
  function and writes progress to standard error. `arguments.command_line` is the complete line as typed.

An optional third function, `check(arguments)`, checks rules that a parser cannot express and raises a `ValueError`
before Keras is imported. A command that never needs Keras sets `NEEDS_KERAS = False`.

Every command has the option `--json FILE|-`, which is added here: it writes the answer as data, either to a file in
addition to the text on standard output, or to standard output in place of the text.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NoReturn

from keras_sharenets import files
from keras_sharenets.extras import install_line
from keras_sharenets.interruption import Interrupted, command_signals
from keras_sharenets.notices import quiet_interpreters, without_notices, without_retracing

# Characters that a terminal does not display: control characters, changes of the writing direction, and surrogates.
# They occur in names of files and classes.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_JSON_HELP = "write the result as JSON to a file, or to standard output in place of the text (-)"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        text: human-readable text.
        data: the same as data for `json`.
    """

    text: str
    data: object


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A program with several commands.

    Attributes:
        prog: name of the program.
        description: one sentence.
        commands: maps a command to `(module, summary)`. With the summaries here, `--help` imports no command module.
        version: output of `--version`, or `None` for a program that is not installed, which has no completion either.
    """

    prog: str
    description: str
    commands: Mapping[str, tuple[str, str]]
    version: str | None = None


def make_parser(line: CommandLine, wanted: Collection[str] | None = None) -> argparse.ArgumentParser:
    """Creates the parser of a command line.

    Args:
        line: the program.
        wanted: the commands to import and add options for; all by default.
    """
    parser = _Parser(prog=line.prog, description=line.description)
    if line.version is not None:
        parser.add_argument("--version", action="version", version=line.version)
        completion_help = "print a completion script for this shell"
        shells = ("bash", "zsh", "fish", "tcsh")
        parser.add_argument(
            "--print-completion", action=_PrintCompletion, const=line, choices=shells, help=completion_help
        )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in line.commands.items():
        if wanted is not None and name not in wanted:
            commands.add_parser(name, help=summary)
            continue
        command = importlib.import_module(module)
        text, _, example = (command.__doc__ or summary).strip().partition("\n")
        # A module may serve several programs: the example is shown with the name of this one.
        example = re.sub(r"^(sharenets|python -m \w+) \S+", f"{line.prog} {name}", example.strip())
        subparser = commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.usage = _short_usage(subparser)
        subparser.add_argument("--json", nargs="?", const="-", type=_json_target, metavar="FILE|-", help=_JSON_HELP)
    return parser


def _short_usage(parser: argparse.ArgumentParser) -> str:
    """The usage line with required arguments only; all options would fill a page above every error."""
    formatter = parser._get_formatter()
    needed = [action for action in parser._actions if action.required or not action.option_strings]
    formatter.add_usage(None, needed, (), prefix="")
    return f"{formatter.format_help().strip()} [options]".replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest commands, options, and choices for an unknown word."""

    def error(self, message: str) -> NoReturn:
        found = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if found:
            known = [option for parser in self._parsers() for option in parser._option_string_actions]
        else:
            found = re.search(r"invalid choice: '?([\w-]+)'? \(choose from (.*)\)", message)
            known = re.findall(r"[\w-]+", found[2]) if found else []
        near = difflib.get_close_matches(found[1], known, n=3, cutoff=0.7) if found else []
        super().error(f"{message}. Did you mean {' or '.join(near)}?" if near else message)

    def _parsers(self) -> Iterator[argparse.ArgumentParser]:
        """This parser and the parsers of its commands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


class _PrintCompletion(argparse.Action):
    """Prints the completion script for the `CommandLine` in `const`; imports all its commands."""

    def __call__(self, parser, namespace, values, option_string=None):
        import shtab

        print(shtab.complete(make_parser(self.const), str(values)))
        parser.exit()


def _json_target(text: str) -> str:
    # Without a file name, `--json` would swallow the next argument.
    if text != "-" and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"(={text}) must be - or a file that ends in .json")
    return text


def run_command_line(line: CommandLine, argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 for bad input, with one line on standard error; 130 after Ctrl-C; 143 after SIGTERM; 141
        if the reader of standard output closes the pipe early.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = next((word for word in words if not word.startswith("-")), None)
    try:
        parser = make_parser(line, () if wanted is None else (wanted,))
        if not words:
            parser.print_help(sys.stderr)
            return 2
        arguments = parser.parse_args(words)
        arguments.command_line = shlex.join([*line.prog.split(), *words])
        command = importlib.import_module(line.commands[arguments.command][0])
        with command_signals(), _short_warnings(), quiet_interpreters():
            if arguments.json not in (None, "-"):
                files.check_writable(arguments.json, "--json")
            if hasattr(command, "check"):
                command.check(arguments)
            if getattr(command, "NEEDS_KERAS", True):
                load_keras()
            answer = command.run(arguments)
        if answer is not None:
            _give(answer, arguments.json)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. Python would report this again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE, which Windows does not have.
    except ModuleNotFoundError as error:
        say(f"error: {' '.join(str(error).split())}{_how_to_install(error)}")
        return 2
    except (ValueError, OSError, RuntimeError) as error:
        say(f"error: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt as stop:
        say(": ".join(["interrupted", *map(str, stop.args)]))
        return 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)
    return 0


def load_keras() -> None:
    """Imports Keras, with a message on a terminal since this takes seconds."""
    if "keras" not in sys.modules and sys.stderr.isatty():
        say("loading Keras ...")
    # TensorFlow disables oneDNN on CPUs without AVX-512 VNNI, AVX-VNNI, or AMX, and reads this variable at startup.
    # With AVX2, a training step took 1.1 to 2.4 times as long without oneDNN.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with without_notices():
        importlib.import_module("keras")
    without_retracing()


def _how_to_install(error: ModuleNotFoundError) -> str:
    """The install command to append to the message about a missing module, unless the message has one.

    >>> _how_to_install(ModuleNotFoundError("No module named 'keras_tuner'", name="keras_tuner"))
    ": pip install 'keras_sharenets[tuning]'"
    """
    module = (error.name or "").partition(".")[0]
    if not module or module == "keras_sharenets" or "pip install" in str(error):
        return ""
    return f": {install_line(module)}"


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Shows warnings on one line, without their source location, and each text once."""
    before, told = warnings.formatwarning, set()

    def show(message, *place, **more):
        text = f"warning: {printable(str(message))}\n"
        repeated = text in told  # For example of several files that are exported with the same images.
        told.add(text)
        return "" if repeated else text

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = before


def _give(answer: Answer, target: str | None) -> None:
    if target == "-":
        print(json.dumps(answer.data, indent=2))
        return
    if target is not None:
        files.write_json(target, answer.data)
    if answer.text:
        print(printable(answer.text.rstrip("\n"), sys.stdout.encoding))


def say(text: str) -> None:
    """Writes `printable(text)` to standard error."""
    print(printable(text, sys.stderr.encoding), file=sys.stderr, flush=True)


def say_over(text: str) -> None:
    """Shows a line on the terminal that the next line of standard error overwrites; does nothing without a terminal."""
    if sys.stderr.isatty():
        # Padded with blanks, without escape codes that a terminal may not support. The last column may wrap.
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"{printable(text, sys.stderr.encoding)[:width]:<{width}}\r")
        sys.stderr.flush()


def printable(text: str, encoding: str | None = None) -> str:
    """`text` with a backslash escape for each character that would control the terminal or that it cannot show.

    >>> print(printable("cat\\x1b[31m\\n\\u202edog"))
    cat\\x1b[31m
    \\u202edog
    >>> print(printable("\\u732b cat", "ascii"))
    \\u732b cat
    """
    text = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
