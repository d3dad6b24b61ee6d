"""Deals of channels to groups that do not divide them, from operations that delegates run.

A deal to groups of one size is a transposed table. One to uneven groups is a gather, which delegates leave to the
runtime, and each cuts the graph into one piece more. Padded with zeros to full groups it is a table again, and what
stands for the zeros is left out when the groups are joined.
"""

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation, Value
from keras_sharenets.ops import permutations


def deal_by_tables(graph):
    """Replaces every permutation that deals to uneven groups."""
    operations, number = [], graph.next_number()
    for operation in graph.operations:
        groups = _uneven_groups(operation)
        if groups is None:
            operations.append(operation)
            continue
        steps = _steps(operation, groups, number)
        operations += steps
        number += len(steps)
    return dataclasses.replace(graph, operations=tuple(operations))


def _uneven_groups(operation):
    """The number of groups that a permutation deals to, if that does not divide the channels; else `None`."""
    if operation.kind != "permute":
        return None
    indices = operation.attributes["indices"]
    channels = len(indices)
    uneven = (groups for groups in range(2, channels) if channels % groups)
    return next(
        (groups for groups in uneven if np.array_equal(indices, permutations.strided_shuffle(channels, groups))), None
    )


def _steps(operation, groups, number):
    """Pad to full groups, deal, slice the zeros off, join. Values are counted from `number`."""
    (source,), name = operation.inputs, operation.name
    *places, channels = source.shape
    size, longer = -(-channels // groups), channels % groups
    steps = []

    def add(kind, x, width, **attributes):
        output = Value(number + len(steps), (*places, width))
        steps.append(Operation(kind, name, (x,), output, attributes=attributes))
        return output

    none = ((0, 0),) * len(places)
    padded = add("pad", source, groups * size, paddings=(*none, (0, groups * size - channels)))
    dealt = add("permute", padded, groups * size, indices=permutations.strided_shuffle(groups * size, groups))
    # The longer groups follow one another without a gap; each of the others ends with a zero.
    starts = [(0, longer * size), *((group * size, size - 1) for group in range(longer, groups))]
    parts = [add("slice", dealt, width, start=start) for start, width in starts]
    return [*steps, dataclasses.replace(operation, kind="concat", inputs=tuple(parts), attributes={})]
