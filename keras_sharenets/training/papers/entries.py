"""What a table or figure of a paper is, as data: its rows, the networks that stand for them, and what is printed."""

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
    """A data set of the papers: its name there, the shape of its images, its classes, and its images to train with."""

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
    """A network on a data set, as a paper has it.

    Attributes:
        label: what the paper calls it.
        network: the named network that it is, or `None`: `note` says why there is none.
        data: key of `DATA`.
        printed: top-1 accuracy in per cent as it stands there, with what follows "±"; `None` where none is printed.
        top5: the same for top-5.
        is_error: whether both are error rates.
        parameters, multiply_adds: as printed, rounded as there; `None` where they are not.
        options: arguments of the network's factory.
        recipe: name of another recipe than the paper's for this data set.
        note: what there is to know of it.
        series: the line that the row belongs to in a figure.
        at: its place across in a figure, if that is no count.
        sizes: what follows from its options by arithmetic, by name: shown and drawn beside what is trained.
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
        """Top-1 accuracy in per cent, with the digits of the paper."""
        return _accuracy(self.printed, self.is_error)

    @property
    def top5_accuracy(self) -> Decimal | None:
        """Top-5 accuracy in per cent, with the digits of the paper."""
        return _accuracy(self.top5, self.is_error)

    @property
    def deviation(self) -> Decimal | None:
        """What is printed after "±"."""
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
        title: what it shows, in our words.
        rows: empty where nothing is trained or counted: `note` says why.
        note: what there is to know of it.
        across: what its plot has on its lower axis: `"parameters"`, `"compression"` (how many times fewer parameters
            than `baseline` has), `"epochs"`, or words for the rows' `at`.
        baseline: the network that a compression is measured against.
        also: what its plot has below the accuracies, over the same axis: names of the rows' `sizes`, or
            `"parameters"`.
        analysis: options with which `sharenets analyze` draws it of runs, if it shows weights or activations: it has no
            plot of accuracies.
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
        """The key as it is written in a text, `"table 2"`."""
        return re.sub(r"(\d)", r" \1", self.key, count=1)


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        name: short for its title.
        entries: its tables and figures, in order.
        recipes: data set to the name of the recipe by which all its rows are trained there, peers too. For other data
            sets it is that of the network, `recipe_for`.
        ahead: pairs of networks of which the paper puts the first above the second.
    """

    name: str
    entries: tuple[Entry, ...]
    recipes: Mapping[str, str]
    ahead: tuple[tuple[str, str], ...] = ()


def rows(label: str, network: str | None, parameters: str | None = None, **more: Any) -> tuple[Row, ...]:
    """The rows of a network, one a data set.

    Args:
        label, network, parameters: as in `Row`.
        **more: further fields of `Row`; and a data set to what is printed for it, a pair with the top-5 figure where
            there is one.

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
    """The recipe by which a row that has a network is trained: by paper and data set."""
    name = row.recipe or paper.recipes.get(row.data)
    return RECIPES[name] if name else recipe_for(_network(row), row.data)


def image_shape(paper: Paper, row: Row) -> tuple[int, int, int]:
    """`(height, width, channels)` of what the network of a row is given: a crop, if the recipe has crops."""
    height, width, channels = DATA[row.data].shape
    size = recipe_of(paper, row).crop_size if row.network else 0
    return (size or height, size or width, channels)


def configuration_of(paper: Paper, row: Row) -> tuple[str, Options, tuple[int, int, int], int]:
    """Name, options, image shape and number of classes of the network of a row."""
    return _network(row), row.options, image_shape(paper, row), DATA[row.data].classes


def counts_of(paper: Paper, row: Row) -> NetworkCounts:
    """What the network of a row costs; it is built where no counts are stored."""
    return counts.counts_of(*configuration_of(paper, row))


def _network(row: Row) -> str:
    if row.network is None:
        raise ValueError(f"There is no network for {row.label!r}: {row.note}.")
    return row.network


# The paper that a family of networks is from, where its key is another one.
_OF_FAMILY = {"igcnet": "igcv2", "mobile_baselines": "hscnet"}


def printed_for(network: str, data: str) -> tuple[Paper, Entry, Row] | None:
    """What the papers print of a named network: the first row that has an accuracy, of its own paper and for this data
    set if there is one, else of another.

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
    """All papers by their keys."""
    from keras_sharenets.training.papers import hgcnet, hscnet, igcv2, shardnet, sharesnet

    modules = {"hscnet": hscnet, "hgcnet": hgcnet, "igcv2": igcv2, "sharesnet": sharesnet, "shardnet": shardnet}
    return {key: module.PAPER for key, module in modules.items()}
