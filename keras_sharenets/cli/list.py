"""List the named networks with their costs and the accuracy of pretrained ones.

sharenets list 'igcv2*' --max-parameters 100000
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from keras_sharenets import _checks
from keras_sharenets.cli.command import Answer

NEEDS_KERAS = False
# Option, the column that it limits, and its help text.
LIMITS = (
    ("--max-parameters", "stored_parameters", "maximum number of stored weights; each shared tensor counts once"),
    ("--max-multiply-adds", "multiply_adds", "maximum multiply-adds for one image"),
    ("--max-bytes", "int8_bytes", "maximum size of the int8 .tflite file"),
)
_HEADER = ("network", "family", "input", "classes", "parameters", "multiply-adds", "int8 bytes", "accuracy", "in int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pattern(parser)
    parser.add_argument(
        "--family", metavar="NAME", help="only networks of this paper, named as in the second column of the table"
    )
    parser.add_argument(
        "--trained", action="store_true", help="only pretrained networks, for `create_model(NAME, weights=...)`"
    )
    for option, _, help_text in LIMITS:
        parser.add_argument(option, type=int, metavar="N", help=help_text)


def add_pattern(parser: argparse.ArgumentParser) -> None:
    """Adds the argument for a pattern of network names."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, quoted (default: all)")


def matching_names(pattern: str) -> list[str]:
    """The names of the networks that match a pattern; a `ValueError` if there is none."""
    from keras_sharenets.models import list_models

    names = list_models(pattern)
    if not names:
        wider = f"*{pattern}*"
        hint = f"{wider!r} matches {len(list_models(wider))}" if list_models(wider) else "`sharenets list` shows all"
        raise ValueError(f"`pattern` (={pattern!r}) matches no model; {hint}.")
    return names


def networks(pattern: str) -> list[dict[str, Any]]:
    """Each matching network with its counts and, if it is pretrained, its training results.

    Pretrained networks are counted with the classes they were trained on, others as `create_model(name)` builds them.
    Families are in the order of the documentation, and networks within a family in order of size.
    """
    from keras_sharenets.models import find_variant, list_counts, list_trained
    from keras_sharenets.models.registry import FAMILIES, find_family
    from keras_sharenets.models.variant import network_label

    untrained = {field.name: None for field in dataclasses.fields(list_trained()[0])}
    trained = {(each.model, tuple(each.options.items())): dataclasses.asdict(each) for each in list_trained(pattern)}
    found = {}
    for name in matching_names(pattern):
        variant = find_variant(name)
        for counts in list_counts(name):
            options = counts.options
            known = trained.get((name, tuple(options.items())), {})
            if not known or len(known["class_names"]) == counts.num_classes:
                label = network_label(name, options)
                about = {"name": name, "label": label, "family": find_family(name)}
                about |= {"published": variant.configurations[0].published, "note": variant.note}
                found[label] = {**untrained, **about, "options": options, **dataclasses.asdict(counts), **known}
    families = list(FAMILIES)
    return sorted(found.values(), key=lambda each: (families.index(each["family"]), each["stored_parameters"]))


def check(arguments: argparse.Namespace) -> None:
    from keras_sharenets.models.registry import FAMILIES

    if arguments.family is not None:
        _checks.one_of("family", arguments.family, tuple(FAMILIES))
    for option, _, _ in LIMITS:
        name = option.removeprefix("--").replace("-", "_")
        if getattr(arguments, name) is not None:
            _checks.positive(name, getattr(arguments, name))


def run(arguments: argparse.Namespace) -> Answer:
    listed = networks(arguments.pattern)
    considered = len(listed)
    if arguments.family is not None:
        listed = [each for each in listed if each["family"] == arguments.family]
    if arguments.trained:
        listed = [each for each in listed if each["weights"] is not None]
    for option, column, _ in LIMITS:
        most = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        listed = [each for each in listed if most is None or (each[column] or math.inf) <= most]
    if not listed:
        return Answer(f"none of {considered} networks match; `sharenets list` shows all", [])
    return Answer(_table(listed), listed)


def _table(listed: Sequence[dict[str, Any]]) -> str:
    from keras_sharenets.rendering.tables import text_table

    rows = [
        (
            *(each["label"], each["family"], "x".join(map(str, each["input_shape"])), str(each["num_classes"])),
            *("-" if each[column] is None else f"{each[column]:,}" for _, column, _ in LIMITS),
            *(_percent(each[column]) for column in ("test_accuracy", "int8_test_accuracy")),
        )
        for each in listed
    ]
    notes = [
        "parameters: stored, each shared tensor once; multiply-adds: for one image; int8 bytes: size of a .tflite file",
        "(with random weights if not pretrained); accuracy: on the test split of a JPEG copy of CIFAR-10",
    ]
    return "\n".join([text_table([_HEADER, *rows], align="lllrrrrrr"), "", *notes])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
