"""Which kernels an export may change."""

import numpy as np

from keras_sharenets.mobile.graph.quantization import filter_limits


def own_kernels(graph):
    """The stored tensors whose rows may change: those that are used in one place alone and have not been clustered."""
    users = ((kernel, used) for kernel, used in graph.uses().items() if len(used) == 1)
    return frozenset(kernel for kernel, (user,) in users if not is_clustered(user))


def is_clustered(operation):
    """Whether the kernel of an operation has one limit for all its filters, as only clustered kernels have."""
    limits = filter_limits(operation.kernel.array, operation.kind)
    return len(limits) > 1 and np.ptp(limits) == 0
