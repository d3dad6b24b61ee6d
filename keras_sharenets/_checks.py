"""Argument checks. Every message names the argument, its value and the rule."""

import numbers


def positive(name, value):
    """Raise a `ValueError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be a whole number of at least 1.")


def divides(name, value, whole_name, whole):
    """Raise a `ValueError` unless `value` divides `whole`."""
    if whole % value:
        raise ValueError(f"`{name}` (={value}) must divide {whole_name} (={whole}).")


def one_of(name, value, allowed):
    """Raise a `ValueError` unless `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, allowed))}.")


def pair(name, value):
    """`value` as a pair of whole numbers of at least 1: `3` and `(3, 3)` mean the same."""
    values = (value, value) if isinstance(value, numbers.Integral) else value
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ValueError(f"`{name}` (={value!r}) must be a whole number or a pair of them.")
    for entry in values:
        positive(name, entry)
    return tuple(int(entry) for entry in values)
