"""Checks of the arguments of a factory, derived from their annotations, before any layer is created.

NumPy numbers, such as `labels.max() + 1`, are converted to Python numbers, which Keras and JSON require.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np

from keras_sharenets import _checks

Factory = TypeVar("Factory", bound=Callable[..., Any])


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"`{name}` (={value!r}) must be a finite number.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` (={value!r}) must be a string.")
    return value


def _integers(name: str, value: Any) -> tuple[int, ...]:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"`{name}` (={value!r}) must be a sequence of positive integers.")
    return tuple(_checks.positive(name, part) for part in value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"`{name}` (={value!r}) must be a sequence of strings.")
    return tuple(value)


def _integer_or_integers(name: str, value: Any) -> int | tuple[int, ...]:
    return _integers(name, value) if isinstance(value, (tuple, list, np.ndarray)) else _checks.positive(name, value)


def _boolean_or_string(name: str, value: Any) -> bool | str:
    return value if isinstance(value, str) else _checks.boolean(name, value)


def _image_shape(name: str, value: Any) -> tuple[int | None, ...]:
    if isinstance(value, (tuple, list)) and len(value) == 3 and value[-1] is not None:
        return tuple(None if side is None else _checks.positive(name, side) for side in value)
    raise ValueError(f"`{name}` (={value!r}) must be `(height, width, channels)` with the channels known.")


def _statistics(name: str, value: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if value is None:
        return None
    rule = f"`{name}` (={value!r}) must be `(mean, variance)`, each with one number per channel, and variances above 0."
    try:
        mean, variance = (tuple(float(number) for number in numbers) for numbers in value)
    except (TypeError, ValueError) as error:
        raise ValueError(rule) from error
    if not all(map(math.isfinite, mean + variance)) or min(variance, default=0) <= 0:
        raise ValueError(rule)
    return mean, variance


def _keras_tensor(name: str, value: Any) -> Any:
    if value is None or keras.utils.is_keras_tensor(value):
        return value
    raise ValueError(f"`{name}` (={value!r}) must be a Keras tensor, such as `keras.Input((32, 32, 3))`.")


def _layer(name: str, value: Any) -> keras.layers.Layer:
    if not isinstance(value, keras.layers.Layer):
        raise ValueError(f"`{name}` (={value!r}) must be a Keras layer.")
    return value


def _anything(name: str, value: Any) -> Any:
    return value


_CHECKS = {
    "int": _checks.positive,
    "float": _number,
    "bool": _checks.boolean,
    "bool | str": _boolean_or_string,
    "Sequence[int]": _integers,
    "keras.layers.Layer": _layer,
    "Sequence[str]": _strings,
    "int | Sequence[int]": _integer_or_integers,
    # Checked later: by the factory, or by the `get` functions of Keras.
    "str": _anything,
    "Sequence[Sequence[int]]": _anything,
    "Configured": _anything,
}
# The arguments common to all factories (`models.base.CommonArguments`).
_COMMON = {
    "input_shape": _image_shape,
    "num_classes": _checks.positive,
    "include_top": _checks.boolean,
    "include_preprocessing": _checks.boolean,
    "pixel_statistics": _statistics,
    "input_tensor": _keras_tensor,
    "name": _string,
}


def _check_of(parameter: inspect.Parameter) -> Callable[[str, Any], Any]:
    """The check of a parameter; raises a `KeyError` for an annotation that is not in `_CHECKS`."""
    kind = parameter.annotation.removesuffix(" | None")
    check = _CHECKS[kind]
    if kind == parameter.annotation:
        return check
    return lambda name, value: None if value is None else check(name, value)


def checked(factory: Factory) -> Factory:
    """Decorator of a factory with keyword-only arguments: checks each argument against its annotation.

    Raises:
        ValueError: an argument does not match its annotation. The message names the argument, its value and the rule.
            No layer has been created.
    """
    parameters = inspect.signature(factory).parameters.values()
    own = {parameter.name: _check_of(parameter) for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    checks = {**_COMMON, **own}

    @functools.wraps(factory)
    def build(**arguments: Any) -> Any:
        return factory(**{name: checks.get(name, _anything)(name, value) for name, value in arguments.items()})

    return build  # pyright: ignore[reportReturnType]
