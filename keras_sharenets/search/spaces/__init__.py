"""Search spaces: choices, rules and costs, one module per family.

To add a space, add a module with a `SPACE` to this package and its name to `NAMES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keras_sharenets import _checks

if TYPE_CHECKING:
    from keras_sharenets.search.spaces.space import Space

NAMES = ("hscnet", "hgcnet", "igcv2", "sharesnet", "shardnet")


def find_space(name: str) -> Space:
    """The space with a name.

    Raises:
        ValueError: the space does not exist.

    >>> [choice.name for choice in find_space("hscnet").choices][:4]
    ['width', 'alpha', 'groups', 'channel_repeats']
    """
    _checks.one_of("space", name, NAMES)
    return importlib.import_module(f"{__name__}.{name}").SPACE
