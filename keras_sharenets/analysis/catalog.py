"""All named networks, with their counts and those printed in their papers."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.profile import profile
from keras_sharenets.models.counts import NetworkCounts, arguments_of, counts_of
from keras_sharenets.models.registry import FAMILIES, create_model, find_family, find_variant
from keras_sharenets.models.variant import Configuration, printed_count
from keras_sharenets.rendering.tables import markdown_table

BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"
_HEADER = (
    "name",
    "input",
    "classes",
    "stored",
    "effective",
    "multiply-adds",
    "as counted there",
    "paper",
    "difference",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One configuration of one named network.

    Attributes:
        name, family: str.
        input_shape: `(height, width, channels)`.
        num_classes: int.
        stored_parameters, effective_parameters, multiply_adds: int, as in its profile.
        count_rule: str, what the paper counts, a key of `keras_sharenets.analysis.counting.RULES`.
        counted_parameters: int, number of parameters by that rule.
        published: str as printed in the paper, or `None`.
        difference: float, relative difference of the count (or the ratio) from the published one, or `None`.
        note: str.
    """

    name: str
    family: str
    input_shape: tuple[int, int, int]
    num_classes: int
    stored_parameters: int
    effective_parameters: int
    multiply_adds: int
    count_rule: str
    counted_parameters: int
    published: str | None
    difference: float | None
    note: str


def entries(names: Iterable[str]) -> Iterator[Entry]:
    """Yields an `Entry` for every configuration of the named networks.

    Networks that are not in the table of `keras_sharenets.models.counts` are built, which takes a while.

    Args:
        names: iterable of names of `keras_sharenets.list_models()`.

    Raises:
        ValueError: a name is unknown. The message suggests similar names.

    >>> [(entry.stored_parameters, entry.multiply_adds) for entry in entries(["hscnet_m32_g4_r2_b1_a2"])]
    [(50922, 13026560)]
    """
    for name in names:
        for configuration in find_variant(name).configurations:
            yield _entry(name, configuration)


def _entry(name: str, configuration: Configuration) -> Entry:
    variant, counts = find_variant(name), _counts_of(name, configuration)
    return Entry(
        name=name,
        family=find_family(name),
        input_shape=configuration.input_shape,
        num_classes=configuration.num_classes,
        stored_parameters=counts.stored_parameters,
        effective_parameters=counts.effective_parameters,
        multiply_adds=counts.multiply_adds,
        count_rule=variant.count_rule,
        counted_parameters=counts.counted_parameters,
        published=configuration.published,
        difference=_difference(configuration, counts.counted_parameters),
        note=variant.note,
    )


def _counts_of(name: str, configuration: Configuration) -> NetworkCounts:
    return counts_of(name, {}, configuration.input_shape, configuration.num_classes)


def count_network(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> NetworkCounts:
    """Builds and counts a named network with these factory options. Its int8 file is not written."""
    model = create_model(name, num_classes=num_classes, input_shape=input_shape, **options)
    counts = profile(model)
    return NetworkCounts(
        model=name,
        arguments=arguments_of(name, options, input_shape, num_classes),
        input_shape=input_shape,
        num_classes=num_classes,
        stored_parameters=counts.stored_parameters,
        effective_parameters=counts.effective_parameters,
        non_trainable_parameters=counts.non_trainable_parameters,
        counted_parameters=count_parameters(model, find_variant(name).count_rule),
        multiply_adds=counts.multiply_adds,
    )


def _difference(configuration: Configuration, counted: int) -> float | None:
    """Relative difference of a count, or of a ratio of two counts, from the published one."""
    published, baseline = configuration.published, configuration.baseline
    if published is None:
        return None
    if baseline is not None:  # "C=6.5"
        return _counts_of(baseline, configuration).counted_parameters / counted / float(published[2:]) - 1
    return counted / printed_count(published) - 1


def _cells(entry: Entry) -> tuple[str, ...]:
    difference = "" if entry.difference is None else f"{100 * entry.difference:+.1f} %".replace("-0.0", "+0.0")
    return (
        f"`{entry.name}`",
        "x".join(map(str, entry.input_shape)),
        str(entry.num_classes),
        f"{entry.stored_parameters:,}",
        f"{entry.effective_parameters:,}",
        f"{entry.multiply_adds / 1e6:,.1f} M",
        f"{entry.counted_parameters:,}",
        entry.published or "",
        difference,
    )


def to_markdown(listed: Iterable[Entry]) -> str:
    """Formats one table per family, with the title of its paper.

    Args:
        listed: iterable of `Entry`.

    Returns:
        A str that ends with a newline.
    """
    listed = list(listed)
    blocks = []
    for name, family in FAMILIES.items():
        rows = [entry for entry in listed if entry.family == name]
        if not rows:
            continue
        notes = dict.fromkeys(f"- `{entry.name}`: {entry.note}." for entry in rows if entry.note)
        table = markdown_table([_HEADER, *map(_cells, rows)], align="ll" + "r" * (len(_HEADER) - 2))
        blocks.append(f"**{family.paper}**\n\n{table}")
        if notes:
            blocks.append("\n".join(notes))
    return "\n\n".join(blocks) + "\n"


def replace_table(text: str, table: str, *, begin: str = BEGIN, end: str = END) -> str:
    """Replaces the text between two markers by `table`.

    Raises:
        ValueError: a marker is missing or occurs twice.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"The text must have the markers {begin} and {end} once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}{end}{rest.split(end)[1]}"
