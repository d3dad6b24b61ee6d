"""What 1x1 convolutions with one kernel for each group of channels have in common."""

from keras_sharenets import _checks
from keras_sharenets.layers.composed_pointwise import ComposedPointwise
from keras_sharenets.ops import hierarchical


class GroupPointwise(ComposedPointwise):
    """Base of `HierarchicalGroupConv2D` and `SplitGroupConv2D`, which say what a kernel reads and how the kernels act.

    `kernel_inputs(sizes, filters)` gives the channels that each kernel reads.
    """

    division = "groups"

    kernel_inputs = None

    def __init__(self, filters, groups, use_bias=False, **kwargs):
        super().__init__(filters, use_bias, **kwargs)
        _checks.positive("groups", groups)
        _checks.divides("groups", groups, "`filters`", filters)
        self.groups = groups

    def plan(self, channels):
        self.sizes = hierarchical.split_sizes(channels, self.groups)
        filters = self.filters // self.groups
        return [(1, 1, inputs, filters) for inputs in self.kernel_inputs(self.sizes, filters)]
