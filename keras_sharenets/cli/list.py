"""List the named networks.

sharenets list 'hscnet_m128*'
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets.cli.command import Answer

NEEDS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pattern(parser)
    trained_help = (
        "those that come trained, for `create_model(NAME, weights=...)`, with their accuracies and int8 bytes"
    )
    parser.add_argument("--trained", action="store_true", help=trained_help)


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

    if arguments.trained:
        return _trained(arguments.pattern)
    networks = []
    for name in matching_names(arguments.pattern):
        variant = find_variant(name)
        published = variant.configurations[0].published
        networks.append({"name": name, "family": find_family(name), "published": published, "note": variant.note})
    lines = (f"{entry['name']:32} {entry['published'] or '-':>6}  {entry['note']}".rstrip() for entry in networks)
    return Answer("\n".join(lines), networks)


def _trained(pattern: str) -> Answer:
    """Those that come trained; a `ValueError` if none matches."""
    from keras_sharenets.models import list_trained
    from keras_sharenets.rendering.tables import text_table

    found = list_trained(pattern)
    if not found:
        raise ValueError(f"`pattern` (={pattern!r}) matches no network that comes trained; `list --trained` shows all.")
    header = ("network", "weights", "parameters", "test accuracy", "int8", "its bytes")
    rows = [
        (
            *(each.label, each.weights, f"{each.stored_parameters:,}"),
            *(f"{each.test_accuracy:.2%}", f"{each.int8_test_accuracy:.2%}", f"{each.int8_bytes:,}"),
        )
        for each in found
    ]
    return Answer(text_table([header, *rows]), [dataclasses.asdict(each) for each in found])
