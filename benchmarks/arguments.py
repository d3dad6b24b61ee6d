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


def settle(args):
    """The networks, each once, and the repetitions that the options of `add_arguments` ask for; makes the folder.

    Raises:
        ValueError: a network is not known, or `--repetitions` is not a positive whole number.
        OSError: `--output` cannot be a folder.
    """
    networks = tuple(dict.fromkeys(args.networks or args.default_networks[args.quick]))
    for name in networks:
        find_variant(name)
    repetitions = args.default_repetitions[args.quick] if args.repetitions is None else args.repetitions
    _checks.positive("repetitions", repetitions)
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    return networks, repetitions


def progress(text):
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)
