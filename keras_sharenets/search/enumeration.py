"""All networks of a space within a budget, without building or training any."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from keras_sharenets import _checks
from keras_sharenets.models import find_variant
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.spaces.space import IMAGE, Counts, Point, Shape, Space, count, named, points

COUNTS = tuple(field.name for field in dataclasses.fields(Counts))
_MEANINGS = {
    "stored_parameters": "trainable weights, each shared tensor once",
    "multiply_adds": "for one image",
    "density": "lowest share of inputs and outputs that a block connects; 1 is dense",
    "one_path": "whether each such pair is connected on one path",
    "network": "kind of network; --json names the one that each is a variant of",
}
_TITLES = {"stored_parameters": "parameters", "multiply_adds": "multiply-adds", "one_path": "one path"}

Networks = list[tuple[Point, Counts]]


def networks_within(
    space: Space, budget: Budget, *, input_shape: Shape = IMAGE, num_classes: int = 10
) -> tuple[int, Networks]:
    """All networks of a space within a budget, in the order of the space.

    Returns:
        How many networks were considered, and `(point, counts)` of those within the budget.

    >>> from keras_sharenets.search.spaces import find_space
    >>> space, budget = find_space("sharesnet"), Budget(max_parameters=10_000)
    >>> considered, found = networks_within(space, budget, input_shape=(8, 8, 1))
    >>> considered, len(found), max(counts.stored_parameters for _, counts in found)
    (477, 2, 8902)
    """
    considered, networks = 0, []
    for point in points(space, input_shape):
        considered += 1
        counts = count(space, point, input_shape=input_shape, num_classes=num_classes)
        if budget.allows(counts):
            networks.append((point, counts))
    return considered, networks


def _columns(space: Space) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The counts that a space has, and the arguments."""
    counted = COUNTS if space.connections else COUNTS[:2]
    return counted, tuple(dict.fromkeys(choice.argument for choice in space.choices))


def ordered(space: Space, networks: Networks, columns: Sequence[str]) -> Networks:
    """The networks sorted.

    Args:
        space: of the networks.
        networks: `(point, counts)` of each.
        columns: names of counts and arguments, the one that matters most first; one with `-` before it falls.

    Raises:
        ValueError: a column is neither a count that this space has nor an argument.
    """
    counted, arguments = _columns(space)
    for column in reversed(columns):
        name = column.removeprefix("-")
        _checks.one_of("sort", name, (*counted, *arguments))

        def key(entry, name=name):
            point, counts = entry
            value = getattr(counts, name) if name in COUNTS else point.get(name)
            # Networks without the argument, or with `None` for it, come first.
            return value is not None, value

        networks = sorted(networks, key=key, reverse=column.startswith("-"))
    return networks


def _text(value: object) -> str:
    """One cell: the three stages `((8, 8), (16, 16), (32, 32))` as `8x8 16x16 32x32`."""
    if isinstance(value, tuple):
        return " ".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def table(space: Space, networks: Networks) -> str:
    """The networks as text, one line each, the counts first."""
    counted, arguments = _columns(space)
    rows = [[_TITLES.get(name, name) for name in (*counted, *arguments)]]
    for point, counts in networks:
        numbers = [f"{counts.stored_parameters:,}", f"{counts.multiply_adds:,}"]
        numbers += [_text(getattr(counts, name)) for name in counted[2:]]
        rows.append([*numbers, *(_text(point.get(name)) for name in arguments)])
    return text_table(rows)


def column_notes(space: Space) -> list[str]:
    """What the columns of [`table`] mean, one after the other: arguments as the factories of the space have them."""
    counted, arguments = _columns(space)
    documented: dict[str, dict[str, str]] = {}
    for kind, network in space.networks.items():
        found = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", find_variant(network).factory_documentation, re.M | re.S)
        for names, meaning in re.findall(
            r"^ {4}([\w, ]+): (.*?)(?=^ {4}\S|\Z)", found[1] if found else "", re.M | re.S
        ):
            # To the end of the sentence, or a semicolon outside of parentheses.
            sentence = re.split(r"\.\s|\.$|; (?![^(]*\))", " ".join(meaning.split()))[0]
            for name in names.split(", "):
                documented.setdefault(name, {}).setdefault(sentence, kind)
    meanings = {name: _alternatives(sentences) for name, sentences in documented.items()}
    meanings |= {name: f" {meaning}" for name, meaning in _MEANINGS.items()}
    return [f"{_TITLES.get(name, name)}:{meanings[name]}" for name in (*counted, *arguments) if name in meanings]


def _alternatives(sentences: dict[str, str]) -> str:
    """The meaning of an argument, or if kinds of networks differ in it, a line for each meaning."""
    if len(sentences) == 1:
        return f" {next(iter(sentences))}"
    return "".join(f"\n  in {kind}: {sentence}" for sentence, kind in sentences.items())


def to_dicts(space: Space, networks: Networks) -> list[dict[str, Any]]:
    """Each network with its counts, and what builds it: `create_model(name, **arguments)`."""
    found = []
    for point, counts in networks:
        name, arguments = named(space, point)
        measured = {key: value for key, value in dataclasses.asdict(counts).items() if value is not None}
        found.append({**measured, "name": name, "arguments": arguments})
    return found
