"""Argument checks. Every message names the argument, its value and the rule."""

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

Value = TypeVar("Value")


def positive(name: str, value: Any) -> int:
    """`value`, an integer of Python or NumPy, as an `int`; raises a `ValueError` unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be a positive integer.")
    return int(value)


def boolean(name: str, value: Any) -> bool:
    """`value`, a bool of Python or NumPy, as a `bool`; raises a `ValueError` for anything else."""
    if not isinstance(value, bool) and type(value).__name__ not in (
        "bool",
        "bool_",
    ):  # Without numpy, which is slow to load.
        raise ValueError(f"`{name}` (={value!r}) must be True or False.")
    return bool(value)


def above_zero(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"`{name}` (={value!r}) must be a number above 0.")


def rate(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < 1:
        raise ValueError(f"`{name}` (={value!r}) must be at least 0 and below 1.")


def share(name: str, value: Any) -> None:
    """Raises a `ValueError` unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"`{name}` (={value!r}) must be at least 0 and at most 1.")


def seed(name: str, value: Any, *, higher: int = 0) -> None:
    """Raises a `ValueError` unless `value` and the `higher` seeds after it are seeds for NumPy, Python, and Keras."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32 - higher:
        limit = f"2**32 - {higher}" if higher else "2**32"
        raise ValueError(f"`{name}` (={value!r}) must be a non-negative integer below {limit}.")


def divides(name: str, value: int, whole_name: str, whole: int) -> None:
    """Raises a `ValueError` unless `value` divides `whole`."""
    if whole % value:
        raise ValueError(f"`{name}` (={value}) must divide {whole_name} (={whole}).")


def multiple(name: str, value: int, unit: int) -> None:
    """Raises a `ValueError` unless `value` is a multiple of `unit`."""
    if value % unit:
        raise ValueError(f"`{name}` (={value}) must be a multiple of {unit}.")


def one_of(name: str, value: Any, allowed: Sequence) -> None:
    """Raises a `ValueError` unless `value` is one of `allowed`."""
    # Arrays compare elementwise, so `in` would be ambiguous.
    if getattr(value, "ndim", 0) or value not in allowed:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, allowed))}.")


def suggestion(value: object, known: Iterable[str]) -> str:
    """A question that names the known words nearest to an unknown one, or all of them if none is near.

    >>> suggestion("adm", ["Adam", "SGD"]), suggestion("?", ["Adam", "SGD"])
    ("Did you mean 'Adam'?", "Did you mean 'Adam', 'SGD'?")
    """
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), words, n=3, cutoff=0.4) or words
    return f"Did you mean {', '.join(repr(words[word]) for word in near)}?"


def pair(name: str, value: Any) -> tuple[int, int]:
    """`value` as a pair of positive integers; `3` is equivalent to `(3, 3)`."""
    values = (value, value) if isinstance(value, numbers.Integral) else value
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ValueError(f"`{name}` (={value!r}) must be a positive integer or a pair of them.")
    height, width = (positive(name, entry) for entry in values)
    return height, width


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a tuple of at least one positive integer."""
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError(f"`{name}` (={value!r}) must be a tuple or list of at least one positive integer.")
    return tuple(positive(name, entry) for entry in value)


def class_labels(name: str, value: Any) -> "np.ndarray":
    """`value` as an array of class indices `(images,)`."""
    import numpy as np  # Slow to load.

    labels = np.asarray(value)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"`{name}` (of shape {labels.shape}, {labels.dtype}) must be one integer per image.")
    if labels.min(initial=0) < 0:
        raise ValueError(f"`{name}` (the lowest is {labels.min()}) must be class indices of at least 0.")
    return labels


def plain_convolution(data_format: str | None, dilation_rate: Any) -> None:
    """Raises a `ValueError` unless the arguments specify a convolution with channels last and without dilation."""
    if data_format not in (None, "channels_last"):
        raise ValueError(f"`data_format` (={data_format!r}) must be 'channels_last', whatever the Keras setting.")
    if pair("dilation_rate", dilation_rate) != (1, 1):
        raise ValueError(f"`dilation_rate` (={dilation_rate!r}) must be 1: the layer has no dilated convolution.")


def loaded(name: str, value: Any) -> None:
    """Raises a `ValueError` if `value` is the name or the file of a network instead of the network."""
    if isinstance(value, (str, os.PathLike)):
        raise ValueError(
            f"`{name}` (={value!r}) must be a Keras model, not its name or file: create it with "
            "`keras_sharenets.create_model`, or load it with `keras.saving.load_model`."
        )


def known(name: str, value: Value | None) -> Value:
    """`value`; raises a `ValueError` if it is `None` because it was not measured."""
    if value is None:
        raise ValueError(f"`{name}` is unknown.")
    return value


def tensorflow_backend(what: str, advice: str) -> None:
    """Raises a `RuntimeError` unless Keras runs on TensorFlow, which `what` requires."""
    import keras  # Not at the top: the command line checks its arguments without Keras.

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{what} needs the TensorFlow backend, and Keras runs on {backend!r}. Save the model as a `.keras` file, "
            f"set the environment variable KERAS_BACKEND=tensorflow in a new process and {advice}."
        )
