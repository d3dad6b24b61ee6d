"""What a named network is: a factory, its arguments, and what its paper says of it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets.models.homes import home_of

if TYPE_CHECKING:
    import keras


def printed_count(text: str) -> float:
    """Parameters as papers print them, as a number.

    >>> printed_count("1.8M"), printed_count("9.3K")
    (1800000.0, 9300.0)
    """
    return float(text[:-1]) * {"K": 1e3, "M": 1e6}[text[-1]]


# What most families have; one without it says why.
OPTIONAL = ("recipe", "search space", "unshared baseline")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The images and classes that a paper counts a named network for; some are counted for several data sets.

    Attributes:
        num_classes: number of classes.
        input_shape: `(height, width, channels)`.
        published: the parameters as the paper prints them (`"1.8M"`, `"9.3K"`), or how many times fewer they are than
            those of `baseline` (`"C=6.5"`); `None` where it prints neither.
        baseline: name of the network that `"C=..."` compares with, with as many classes.
    """

    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)
    published: str | None = None
    baseline: str | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named network.

    Attributes:
        factory_name: the name in `keras_sharenets.models` of `factory`. A name, so that a table of networks is there
            without Keras.
        arguments: those arguments of `factory` that make this variant, beside `num_classes` and `input_shape`.
        configurations: `create_model` builds the first unless told otherwise.
        count_rule: what the paper counts, a key of `keras_sharenets.analysis.counting.RULES`.
        note: one line for the reader of a table.
        unshared: name of the unshared baseline: the named network that has the same layers, but shares none of them.
            `None` where there is none of that name, or where this one shares nothing itself.
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
        """The docstring of `factory`, read from its source: to import it would take Keras, and seconds."""
        home = home_of(self.factory_name)
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
        paper: its title and origin.
        variants: its networks by name.
        representative: the name of one of them, and arguments that make it small: the network that stands for the
            family where every family is tried.
        without: what the family does without, a key of `OPTIONAL`, with the reason.
    """

    paper: str
    variants: Mapping[str, Variant]
    representative: tuple[str, Mapping[str, Any]]
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)
