"""List the named networks.

sharenets list 'hscnet_m128*'
"""

from __future__ import annotations

import argparse

from keras_sharenets.cli.command import Answer

NEEDS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pattern(parser)


def add_pattern(parser: argparse.ArgumentParser) -> None:
    """The names of networks, by a pattern."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, quoted (default: all)")


def matching_names(pattern: str) -> list[str]:
    """The networks that match a pattern; a `ValueError` if there is none."""
    from keras_sharenets.models import list_models

    names = list_models(pattern)
    if not names:
        raise ValueError(f"`pattern` (={pattern!r}) matches no model; `sharenets list` shows all.")
    return names


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.models import find_family, find_variant

    networks = []
    for name in matching_names(arguments.pattern):
        variant = find_variant(name)
        published = variant.configurations[0].published
        networks.append({"name": name, "family": find_family(name), "published": published, "note": variant.note})
    lines = (f"{entry['name']:32} {entry['published'] or '-':>6}  {entry['note']}".rstrip() for entry in networks)
    return Answer("\n".join(lines), networks)
