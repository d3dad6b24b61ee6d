"""Parameters and multiply-adds of the papers' networks, from a stored table: to build them all takes minutes."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Iterable, Mapping

from keras_sharenets import files
from keras_sharenets.models.registry import create_model, find_variant
from keras_sharenets.training.papers.entries import DATA, Paper, Row, image_shape, papers

TABLE = pathlib.Path(__file__).with_name("counts.csv")
Key = tuple[str, str, str, str]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network stores and computes.

    Attributes:
        stored_parameters: trainable, each shared tensor once.
        counted_parameters: by the rule of the network's own paper (`Variant.count_rule`).
        multiply_adds: of one image.
    """

    stored_parameters: int
    counted_parameters: int
    multiply_adds: int


def counts_of(paper: Paper, row: Row) -> Counts:
    """Those of a row that has a network: stored ones, or of the network, which is built where none are stored."""
    return stored_counts().get(key_of(paper, row)) or count_network(key_of(paper, row))


def key_of(paper: Paper, row: Row) -> Key:
    """Name, options, image shape and classes of the network of a row, as the stored table has them."""
    return (
        row.network or "",
        json.dumps(dict(row.options)),
        "x".join(map(str, image_shape(paper, row))),
        str(DATA[row.data].classes),
    )


@functools.cache
def stored_counts() -> Mapping[Key, Counts]:
    """The stored table."""
    with TABLE.open(encoding="utf-8", newline="") as table:
        lines = list(csv.reader(table))[1:]
    return {(name, options, shape, classes): Counts(*map(int, rest)) for name, options, shape, classes, *rest in lines}


def count_network(key: Key) -> Counts:
    """Builds the network of a key and counts."""
    from keras_sharenets.analysis.counting import count_parameters
    from keras_sharenets.analysis.profile import profile

    name, options, shape, classes = key
    sizes = {"input_shape": tuple(map(int, shape.split("x"))), "num_classes": int(classes)}
    model = create_model(name, **sizes, **json.loads(options))
    counts = profile(model)
    counted = count_parameters(model, find_variant(name).count_rule)
    return Counts(counts.stored_parameters, counted, counts.multiply_adds)


def wanted() -> list[Key]:
    """The keys of all rows that have a network, each once, in the order of the papers."""
    pairs = ((paper, row) for paper in papers().values() for entry in paper.entries for row in entry.rows)
    return list(dict.fromkeys(key_of(paper, row) for paper, row in pairs if row.network))


def write_counts(counts: Iterable[tuple[Key, Counts]]) -> None:
    """Replaces the stored table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = [field.name for field in dataclasses.fields(Counts)]
    writer.writerow(["network", "options", "images", "classes", *fields])
    writer.writerows([*key, *dataclasses.astuple(each)] for key, each in counts)
    files.write_text(TABLE, text.getvalue())
