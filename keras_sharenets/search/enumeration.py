"""Lists all networks of a space within a budget without building or training them."""

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
    "density": "lowest fraction of input-output pairs that a block connects; 1 is dense",
    "one_path": "whether each connected pair has exactly one path",
    "network": "kind of network; --json gives the name to pass to create_model",
}
_TITLES = {"stored_parameters": "parameters", "multiply_adds": "multiply-adds", "one_path": "one path"}

Networks = list[tuple[Point, Counts]]


def networks_within(
    space: Space, budget: Budget, *, input_shape: Shape = IMAGE, num_classes: int = 10
) -> tuple[int, Networks]:
    """All networks of a space within a budget, in the order of the space.

    Returns:
        The number of networks considered, and `(point, counts)` of those within the budget.

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
    """The names of the counts of a space, and of its arguments."""
    counted = COUNTS if space.connections else COUNTS[:2]
    return counted, tuple(dict.fromkeys(choice.argument for choice in space.choices))


def ordered(space: Space, networks: Networks, columns: Sequence[str]) -> Networks:
    """The networks, sorted.

    Args:
        space: space of the networks.
        networks: `(point, counts)` of each network.
        columns: names of counts and arguments, most significant first; a leading `-` sorts in descending order.

    Raises:
        ValueError: a column is neither a count nor an argument of this space.
    """
    counted, arguments = _columns(space)
    for column in reversed(columns):
        name = column.removeprefix("-")
        _checks.one_of("sort", name, (*counted, *arguments))

        def key(entry, name=name):
            point, counts = entry
            value = getattr(counts, name) if name in COUNTS else point.get(name)
            # Networks whose argument is missing or `None` come first.
            return value is not None, value

        networks = sorted(networks, key=key, reverse=column.startswith("-"))
    return networks


def _text(value: object) -> str:
    """The text of a cell: `((8, 8), (16, 16), (32, 32))` becomes `8x8 16x16 32x32`."""
    if isinstance(value, tuple):
        return " ".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def table(space: Space, networks: Networks) -> str:
    """The networks as a text table, one line each, counts first."""
    counted, arguments = _columns(space)
    rows = [[_TITLES.get(name, name) for name in (*counted, *arguments)]]
    for point, counts in networks:
        numbers = [f"{counts.stored_parameters:,}", f"{counts.multiply_adds:,}"]
        numbers += [_text(getattr(counts, name)) for name in counted[2:]]
        rows.append([*numbers, *(_text(point.get(name)) for name in arguments)])
    return text_table(rows)


def column_notes(space: Space) -> list[str]:
    """Descriptions of the columns of [`table`]; those of arguments come from the docstrings of the factories."""
    counted, arguments = _columns(space)
    documented: dict[str, dict[str, str]] = {}
    for kind, network in space.networks.items():
        found = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", find_variant(network).factory_documentation, re.M | re.S)
        for names, meaning in re.findall(
            r"^ {4}([\w, ]+): (.*?)(?=^ {4}\S|\Z)", found[1] if found else "", re.M | re.S
        ):
            # Up to the end of the sentence, or to a semicolon outside parentheses.
            sentence = re.split(r"\.\s|\.$|; (?![^(]*\))", " ".join(meaning.split()))[0]
            for name in names.split(", "):
                documented.setdefault(name, {}).setdefault(sentence, kind)
    meanings = {name: _alternatives(sentences) for name, sentences in documented.items()}
    meanings |= {name: f" {meaning}" for name, meaning in _MEANINGS.items()}
    return [f"{_TITLES.get(name, name)}:{meanings[name]}" for name in (*counted, *arguments) if name in meanings]


def _alternatives(sentences: dict[str, str]) -> str:
    """The description of an argument, or one line for each description if kinds of networks differ."""
    if len(sentences) == 1:
        return f" {next(iter(sentences))}"
    return "".join(f"\n  in {kind}: {sentence}" for sentence, kind in sentences.items())


def to_dicts(space: Space, networks: Networks) -> list[dict[str, Any]]:
    """Each network with its counts, and `name` and `arguments` for `create_model(name, **arguments)`."""
    found = []
    for point, counts in networks:
        name, arguments = named(space, point)
        measured = {key: value for key, value in dataclasses.asdict(counts).items() if value is not None}
        found.append({**measured, "name": name, "arguments": arguments})
    return found
