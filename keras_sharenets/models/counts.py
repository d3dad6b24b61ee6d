"""What networks cost, from a stored table: to build all of them takes minutes. `tools/count_networks.py` writes it."""

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
    """What a network costs that `create_model(model, **arguments)` builds.

    Attributes:
        model: its name.
        arguments: beside the name.
        input_shape: `(height, width, channels)`.
        num_classes: number of classes.
        stored_parameters, effective_parameters, non_trainable_parameters, multiply_adds: those of its profile.
        counted_parameters: by the rule of its paper (`Variant.count_rule`).
        int8_bytes: size of the int8 file of random weights; those of trained networks have 0.90 to 1.06 of it. `None`
            where no file was made, as of networks of very many multiply-adds.
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
        """The arguments but for the images and the classes."""
        return {key: value for key, value in self.arguments.items() if key not in ("num_classes", "input_shape")}


def list_counts(pattern: str = "*") -> list[NetworkCounts]:
    """What the networks cost whose names match a shell pattern, from a table: nothing is built.

    Every network is there as `create_model(name)` builds it, those that come trained also as `weights=...` does, sorted
    by name.

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
    """What a named network with these options of its factory costs; `None` if it is not in the table.

    >>> find_counts("resnet_8", {}, (32, 32, 3), 10).stored_parameters
    78186
    """
    return stored_counts().get(_key(name, options, input_shape, num_classes))


def counts_of(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> NetworkCounts:
    """As [`find_counts`]; a network that is not in the table is built and counted, but for its int8 file."""
    stored = find_counts(name, options, input_shape, num_classes)
    if stored is not None:
        return stored
    from keras_sharenets.analysis.catalog import count_network

    return count_network(name, options, input_shape, num_classes)


def arguments_of(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> dict[str, Any]:
    """The arguments beside its name with which `create_model` builds a network: those that are not the default."""
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
    """All of the table, by network, options, images and classes."""
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
