"""Sizes and costs of networks from a stored table, since building all of them takes minutes.

`tools/count_networks.py` writes the table.
"""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import functools
import io
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from keras_sharenets import files
from keras_sharenets.models.registry import find_variant
from keras_sharenets.models.weights import list_trained

TABLE = pathlib.Path(__file__).with_name("counts.csv")
_COLUMNS = (
    "stored_parameters",
    "effective_parameters",
    "non_trainable_parameters",
    "counted_parameters",
    "multiply_adds",
    "int8_bytes",
)


@dataclasses.dataclass(frozen=True)
class NetworkCounts:
    """Size and cost of the network that `create_model(model, **arguments)` builds.

    Attributes:
        model: name of the network.
        arguments: arguments in addition to the name.
        input_shape: `(height, width, channels)`.
        num_classes: number of classes.
        stored_parameters, effective_parameters, non_trainable_parameters, multiply_adds: as in its profile.
        counted_parameters: number of parameters by the rule of its paper (`Variant.count_rule`).
        int8_bytes: size of the int8 file with random weights; files of trained networks have 0.90 to 1.06 times this
            size. `None` if no file was written, as for networks with very many multiply-adds.
    """

    model: str
    arguments: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    num_classes: int
    stored_parameters: int
    effective_parameters: int
    non_trainable_parameters: int
    counted_parameters: int
    multiply_adds: int
    int8_bytes: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments except for the image shape and the number of classes."""
        return {key: value for key, value in self.arguments.items() if key not in ("num_classes", "input_shape")}


def list_counts(pattern: str = "*") -> list[NetworkCounts]:
    """Sizes and costs of the networks that match a shell pattern, from a stored table, sorted by name.

    The list has every network as `create_model(name)` builds it, and the pretrained ones also with their options.

    >>> [(each.model, each.stored_parameters) for each in list_counts("hscnet_m32*")]
    [('hscnet_m32_g4_r2_b1_a2', 50922)]
    """
    trained = {_key(each.model, each.options, each.input_shape, len(each.class_names)) for each in list_trained()}
    return [
        each
        for key, each in stored_counts().items()
        if fnmatch.fnmatch(each.model, pattern) and (not each.arguments or key in trained)
    ]


def find_counts(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> NetworkCounts | None:
    """Size and cost of a named network with these factory options; `None` if it is not in the table.

    >>> find_counts("resnet_8", {}, (32, 32, 3), 10).stored_parameters
    78186
    """
    return stored_counts().get(_key(name, options, input_shape, num_classes))


def counts_of(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> NetworkCounts:
    """Like [`find_counts`], but builds and counts a network that is not in the table, without its int8 file."""
    stored = find_counts(name, options, input_shape, num_classes)
    if stored is not None:
        return stored
    from keras_sharenets.analysis.catalog import count_network

    return count_network(name, options, input_shape, num_classes)


def arguments_of(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> dict[str, Any]:
    """The arguments of `create_model` for a network in addition to its name, without those that equal the default."""
    first = find_variant(name).configurations[0]
    arguments = {key: files.as_tuples(value) for key, value in options.items()}
    if num_classes != first.num_classes:
        arguments["num_classes"] = num_classes
    if tuple(input_shape) != first.input_shape:
        arguments["input_shape"] = tuple(input_shape)
    return arguments


def _key(name: str, options: Mapping[str, Any], input_shape: Iterable[int], num_classes: int) -> tuple[str, ...]:
    return name, json.dumps(dict(options)), "x".join(map(str, input_shape)), str(num_classes)


@functools.cache
def stored_counts() -> Mapping[tuple[str, ...], NetworkCounts]:
    """The whole table, keyed by network, options, image shape and number of classes."""
    found = {}
    with TABLE.open(encoding="utf-8", newline="") as table:
        for name, options, images, classes, *numbers, int8_bytes in list(csv.reader(table))[1:]:
            height, width, channels = map(int, images.split("x"))
            shape = height, width, channels
            arguments = arguments_of(name, json.loads(options), shape, int(classes))
            counts = NetworkCounts(name, arguments, shape, int(classes), *map(int, numbers))
            size = int(int8_bytes) if int8_bytes else None
            found[name, options, images, classes] = dataclasses.replace(counts, int8_bytes=size)
    return found


def write_counts(counts: Iterable[NetworkCounts]) -> None:
    """Replaces the table."""
    lines = {}
    for each in counts:
        key = _key(each.model, each.options, each.input_shape, each.num_classes)
        lines[key] = [*key, *(getattr(each, name) for name in _COLUMNS)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "options", "images", "classes", *_COLUMNS])
    writer.writerows(lines[key] for key in sorted(lines))
    files.write_text(TABLE, text.getvalue())
    stored_counts.cache_clear()
