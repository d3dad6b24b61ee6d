"""Channels of different values that can only be multiplied by one common factor.

Pooling, shuffles, concatenations, and additions keep channels apart: if a channel of their inputs is multiplied by a
factor, so is the channel of their output that depends on it. The channels that an addition sums have one factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import InferenceGraph, Operation, reduced_axes

# Kinds with a kernel whose filters or input channels can be multiplied.
KERNELS = ("conv", "depthwise", "dense")
# Kinds whose output has the channels of their inputs.
_CHANNELWISE = ("abs", "add", "affine", "average_pool", "crop", "identity", "leaky_relu", "max_pool", "maximum", "mean")
_CHANNELWISE += ("minimum", "pad", "reshape", "resize", "subtract")


@dataclasses.dataclass(frozen=True)
class Linked:
    """Values linked by operations that keep channels apart, with the kernels that write and read them.

    Attributes:
        count: number of factors that can be chosen.
        values: `{value number: which factor each channel has}`.
        writers: output values of the operations with a kernel that compute the values, in order.
        readers: likewise of the operations with a kernel that read them.
        between: the operations without a kernel between them, in order.
    """

    count: int
    values: dict[int, np.ndarray]
    writers: tuple[int, ...]
    readers: tuple[int, ...]
    between: tuple[Operation, ...]


def linked_channels(graph: InferenceGraph, own: Collection[int]) -> list[Linked]:
    """Finds the values whose channels can be divided by factors that the kernels behind them make up for.

    Args:
        graph: `InferenceGraph`.
        own: output values of the operations whose kernels may change. A kernel that may not, with scales of its use
            beside it, can write values, but not read them.

    Returns:
        A list of `Linked`, in the order of their first writers. Values that something else writes or reads, or that
        have a range from quantization-aware training, are in none.
    """
    from scipy.cluster.hierarchy import DisjointSet  # Slow to import.

    together = DisjointSet(value.number for value in graph.values())
    for operation in graph.operations:
        if sources(operation) is not None:
            for value in operation.inputs:
                together.merge(operation.output.number, value.number)
    fixed = set(_fixed(graph, own))
    linked = [_linked(graph, numbers) for numbers in together.subsets() if fixed.isdisjoint(numbers)]
    linked = [each for each in linked if each.readers and not set(each.readers) & set(each.writers)]
    places = {operation.output.number: place for place, operation in enumerate(graph.operations)}
    return sorted(linked, key=lambda each: places[each.writers[0]])


def _fixed(graph, own):
    """The values whose channels must stay as they are."""
    yield from (value.number for value in (*graph.inputs, *graph.outputs))
    yield from graph.ranges
    for operation in graph.operations:
        computes, kept = operation.kind in KERNELS, operation.output.number not in own
        if operation.activation == "relu6" or (computes and kept and operation.scale is None):
            yield operation.output.number
        if computes and kept:
            yield operation.source
        if not computes and sources(operation) is None:
            yield from (operation.output.number, *(value.number for value in operation.inputs))


def _linked(graph, numbers):
    """The `Linked` of the values with these numbers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components  # Slow to import.

    computed = [operation for operation in graph.operations if operation.output.number in numbers]
    values, total = {}, 0
    for operation in computed:
        width = operation.output.shape[-1]
        values[operation.output.number] = np.arange(total, total + width)
        total += width
    links = [np.empty((2, 0), int)]
    for operation in computed:
        for value, (written, read) in zip(operation.inputs, sources(operation) or (), strict=False):
            links.append(np.stack([values[operation.output.number][written], values[value.number][read]]))
    ends = np.concatenate(links, axis=1)
    joined = coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(total, total))
    count, factors = connected_components(joined, directed=False)
    read = [operation for operation in graph.operations if operation.kind in KERNELS and operation.source in numbers]
    return Linked(
        count,
        {number: factors[channels] for number, channels in values.items()},
        writers=tuple(operation.output.number for operation in computed if operation.kind in KERNELS),
        readers=tuple(operation.output.number for operation in read),
        between=tuple(operation for operation in computed if operation.kind not in KERNELS),
    )


def sources(operation: Operation) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """The channels of the output, and for each those of the input on which they depend, for each input.

    `None` if a channel depends on several of one input, or not in proportion, or if there is only the axis of images.
    """
    if any(len(value.shape) == 1 for value in (operation.output, *operation.inputs)):
        return None
    count = operation.output.shape[-1]
    every = np.arange(count)
    widths = [value.shape[-1] for value in operation.inputs]
    if operation.kind == "permute":
        return [(every, np.asarray(operation.attributes["indices"]))]
    if operation.kind == "slice" and "row" not in operation.attributes:
        return [(every, every + operation.attributes["start"])]
    if operation.kind == "concat":
        return [
            (np.arange(end - width, end), np.arange(width))
            for width, end in zip(widths, np.cumsum(widths), strict=True)
        ]
    mixing = operation.kind == "mean" and len(operation.inputs[0].shape) - 1 in reduced_axes(operation)
    if operation.kind in _CHANNELWISE and not mixing and set(widths) == {count}:
        return [(every, every) for _ in widths]
    return None
