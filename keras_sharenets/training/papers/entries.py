"""The tables and figures of papers as data: rows, their networks, and the published numbers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from keras_sharenets.models import counts
from keras_sharenets.models.counts import NetworkCounts
from keras_sharenets.models.registry import find_family
from keras_sharenets.training.recipes.named import RECIPES, recipe_for
from keras_sharenets.training.recipes.recipe import Recipe

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of the papers: its published name, image shape, number of classes and number of training images."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    images: int


DATA = {
    "cifar10": Data("CIFAR-10", (32, 32, 3), 10, 50_000),
    "cifar100": Data("CIFAR-100", (32, 32, 3), 100, 50_000),
    "tiny_imagenet": Data("Tiny ImageNet", (64, 64, 3), 200, 100_000),
    "cinic10": Data("CINIC-10", (32, 32, 3), 10, 90_000),
    "imagenet32": Data("ImageNet 32x32", (32, 32, 3), 1000, 1_281_167),
    "imagenet": Data("ImageNet", (224, 224, 3), 1000, 1_281_167),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A network on a data set in a paper.

    Attributes:
        label: name in the paper.
        network: the corresponding named network, or `None` if there is none, for the reason in `note`.
        data: key of `DATA`.
        printed: published top-1 accuracy in percent, with any "±" deviation; `None` if not published.
        top5: the same for top-5 accuracy.
        is_error: whether both are error rates.
        parameters, multiply_adds: published counts, rounded as in the paper; `None` if not published.
        options: arguments of the network's factory.
        recipe: name of the recipe, if it differs from the paper's recipe for this data set.
        note: remark on the row.
        series: line of the row in a figure.
        at: horizontal position in a figure, unless it is a count.
        sizes: values computed from the options, by name; shown and plotted with the results.
    """

    label: str
    network: str | None
    data: str
    printed: str | None = None
    top5: str | None = None
    is_error: bool = False
    parameters: str | None = None
    multiply_adds: str | None = None
    options: Options = dataclasses.field(default_factory=dict)
    recipe: str | None = None
    note: str = ""
    series: str = ""
    at: float | None = None
    sizes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def accuracy(self) -> Decimal | None:
        """Top-1 accuracy in percent, with the digits of the paper."""
        return _accuracy(self.printed, self.is_error)

    @property
    def top5_accuracy(self) -> Decimal | None:
        """Top-5 accuracy in percent, with the digits of the paper."""
        return _accuracy(self.top5, self.is_error)

    @property
    def deviation(self) -> Decimal | None:
        """The published deviation, after "±"."""
        parts = (self.printed or "").split(" ± ")
        return Decimal(parts[1]) if len(parts) == 2 else None


def _accuracy(printed: str | None, is_error: bool) -> Decimal | None:
    if printed is None:
        return None
    value = Decimal(printed.split(" ± ")[0])
    return 100 - value if is_error else value


@dataclasses.dataclass(frozen=True)
class Entry:
    """A table or a figure, or a part of one.

    Attributes:
        key: `"table2"`, `"figure4b"`.
        title: short description in our words.
        rows: rows; empty if nothing is trained or counted, for the reason in `note`.
        note: remark on the entry.
        across: horizontal axis of its plot: `"parameters"`, `"compression"` (parameters of `baseline` divided by those
            of the row), `"epochs"`, or a label for the rows' `at`.
        baseline: reference network of the compression.
        also: further panels below the accuracies, over the same axis: names of the rows' `sizes`, or `"parameters"`.
        analysis: options for `sharenets analyze` to plot it from runs, if it shows weights or activations instead of
            accuracies.
    """

    key: str
    title: str
    rows: tuple[Row, ...] = ()
    note: str = ""
    across: str = "parameters"
    baseline: str | None = None
    also: tuple[str, ...] = ()
    analysis: str = ""

    @property
    def name(self) -> str:
        """The key as written in text, `"table 2"`."""
        return re.sub(r"(\d)", r" \1", self.key, count=1)


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        name: short name.
        entries: its tables and figures, in order.
        recipes: maps a data set to the name of the recipe for all rows on it, including peers. Other data sets use the
            recipe of the network, `recipe_for`.
        ahead: pairs of networks; in the paper, the first is more accurate than the second.
    """

    name: str
    entries: tuple[Entry, ...]
    recipes: Mapping[str, str]
    ahead: tuple[tuple[str, str], ...] = ()


def rows(label: str, network: str | None, parameters: str | None = None, **more: Any) -> tuple[Row, ...]:
    """The rows of a network, one per data set.

    Args:
        label, network, parameters: as in `Row`.
        **more: further fields of `Row`; and for each data set the published number, or a pair with the top-5 number.

    >>> [(row.data, row.accuracy) for row in rows("A", "resnet_8", cifar10="5.5", cifar100=None, is_error=True)]
    [('cifar10', Decimal('94.5')), ('cifar100', None)]
    """
    common = {name: value for name, value in more.items() if name not in DATA}
    made = []
    for data, printed in more.items():
        if data in DATA:
            top1, top5 = printed if isinstance(printed, tuple) else (printed, None)
            made.append(Row(label, network, data, top1, top5, parameters=parameters, **common))
    return tuple(made)


def recipe_of(paper: Paper, row: Row) -> Recipe:
    """The training recipe of a row with a network, determined by the row, the paper or the network."""
    name = row.recipe or paper.recipes.get(row.data)
    return RECIPES[name] if name else recipe_for(_network(row), row.data)


def image_shape(paper: Paper, row: Row) -> tuple[int, int, int]:
    """`(height, width, channels)` of the input of a row's network: the size of a crop if the recipe crops."""
    height, width, channels = DATA[row.data].shape
    size = recipe_of(paper, row).crop_size if row.network else 0
    return (size or height, size or width, channels)


def configuration_of(paper: Paper, row: Row) -> tuple[str, Options, tuple[int, int, int], int]:
    """Name, options, image shape and number of classes of the network of a row."""
    return _network(row), row.options, image_shape(paper, row), DATA[row.data].classes


def counts_of(paper: Paper, row: Row) -> NetworkCounts:
    """Counts of the network of a row; the network is built if no counts are stored."""
    return counts.counts_of(*configuration_of(paper, row))


def _network(row: Row) -> str:
    if row.network is None:
        raise ValueError(f"There is no network for {row.label!r}: {row.note}.")
    return row.network


# The paper of a family of networks, if its key differs.
_OF_FAMILY = {"igcnet": "igcv2", "mobile_baselines": "hscnet"}


def printed_for(network: str, data: str) -> tuple[Paper, Entry, Row] | None:
    """The published accuracy of a named network: the first row with an accuracy.

    Rows of the network's own paper take precedence, then rows for this data set.

    >>> paper, entry, row = printed_for("igcv2_c64_d8", "cifar10")
    >>> paper.name, entry.key, row.data, row.printed
    ('IGC-V2', 'table4', 'cifar100', '67.83 ± 0.35')
    """
    family = find_family(network)
    own = papers()[_OF_FAMILY.get(family, family)]
    found = [
        (paper, entry, row)
        for paper in papers().values()
        for entry in paper.entries
        for row in entry.rows
        if row.network == network and not row.options and row.printed is not None
    ]
    return min(found, key=lambda each: (each[0] is not own, each[2].data != data), default=None)


@functools.cache
def papers() -> Mapping[str, Paper]:
    """All papers by key."""
    from keras_sharenets.training.papers import hgcnet, hscnet, igcv2, shardnet, sharesnet

    modules = {"hscnet": hscnet, "hgcnet": hgcnet, "igcv2": igcv2, "sharesnet": sharesnet, "shardnet": shardnet}
    return {key: module.PAPER for key, module in modules.items()}
