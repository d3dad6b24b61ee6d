"""Options shared by all benchmarks, and their progress messages."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import pathlib
import sys
from collections.abc import Sequence

from keras_sharenets import _checks

# Prefix of the names of Keras networks.
APPLICATIONS = "keras.applications."


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Values of the options of `add_run_arguments`; each network occurs once."""

    networks: tuple[str, ...]
    repetitions: int
    batch_size: int
    quick: bool
    folder: pathlib.Path
    command: str


def add_run_arguments(
    parser: argparse.ArgumentParser,
    *,
    quick: str,
    repetitions: tuple[int, int],
    batch_size: tuple[int, int] | None = None,
    networks: tuple[Sequence[str], Sequence[str]] | None = None,
) -> None:
    """Adds `--repetitions`, `--quick`, `--output`, and, if they have defaults, `--networks` and `--batch-size`.

    Defaults are pairs: without and with `--quick`. `quick` describes what `--quick` measures.
    """
    defaults = {"networks": networks or ((), ()), "repetitions": repetitions, "batch_size": batch_size or (1, 1)}
    parser.set_defaults(defaults=defaults, networks=None, batch_size=None)
    if networks:
        networks_help = f"named networks (default: {' '.join(networks[0])})"
        parser.add_argument("--networks", "--models", nargs="+", metavar="NAME", help=networks_help)
    if batch_size:
        batch_help = f"batch size (default: {batch_size[0]})"
        parser.add_argument("--batch-size", type=int, metavar="N", help=batch_help)
    repetitions_help = f"number of measured runs (default: {repetitions[0]})"
    parser.add_argument("--repetitions", type=int, metavar="N", help=repetitions_help)
    parser.add_argument("--quick", action="store_true", help=f"{quick}: a smoke test, not a measurement")
    parser.add_argument("--output", default="runs/benchmarks", metavar="DIR", help="default: runs/benchmarks")


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Values of the options.

    Raises:
        ValueError: a network is unknown, or a number is not a positive integer.
        OSError: `--output` cannot be a folder.
    """
    import keras

    from keras_sharenets.models import find_variant

    given = {name: getattr(arguments, name) for name in arguments.defaults}
    chosen = {
        name: arguments.defaults[name][arguments.quick] if value is None else value for name, value in given.items()
    }
    chosen["networks"] = tuple(dict.fromkeys(chosen["networks"]))
    for name in chosen["networks"]:
        if not name.startswith(APPLICATIONS):
            find_variant(name)
        elif not callable(getattr(keras.applications, name.removeprefix(APPLICATIONS), None)):
            raise ValueError(f"`networks` (={name!r}) must be a network of `keras.applications`.")
    for name in ("repetitions", "batch_size"):
        _checks.positive(name, chosen[name])
    folder = pathlib.Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), arguments.output)
    return RunOptions(quick=arguments.quick, folder=folder, command=arguments.command_line, **chosen)


def progress(text: str) -> None:
    """Prints one line to standard error."""
    print(text, file=sys.stderr, flush=True)
