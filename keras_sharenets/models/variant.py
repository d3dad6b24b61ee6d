"""What a named network is: a factory, its arguments, and what its paper says of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named network.

    Attributes:
        factory: function with keyword-only arguments that returns a functional `keras.Model`.
        arguments: those arguments of `factory` that make this variant, `num_classes` apart.
        num_classes: int, classes of the data set that the paper counts it for.
        paper_parameters: the parameter count as the paper prints it, or `None` where it prints none.
        note: one line for the reader of a table.
    """

    factory: Callable
    arguments: Mapping[str, Any]
    num_classes: int = 10
    paper_parameters: str | None = None
    note: str = ""
