"""Spaces of networks: choices, rules and costs, one module a family.

A new space is a module here with a `SPACE`, and its name in `NAMES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keras_sharenets import _checks

if TYPE_CHECKING:
    from keras_sharenets.search.spaces.space import Space

NAMES = ("hscnet", "hgcnet", "igcv2", "sharesnet", "shardnet")


def find_space(name: str) -> Space:
    """The space of that name.

    Raises:
        ValueError: there is none.

    >>> [choice.name for choice in find_space("hscnet").choices][:4]
    ['width', 'alpha', 'groups', 'channel_repeats']
    """
    _checks.one_of("space", name, NAMES)
    return importlib.import_module(f"{__name__}.{name}").SPACE
