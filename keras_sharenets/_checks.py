"""Argument checks. Every message names the argument, its value and the rule."""

import numbers


def positive(name, value):
    """Raise a `ValueError` unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be a positive integer.")


def above_zero(name, value):
    """Raise a `ValueError` unless `value` is a number above 0."""
    if not isinstance(value, numbers.Real) or not value > 0:
        raise ValueError(f"`{name}` (={value!r}) must be a number above 0.")


def rate(name, value):
    """Raise a `ValueError` unless `value` is a number from 0 up to, not including, 1."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be at least 0 and below 1.")


def divides(name, value, whole_name, whole):
    """Raise a `ValueError` unless `value` divides `whole`."""
    if whole % value:
        raise ValueError(f"`{name}` (={value}) must divide {whole_name} (={whole}).")


def one_of(name, value, allowed):
    """Raise a `ValueError` unless `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, allowed))}.")


def pair(name, value):
    """`value` as a pair of positive integers: `3` and `(3, 3)` mean the same."""
    values = (value, value) if isinstance(value, numbers.Integral) else value
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ValueError(f"`{name}` (={value!r}) must be a positive integer or a pair of them.")
    for entry in values:
        positive(name, entry)
    return tuple(int(entry) for entry in values)


def sizes(name, value):
    """`value` as a tuple of one integer or more, each at least 1."""
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError(f"`{name}` (={value!r}) must be a tuple or list of at least one positive integer.")
    for entry in value:
        positive(name, entry)
    return tuple(int(entry) for entry in value)
