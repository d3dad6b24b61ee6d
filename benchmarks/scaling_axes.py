"""What is made larger to see how time and memory grow, and for which networks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras_sharenets.models import HGCNet, HSCNet, IGCNet


@dataclasses.dataclass(frozen=True)
class Axis:
    """Networks of one family that differ in one argument.

    Attributes:
        family: str.
        letter: str, the argument as the papers write it, or in a word.
        argument: str, of `factory`, or `"batch_size"`.
        values: tuple of ints, growing.
        factory: function that returns a `keras.Model`.
        fixed: the other arguments of `factory`.
    """

    family: str
    letter: str
    argument: str
    values: tuple[int, ...]
    factory: Callable
    fixed: Mapping[str, Any]

    @property
    def name(self):
        return f"{self.family}, {self.letter}"

    def build(self, value):
        """The network of one value."""
        given = {} if self.argument == "batch_size" else {self.argument: value}
        return self.factory(**self.fixed, **given)

    def batch_size(self, value, default):
        """Pictures a step, for one value."""
        return value if self.argument == "batch_size" else default


# Each family's network; an axis leaves one argument out, and changes those without which its values would not do.
_HSC = {"width": 32, "groups": 4, "channel_repeats": 2, "arrangements": 2, "modules_per_stage": 1}
_IGC = {"width": 64, "blocks_per_stage": 2}
_HGC = {"growth": 8, "groups": 4, "modules_per_stage": 2}
_BATCHES = (4, 8, 16, 32, 64)


def _axis(factory, family, network, letter, argument, values, **changed):
    fixed = {name: value for name, value in {**network, **changed}.items() if name != argument}
    return Axis(family, letter, argument, values, factory, fixed)


AXES = (
    _axis(HSCNet, "hscnet", _HSC, "G", "groups", (1, 2, 4, 8, 16), width=64, channel_repeats=1, arrangements=1),
    _axis(HSCNet, "hscnet", _HSC, "R", "channel_repeats", (1, 2, 4, 8), width=64, groups=8, arrangements=1),
    # A shuffle in two rows has four orders for the 16 channels of a group, so that each arrangement is a new one.
    _axis(HSCNet, "hscnet", _HSC, "T", "arrangements", (1, 2, 4), width=64, groups=2),
    _axis(HSCNet, "hscnet", _HSC, "width", "width", (16, 32, 64, 128), groups=2),
    _axis(HSCNet, "hscnet", _HSC, "depth", "modules_per_stage", (1, 2, 4, 8)),
    _axis(HSCNet, "hscnet", _HSC, "batch", "batch_size", _BATCHES),
    _axis(IGCNet, "igcv2", _IGC, "width", "width", (32, 64, 128)),
    _axis(IGCNet, "igcv2", _IGC, "depth", "blocks_per_stage", (2, 4, 8)),
    _axis(IGCNet, "igcv2", _IGC, "batch", "batch_size", _BATCHES),
    _axis(HGCNet, "hgcnet", _HGC, "G", "groups", (1, 2, 4, 8)),
    _axis(HGCNet, "hgcnet", _HGC, "width", "growth", (4, 8, 16)),
    _axis(HGCNet, "hgcnet", _HGC, "depth", "modules_per_stage", (1, 2, 4, 8)),
    _axis(HGCNet, "hgcnet", _HGC, "batch", "batch_size", _BATCHES),
)
# The axis with the fewest networks of those that share.
QUICK = tuple(axis for axis in AXES if axis.name == "hscnet, T")
