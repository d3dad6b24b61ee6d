"""Passes for groups of channels that are convolved one after the other, as in hierarchical group convolutions.

A strided channel shuffle moves channel `c` to group `c % groups`. Runtimes run such shuffles and their groups fastest
as reshaped and transposed tables.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, InferenceGraph, Operation, Value
from keras_sharenets.mobile.graph.quantization import rewritable_kernels
from keras_sharenets.ops import hierarchical, permutations
from keras_sharenets.ops.kernels import block_diagonal

# The fraction of the largest scale below which dividing by a scale loses integer precision.
_SMALL = 1 / 16


def fold_chain_normalization(graph: InferenceGraph) -> InferenceGraph:
    """Folds a scale and shift after concatenated convolutions into them, even if some read the outputs of others.

    With `y = scale * x + shift`, a convolution that read `x` reads `(y - shift) / scale`: its rows are divided by the
    scale, and the contribution of the shift is subtracted from its bias. Only `rewritable_kernels` can change this way.
    """
    readers, rewritable = graph.consumers(), rewritable_kernels(graph)
    changed = {operation.output.number: operation for operation in graph.operations}
    for norm in graph.operations:
        concat = changed.get(norm.source)
        if not _invertible(norm) or concat is None or concat.kind != "concat" or len(readers[concat.output.number]) > 1:
            continue
        links: list[Any] = [_links(part, concat, readers, rewritable) for part in concat.inputs]
        convolved = all(_convolves(changed.get(part.number), rewritable) for part in concat.inputs)
        if None in links or not convolved or len(set(concat.inputs)) < len(concat.inputs):
            continue
        stops = list(itertools.accumulate(part.shape[-1] for part in concat.inputs))
        for part, stop, found in zip(concat.inputs, stops, links, strict=True):
            own = slice(stop - part.shape[-1], stop)
            for number, first in found:
                changed[number] = _reading_scaled(changed[number], first, norm, own)
            changed[part.number] = _giving_scaled(changed[part.number], norm, own)
        changed[concat.output.number] = dataclasses.replace(concat, output=norm.output)
        del changed[norm.output.number]
    kept = (changed.get(operation.output.number) for operation in graph.operations)
    return graph.with_operations(operation for operation in kept if operation is not None)


def _invertible(norm):
    """Whether an operation is an invertible scale and shift."""
    if norm.kind != "affine" or norm.activation is not None:
        return False
    magnitudes = np.abs(norm.scale)
    return magnitudes.min() > _SMALL * magnitudes.max()


def _convolves(operation, rewritable):
    if operation is None or operation.kind != "conv" or operation.activation:
        return False
    return operation.kernel in rewritable


def _links(part, concat, readers, rewritable):
    """The readers of a value except `concat`: `(output number of a convolution, first row)`; `None` for other kinds."""
    links = []
    for reader in readers[part.number]:
        if reader is concat:
            continue
        behind = readers.get(reader.output.number, ())
        if reader.kind != "concat" or len(behind) != 1 or not _convolves(behind[0], rewritable):
            return None
        if not _pointwise(behind[0]) or reader.inputs.count(part) > 1:
            return None
        before = itertools.takewhile(lambda value: value != part, reader.inputs)
        links.append((behind[0].output.number, sum(value.shape[-1] for value in before)))
    return links


def _pointwise(operation):
    return operation.kernel.array.shape[:2] == (1, 1) and operation.attributes["groups"] == 1


def _reading_scaled(operation, first, norm, own):
    """A convolution that reads `scale * x + shift` instead of `x`, from row `first` of its kernel on."""
    scale, shift = norm.scale[own], norm.bias[own]
    array = operation.kernel.array.astype("float64")
    rows = array[0, 0, first : first + len(scale)]
    rows /= scale[:, None]
    added = shift @ rows if operation.scale is None else (shift @ rows) * operation.scale
    bias = (-added if operation.bias is None else operation.bias - added).astype("float32")
    return dataclasses.replace(operation, kernel=Constant(operation.kernel.name, array.astype("float32")), bias=bias)


def _giving_scaled(operation, norm, own):
    scale, shift = norm.scale[own], norm.bias[own]
    bias = shift if operation.bias is None else shift + scale * operation.bias
    scale = scale if operation.scale is None else scale * operation.scale
    return dataclasses.replace(operation, scale=scale, bias=bias)


def stack_groups(graph: InferenceGraph) -> InferenceGraph:
    """Stacks the groups of a strided channel shuffle along the batch axis if they are read one by one.

    A group in a stack is contiguous in memory, and stacking takes less time than shuffling channels.
    """
    readers, number = graph.consumers(), graph.next_number()
    stacks, operations = {}, []
    for operation in graph.operations:
        groups = readers.get(operation.output.number, [])
        if all(reader.kind == "slice" for reader in groups):
            groups = sorted(groups, key=lambda reader: reader.attributes["start"])
        images = operation.kind == "permute" and len(operation.output.shape) == 4
        if images and _are_groups(groups, operation.attributes["indices"]):
            steps = _stacked(operation, len(groups), number)
            operations += steps
            number += len(steps) - 1
            stacks.update({group.output.number: (steps[-1].output, row) for row, group in enumerate(groups)})
        elif operation.output.number in stacks:
            stack, row = stacks[operation.output.number]
            operations.append(dataclasses.replace(operation, inputs=(stack,), attributes={"start": 0, "row": row}))
        else:
            operations.append(operation)
    return graph.with_operations(operations)


def _are_groups(readers, indices):
    """Whether operations slice the groups of the strided shuffle `indices`, in order."""
    if len(readers) < 2 or any(reader.kind != "slice" for reader in readers):
        return False
    sizes = hierarchical.split_sizes(len(indices), len(readers))
    starts = (0, *itertools.accumulate(sizes[:-1]))
    taken = [(reader.attributes["start"], reader.output.shape[-1]) for reader in readers]
    strided = np.array_equal(indices, permutations.strided_shuffle(len(indices), len(readers)))
    return strided and taken == list(zip(starts, sizes, strict=True))


def _stacked(operation, groups, number):
    """A stack of all groups, zero-padded to one size. A new value gets the number `number`."""
    (source,), steps = operation.inputs, []
    _, height, width, channels = source.shape
    size = -(-channels // groups)
    common = {"name": operation.name, "use": operation.use}
    if channels % groups:
        padded = Value(number, (1, height, width, groups * size))
        paddings = (*((0, 0),) * 3, (0, groups * size - channels))
        steps.append(Operation("pad", inputs=(source,), output=padded, attributes={"paddings": paddings}, **common))
        source = padded
    stack = Value(operation.output.number, (groups, height, width, size))
    steps.append(Operation("stack", inputs=(source,), output=stack, attributes={"groups": groups}, **common))
    return steps


def split_concat_readers(graph: InferenceGraph) -> InferenceGraph:
    """Splits a 1x1 convolution that is the only reader of two concatenated values into a sum of two convolutions.

    Applied where the addition, which moves three numbers per filter, is cheaper than the concatenation, which moves two
    per channel. Not used for integers, where the sum would be rounded once more.
    """
    readers, uses, number = graph.consumers(), graph.uses(), graph.next_number()
    pairs = {
        concat.output.number: concat
        for concat in graph.operations
        if concat.kind == "concat" and len(concat.inputs) == 2
    }
    operations = []
    for operation in graph.operations:
        concat = pairs.get(operation.source)
        if concat is None or len(readers[concat.output.number]) > 1 or not _cheaper_apart(operation, uses):
            operations.append(operation)
            continue
        operations.remove(concat)
        parts, first = [], 0
        for value in concat.inputs:
            stop = first + value.shape[-1]
            output = Value(number + len(parts), operation.output.shape)
            part = {"kernel": _rows(operation.kernel, first, stop), "bias": None if parts else operation.bias}
            parts.append(dataclasses.replace(operation, inputs=(value,), output=output, activation=None, **part))
            first = stop
        added = tuple(part.output for part in parts)
        total = Operation("add", operation.name, added, operation.output, activation=operation.activation)
        operations += [*parts, dataclasses.replace(total, use=operation.use)]
        number += len(parts)
    return graph.with_operations(operations)


def _rows(kernel, first, stop):
    return Constant(f"{kernel.name}_{first}", kernel.array[:, :, first:stop])


def _cheaper_apart(operation, uses):
    if operation.kind != "conv" or not _pointwise(operation) or len(uses[operation.kernel]) > 1:
        return False
    _, _, channels, filters = operation.kernel.array.shape
    return 3 * filters <= 2 * channels and operation.attributes["strides"] == (1, 1)


def pad_uneven_shuffles(graph: InferenceGraph) -> InferenceGraph:
    """Replaces strided channel shuffles with uneven groups by operations that delegates support.

    With equal groups such a shuffle is a transposed table. With uneven groups it is a gather, which delegates leave to
    the runtime, so that each adds a partition. Zero-padded to equal groups it is a table again, and the zeros are
    dropped when the groups are concatenated.
    """
    operations, number = [], graph.next_number()
    for operation in graph.operations:
        groups = _uneven_groups(operation)
        steps = [operation] if groups is None else _padded_shuffle(operation, groups, number)
        operations += steps
        number += 0 if groups is None else len(steps)
    return graph.with_operations(operations)


def _uneven_groups(operation):
    """The number of groups of a strided shuffle if it does not divide the channels; otherwise `None`."""
    if operation.kind != "permute":
        return None
    indices = operation.attributes["indices"]
    channels = len(indices)
    uneven = (groups for groups in range(2, channels) if channels % groups)
    return next(
        (groups for groups in uneven if np.array_equal(indices, permutations.strided_shuffle(channels, groups))), None
    )


def _padded_shuffle(operation, groups, number):
    """Pad to equal groups, shuffle, slice off the zeros, concatenate. New values are numbered from `number`."""
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
    shuffled = add("permute", padded, groups * size, indices=permutations.strided_shuffle(groups * size, groups))
    # The longer groups are contiguous; each of the others ends with a zero.
    starts = [(0, longer * size), *((group * size, size - 1) for group in range(longer, groups))]
    parts = [add("slice", shuffled, width, start=start) for start, width in starts]
    return [*steps, dataclasses.replace(operation, kind="concat", inputs=tuple(parts), attributes={})]


def join_groups(graph: InferenceGraph) -> InferenceGraph:
    """Merges groups of a convolution, with zeros between them, until each has a multiple of four channels at both ends.

    GPU delegates pack four channels together. LiteRT.js 2.5.3 computes wrong results on WebGPU if two groups share a
    pack. A kernel whose groups are merged in pairs takes twice the bytes and the arithmetic.
    """
    kernels: dict[tuple[Constant, int], Constant] = {}

    def joined(operation):
        groups = operation.attributes.get("groups", 1)
        if operation.kind != "conv" or groups == 1:
            return operation
        sizes = operation.kernel.array.shape[2], operation.output.shape[-1] // groups
        counts = [count for count in range(1, groups + 1) if groups % count == 0]
        count = next((count for count in counts if not any(count * size % 4 for size in sizes)), groups)
        if count == 1:
            return operation
        key = operation.kernel, count
        if key not in kernels:
            parts = np.split(operation.kernel.array, groups // count, axis=-1)
            array = np.concatenate([block_diagonal(part, count) for part in parts], axis=-1)
            kernels[key] = Constant(operation.kernel.name, array)
        return dataclasses.replace(
            operation, kernel=kernels[key], attributes={**operation.attributes, "groups": groups // count}
        )

    return graph.with_operations(map(joined, graph.operations))
