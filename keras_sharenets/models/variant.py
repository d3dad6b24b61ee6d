"""What a named network is: a factory, its arguments, and what its paper says of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Form:
    """One size of a named network: a paper counts some networks for several data sets.

    Attributes:
        num_classes: int.
        input_shape: `(height, width, channels)`.
        paper_figure: the parameters as the paper prints them (`"1.8M"`, `"9.3K"`), or how many times fewer they are
            than those of `baseline` (`"C=6.5"`); `None` where it prints neither.
        baseline: name of the network that `"C=..."` compares with, with as many classes.
    """

    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)
    paper_figure: str | None = None
    baseline: str | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named network.

    Attributes:
        factory: function with keyword-only arguments that returns a functional `keras.Model`.
        arguments: those arguments of `factory` that make this variant, beside `num_classes` and `input_shape`.
        forms: tuple of `Form`; `create_model` builds the first unless told otherwise.
        count_rule: what the paper's figures count, a key of `keras_sharenets.analysis.counting.RULES`.
        note: one line for the reader of a table.
        unshared: name of the unshared baseline: the named network that has the same layers, but shares none of them.
            `None` where there is none of that name, or where this one shares nothing itself.
    """

    factory: Callable
    arguments: Mapping[str, Any]
    forms: tuple[Form, ...] = (Form(),)
    count_rule: str = "trainable"
    note: str = ""
    unshared: str | None = None
