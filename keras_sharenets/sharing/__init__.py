"""Conversion of trained networks to smaller ones that share filters, and distillation."""

from keras_sharenets.sharing.api import share
from keras_sharenets.sharing.distillation import distill
from keras_sharenets.sharing.report import Shared, SharedLayer
from keras_sharenets.sharing.schemes import HierarchicalGroups, InterleavedGroups, ShareChannels, ShareDepth

__all__ = [
    "HierarchicalGroups",
    "InterleavedGroups",
    "ShareChannels",
    "ShareDepth",
    "Shared",
    "SharedLayer",
    "distill",
    "share",
]


def __dir__() -> list[str]:
    return __all__
