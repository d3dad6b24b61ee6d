"""Options that all benchmarks have in common, and what they say while they run."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import pathlib
import sys
from collections.abc import Sequence

from keras_sharenets import _checks

# What the names of networks of Keras begin with.
APPLICATIONS = "keras.applications."


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What the options of `add_run_arguments` ask for: each network once."""

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
    """`--networks` and `--batch-size` where there are defaults for them, `--repetitions`, `--quick` and `--output`.

    Defaults are pairs: without and with `--quick`; what that measures is `quick`.
    """
    defaults = {"networks": networks or ((), ()), "repetitions": repetitions, "batch_size": batch_size or (1, 1)}
    parser.set_defaults(defaults=defaults, networks=None, batch_size=None)
    if networks:
        networks_help = f"named networks (default: {' '.join(networks[0])})"
        parser.add_argument("--networks", "--models", nargs="+", metavar="NAME", help=networks_help)
    if batch_size:
        batch_help = f"images at a time (default: {batch_size[0]})"
        parser.add_argument("--batch-size", type=int, metavar="N", help=batch_help)
    repetitions_help = f"measured runs of each (default: {repetitions[0]})"
    parser.add_argument("--repetitions", type=int, metavar="N", help=repetitions_help)
    parser.add_argument("--quick", action="store_true", help=f"{quick}: shows that it works, not how fast")
    parser.add_argument("--output", default="runs/benchmarks", metavar="DIR", help="folder (default: runs/benchmarks)")


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """What the options ask for.

    Raises:
        ValueError: a network is not known, or a number is not a positive integer.
        OSError: `--output` cannot be a folder.
    """
    from keras_sharenets.models import find_variant

    given = {name: getattr(arguments, name) for name in arguments.defaults}
    chosen = {
        name: arguments.defaults[name][arguments.quick] if value is None else value for name, value in given.items()
    }
    chosen["networks"] = tuple(dict.fromkeys(chosen["networks"]))
    for name in chosen["networks"]:
        if not name.startswith(APPLICATIONS):
            find_variant(name)
    for name in ("repetitions", "batch_size"):
        _checks.positive(name, chosen[name])
    folder = pathlib.Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), arguments.output)
    return RunOptions(quick=arguments.quick, folder=folder, command=arguments.command_line, **chosen)


def progress(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)
