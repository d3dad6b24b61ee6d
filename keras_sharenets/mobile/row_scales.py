"""Factors of single channels, moved from a scale that stands alone into the rows of the kernels behind."""

import dataclasses

import numpy as np

from keras_sharenets.mobile.inference_graph import Stored
from keras_sharenets.mobile.quantisation import filter_limits

# The share of the largest scale below which one is taken for 0.
_NEXT_TO_NOTHING = 1e-4
_STEPS = 127
# What a factor for each channel goes through as it is: they are positive.
_TRANSPARENT = ("average_pool", "max", "max_pool", "mean")


def own_kernels(graph):
    """The stored tensors whose rows may change: those that are used in one place alone and have not been clustered."""
    users = ((kernel, used) for kernel, used in graph.uses().items() if len(used) == 1)
    return frozenset(kernel for kernel, (user,) in users if not is_clustered(user))


def is_clustered(operation):
    """Whether the kernel of an operation has one limit for all its filters, as only clustered kernels have."""
    limits = filter_limits(operation.kernel.array, operation.kind)
    return len(limits) > 1 and np.ptp(limits) == 0


def whole_scales(graph):
    """Scales that stand alone become whole multiples of one number: then integers need one scale for all channels.

    What is left of each, a factor around 1, goes through a ReLU into the kernels behind.
    """
    own, readers = own_kernels(graph), graph.consumers()
    changed = {operation.output.number: operation for operation in graph.operations}
    for operation in graph.operations:
        if operation.kind != "affine" or operation.activation == "relu6" or operation.output == graph.output:
            continue
        scale, factor = _whole(operation.scale)
        rows = None if factor is None else _rows_behind(operation.output, factor, readers, own)
        if rows:
            for number, factors in rows:
                changed[number] = _rows_scaled(changed[number], factors)
            bias = (operation.bias / factor).astype("float32")
            changed[operation.output.number] = dataclasses.replace(operation, scale=scale, bias=bias)
    operations = (changed[operation.output.number] for operation in graph.operations)
    return dataclasses.replace(graph, operations=tuple(operations))


def common_scale(scale):
    """The number of which all scales are whole multiples, none above 127, or `None` if there is none.

    >>> import numpy as np
    >>> float(common_scale(np.array([254.0, -6.0, 0.0])))
    2.0
    >>> common_scale(np.array([254.0, -5.0])) is None
    True
    """
    step = np.abs(scale).max() / _STEPS
    multiples = scale / step if step else scale
    return step if np.abs(multiples - np.round(multiples)).max() < 1e-3 else None


def _whole(scale):
    """`(whole multiples of one number, what each has to be multiplied by)`; `(None, None)` if some would become 0."""
    magnitudes = np.abs(scale).astype("float64")
    step = magnitudes.max() / _STEPS
    nothing = magnitudes <= _NEXT_TO_NOTHING * magnitudes.max()
    whole = np.where(nothing, 0, np.round(magnitudes / (step or 1)))
    if (whole[~nothing] == 0).any():
        return None, None
    factor = np.divide(magnitudes, whole * step, out=np.ones_like(magnitudes), where=~nothing)
    return (np.sign(scale) * whole * step).astype("float32"), factor


def _rows_behind(value, factor, readers, own):
    """`(number of an operation's output, factor of each channel that it reads)` of all kernels that read a value.

    `None` if something else reads it, or a kernel that may not change.
    """
    found = []
    for reader in readers.get(value.number, ()):
        if reader.kind in ("conv", "depthwise", "dense") and reader.kernel in own:
            found.append((reader.output.number, factor))
            continue
        passed = _passed(reader, value, factor)
        behind = None if passed is None else _rows_behind(reader.output, passed, readers, own)
        if behind is None:
            return None
        found += behind
    return found or None


def _passed(reader, value, factor):
    """The factors of the channels of what an operation without a kernel makes of a value, or `None`."""
    if reader.kind in _TRANSPARENT or (reader.kind == "identity" and reader.activation == "relu"):
        return factor
    if reader.kind == "permute":
        return factor[reader.attributes["indices"]]
    if reader.kind == "slice":
        return factor[reader.attributes["start"] :][: reader.output.shape[-1]]
    if reader.kind == "concat" and reader.inputs.count(value) == 1:
        return np.concatenate([factor if part == value else np.ones(part.shape[-1]) for part in reader.inputs])
    return None


def _rows_scaled(operation, factor):
    """An operation with the rows of its kernel multiplied by the factors of the channels that they read."""
    array = operation.kernel.array
    if operation.kind == "depthwise":
        factor = factor[:, None]
    else:
        # Of a kernel in groups the filters of each read channels of their own.
        groups = len(factor) // array.shape[-2]
        factor = np.repeat(factor.reshape(groups, -1).T, array.shape[-1] // groups, axis=1)
    kernel = Stored(operation.kernel.name, (array * factor).astype("float32"))
    return dataclasses.replace(operation, kernel=kernel)
