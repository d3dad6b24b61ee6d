"""How a command line is put together from modules, one a command.

A command's module has a docstring, the help text and then an example, and two functions:

* `add_arguments(parser)` adds its options. It imports nothing heavy: `--help` and wrong arguments answer at once.
* `run(arguments)` does the work, imports inside itself what it needs, and returns an `Answer`, or `None` if it has
  nothing to say. Progress goes to standard error. `arguments.command_line` is the whole line as it was typed.

and, if the options have rules that a parser cannot tell, a third, `check(arguments)`: a `ValueError` before Keras is
imported. A command that never needs Keras says `NEEDS_KERAS = False`.

Every command takes `--json FILE|-`, which is added here: the answer as data, in a file beside the text on standard
output, or on standard output in its place.
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

from keras_sharenets.extras import install_line
from keras_sharenets.interruption import Interrupted, command_signals
from keras_sharenets.notices import quiet_interpreters, without_notices, without_retracing

# Whatever makes a terminal do something else than show a character: control characters, changes of the direction of
# writing, and halves of characters that cannot be written at all. They come in names of files and classes.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_JSON_HELP = "the answer as JSON: in a file, or in place of the text (-)"


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
        version: what `--version` prints, or `None` for a program that is not installed: it has no completion either.
    """

    prog: str
    description: str
    commands: Mapping[str, tuple[str, str]]
    version: str | None = None


def make_parser(line: CommandLine, wanted: Collection[str] | None = None) -> argparse.ArgumentParser:
    """The parser of a command line.

    Args:
        line: the program.
        wanted: the commands that are imported and get their options; all by default.
    """
    parser = _Parser(prog=line.prog, description=line.description)
    if line.version is not None:
        parser.add_argument("--version", action="version", version=line.version)
        completion_help = "print a script that completes commands and options in this shell"
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
        # A module serves several programs: the example is shown as this one is called.
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
    """What a command cannot do without; all its options would be a page above every error."""
    formatter = parser._get_formatter()
    needed = [action for action in parser._actions if action.required or not action.option_strings]
    formatter.add_usage(None, needed, (), prefix="")
    return f"{formatter.format_help().strip()} [options]".replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """Offers the nearest commands, options and choices for a word that it does not know."""

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
        """This one and those of its commands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


class _PrintCompletion(argparse.Action):
    """Prints the script for the `CommandLine` in `const`, all of whose commands are imported for it."""

    def __call__(self, parser, namespace, values, option_string=None):
        import shtab

        print(shtab.complete(make_parser(self.const), str(values)))
        parser.exit()


def _json_target(text: str) -> str:
    # Whoever forgets the file's name would lose the image or network that comes next on the line.
    if text != "-" and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"(={text}) must be - or a file that ends in .json")
    return text


def run_command_line(line: CommandLine, argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 for bad input, with one line on standard error; 130 after Ctrl-C, 143 after SIGTERM, 141
        when nobody reads the answer to its end.
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
            if hasattr(command, "check"):
                command.check(arguments)
            if getattr(command, "NEEDS_KERAS", True):
                load_keras()
            answer = command.run(arguments)
        if answer is not None:
            _give(answer, arguments.json)
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has read enough, as `head` does. Python would say so once more when it ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE, which Windows has not.
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
    """Imports Keras, and says so on a terminal: it takes seconds."""
    if "keras" not in sys.modules and sys.stderr.isatty():
        say("loading Keras ...")
    # TensorFlow leaves oneDNN out on CPUs without AVX-512 VNNI, AVX-VNNI or AMX, and reads this when it starts. On one
    # with AVX2, a step of training took 1.1 to 2.4 times as long without.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with without_notices():
        importlib.import_module("keras")
    without_retracing()


def _how_to_install(error: ModuleNotFoundError) -> str:
    """What follows the message about a module that is missing, unless that says it already.

    >>> _how_to_install(ModuleNotFoundError("No module named 'keras_tuner'", name="keras_tuner"))
    ": pip install 'keras_sharenets[tuning]'"
    """
    module = (error.name or "").partition(".")[0]
    if not module or module == "keras_sharenets" or "pip install" in str(error):
        return ""
    return f": {install_line(module)}"


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Shows warnings as one line, without the place in the code that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *place, **more: f"warning: {printable(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _give(answer: Answer, target: str | None) -> None:
    if target == "-":
        print(json.dumps(answer.data, indent=2))
        return
    if target is not None:
        from keras_sharenets import files

        files.write_json(target, answer.data)
    if answer.text:
        print(printable(answer.text.rstrip("\n"), sys.stdout.encoding))


def say(text: str) -> None:
    """Writes to standard error, as `printable`."""
    print(printable(text, sys.stderr.encoding), file=sys.stderr, flush=True)


def say_over(text: str) -> None:
    """Shows a line on the terminal that the next one of standard error replaces; elsewhere nothing."""
    if sys.stderr.isatty():
        # Filled up with blanks, and without codes that a terminal may not know. At its last column it may go on.
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"{printable(text, sys.stderr.encoding)[:width]:<{width}}\r")
        sys.stderr.flush()


def printable(text: str, encoding: str | None = None) -> str:
    """`text` with a backslash code for each character that would command the terminal, or that it cannot show.

    >>> print(printable("cat\\x1b[31m\\n\\u202edog"))
    cat\\x1b[31m
    \\u202edog
    >>> print(printable("\\u732b cat", "ascii"))
    \\u732b cat
    """
    text = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
