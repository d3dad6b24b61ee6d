"""Options that all commands have in common, and what they say while they run."""

import pathlib
import sys

from keras_sharenets import _checks
from keras_sharenets.models import find_variant


def add_arguments(parser, networks, quick_network):
    """`--networks`, `--repetitions`, `--quick` and `--output`."""
    parser.add_argument("--networks", nargs="+", metavar="NAME", help=f"named networks (default: {' '.join(networks)})")
    parser.add_argument("--repetitions", type=int, metavar="N", help="measured runs of each (default: 100)")
    parser.add_argument(
        "--quick", action="store_true", help=f"few repetitions of {quick_network}: shows that it works, not how fast"
    )
    parser.add_argument("--output", default="runs/benchmarks", metavar="DIR", help="folder (default: runs/benchmarks)")
    parser.set_defaults(default_networks=(networks, (quick_network,)), default_repetitions=(100, 3))


def add_run_arguments(parser, repetitions, batch_size, quick):
    """`--repetitions`, `--batch-size`, `--quick` and `--output`, for commands whose subjects are not networks by name.

    Args:
        parser: `argparse.ArgumentParser`.
        repetitions, batch_size: pairs of ints, the default and that of `--quick`.
        quick: str, what `--quick` measures.
    """
    parser.add_argument(
        "--repetitions", type=int, metavar="N", help=f"measured runs of each (default: {repetitions[0]})"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"pictures at a time (default: {batch_size[0]})")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: shows that it works")
    parser.add_argument("--output", default="runs/benchmarks", metavar="DIR", help="folder (default: runs/benchmarks)")
    parser.set_defaults(default_repetitions=repetitions, default_batch_size=batch_size)


def settle(args):
    """The networks, each once, and the repetitions that the options of `add_arguments` ask for; makes the folder.

    Raises:
        ValueError: a network is not known, or `--repetitions` is not a positive integer.
        OSError: `--output` cannot be a folder.
    """
    networks = tuple(dict.fromkeys(args.networks or args.default_networks[args.quick]))
    for name in networks:
        find_variant(name)
    repetitions = chosen(args, "repetitions")
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    return networks, repetitions


def chosen(args, name):
    """The positive integer of an option, or else its default, of which there is another with `--quick`.

    Raises:
        ValueError: it is no positive integer.
    """
    value = getattr(args, name)
    value = getattr(args, f"default_{name}")[args.quick] if value is None else value
    _checks.positive(name, value)
    return value


def progress(text):
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)
