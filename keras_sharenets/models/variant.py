"""Named networks: a factory, its arguments, and the figures of the paper."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def printed_count(text: str) -> float:
    """Converts a number of parameters as printed in a paper.

    >>> printed_count("1.8M"), printed_count("9.3K")
    (1800000.0, 9300.0)
    """
    return float(text[:-1]) * {"K": 1e3, "M": 1e6}[text[-1]]


def network_label(name: str, options: Mapping[str, Any]) -> str:
    """The name of a network with its options.

    >>> network_label("sl3_resnet_64", {"width": 40})
    'sl3_resnet_64 width=40'
    """
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


# Most families have these; a family without one states the reason.
OPTIONAL = ("recipe", "search space", "unshared baseline")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """An image shape and a number of classes for which a paper counts a named network; some papers have several.

    Attributes:
        num_classes: number of classes.
        input_shape: `(height, width, channels)`.
        published: number of parameters as printed in the paper (`"1.8M"`, `"9.3K"`), or the compression ratio relative
            to `baseline` (`"C=6.5"`); `None` if the paper prints neither.
        baseline: name of the network that `"C=..."` refers to, with the same number of classes.
    """

    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)
    published: str | None = None
    baseline: str | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named network.

    Attributes:
        factory_name: name of `factory` in `keras_sharenets.models`. A name, so that tables of networks need no Keras.
        arguments: arguments of `factory` that define this variant, without `num_classes` and `input_shape`.
        configurations: configurations in the paper; `create_model` builds the first by default.
        count_rule: what the paper counts, a key of `keras_sharenets.analysis.counting.RULES`.
        note: one-line remark for tables.
        unshared: name of the unshared baseline: the named network with the same layers, none of them shared. `None` if
            there is no such network, or if this one shares nothing itself.
    """

    factory_name: str
    arguments: Mapping[str, Any]
    configurations: tuple[Configuration, ...] = (Configuration(),)
    count_rule: str = "trainable"
    note: str = ""
    unshared: str | None = None

    @property
    def factory(self) -> Callable[..., keras.Model]:
        """The function with keyword-only arguments that returns a functional `keras.Model`."""
        return getattr(importlib.import_module("keras_sharenets.models"), self.factory_name)

    @property
    def factory_documentation(self) -> str:
        """The docstring of `factory`, read from its source: importing it would import Keras and take seconds."""
        from keras_sharenets.models import _home_of

        home = _home_of(self.factory_name)
        spec = None if home is None else importlib.util.find_spec(home)
        if spec is None or spec.origin is None:
            return ""
        tree = ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        return next(ast.get_docstring(node) or "" for node in functions if node.name == self.factory_name)


@dataclasses.dataclass(frozen=True)
class Family:
    """The networks of one paper.

    Attributes:
        paper: title and source of the paper.
        variants: its networks by name.
        representative: name of one variant, and arguments that make it small: the network that represents the family
            in tests of all families.
        without: entries of `OPTIONAL` that the family does not have, each with the reason.
    """

    paper: str
    variants: Mapping[str, Variant]
    representative: tuple[str, Mapping[str, Any]]
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)
