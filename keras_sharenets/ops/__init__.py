"""Pure functions: permutations, kernels and convolutions, without layers or state."""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from keras_sharenets.ops import balance, connectivity, convolution, hierarchical, interleaved, kernels, permutations

__all__ = ["balance", "connectivity", "convolution", "hierarchical", "interleaved", "kernels", "permutations"]


def __getattr__(name: str) -> object:
    """Imports a module on first access: some do not need Keras."""
    if name in __all__:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
