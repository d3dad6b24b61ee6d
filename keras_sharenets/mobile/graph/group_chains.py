"""Groups of channels that are convolved one after the other, as in hierarchical group convolutions: cheaper steps."""

import dataclasses
import itertools

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Operation, Stored, Value
from keras_sharenets.mobile.graph.own_kernels import own_kernels
from keras_sharenets.ops import hierarchical, permutations

# The share of the largest scale below which integers lose what is divided by one.
_SMALL = 1 / 16


def normalise_links(graph):
    """A scale and shift behind joined convolutions goes into them, although some of them read what others give.

    With `y = scale * x + shift`, a convolution that read `x` reads `(y - shift) / scale`: its rows are divided by the
    scale, and what the shift would add is taken off its bias. Only kernels of `own_kernels` can change so.
    """
    readers, own = graph.consumers(), own_kernels(graph)
    changed = {operation.output.number: operation for operation in graph.operations}
    for norm in graph.operations:
        join = changed.get(norm.inputs[0].number)
        if not _only_scales(norm) or join is None or join.kind != "concat" or len(readers[join.output.number]) > 1:
            continue
        links = [_links(part, join, readers, own) for part in join.inputs]
        convolved = all(_convolves(changed.get(part.number), own) for part in join.inputs)
        if None in links or not convolved or graph.output in (join.output, *join.inputs):
            continue
        stops = list(itertools.accumulate(part.shape[-1] for part in join.inputs))
        for part, stop, found in zip(join.inputs, stops, links, strict=True):
            vectors = norm.scale[stop - part.shape[-1] : stop], norm.bias[stop - part.shape[-1] : stop]
            for number, first in found:
                changed[number] = _reading_scaled(changed[number], first, *vectors)
            changed[part.number] = _giving_scaled(changed[part.number], *vectors)
        changed[join.output.number] = dataclasses.replace(join, output=norm.output)
        del changed[norm.output.number]
    kept = (changed.get(operation.output.number) for operation in graph.operations)
    return dataclasses.replace(graph, operations=tuple(operation for operation in kept if operation is not None))


def _only_scales(norm):
    """Whether an operation is a scale and a shift that can be undone."""
    if norm.kind != "affine" or norm.activation is not None:
        return False
    magnitudes = np.abs(norm.scale)
    return magnitudes.min() > _SMALL * magnitudes.max()


def _convolves(operation, own):
    return operation is not None and operation.kind == "conv" and not operation.activation and operation.kernel in own


def _links(part, join, readers, own):
    """What reads a value, but for `join`: `(number of a convolution's output, first row)`; `None` if something else."""
    links = []
    for reader in readers[part.number]:
        if reader is join:
            continue
        behind = readers.get(reader.output.number, ())
        if reader.kind != "concat" or len(behind) != 1 or not _convolves(behind[0], own) or not _pointwise(behind[0]):
            return None
        before = itertools.takewhile(lambda value: value != part, reader.inputs)
        links.append((behind[0].output.number, sum(value.shape[-1] for value in before)))
    return links


def _pointwise(operation):
    return operation.kernel.array.shape[:2] == (1, 1) and operation.attributes["groups"] == 1


def _reading_scaled(operation, first, scale, shift):
    """A convolution that reads, from row `first` of its kernel on, `scale * x + shift` where it read `x`."""
    array = operation.kernel.array.astype("float64")
    rows = array[0, 0, first : first + len(scale)]
    rows /= scale[:, None]
    added = shift @ rows if operation.scale is None else (shift @ rows) * operation.scale
    bias = (-added if operation.bias is None else operation.bias - added).astype("float32")
    return dataclasses.replace(operation, kernel=Stored(operation.kernel.name, array.astype("float32")), bias=bias)


def _giving_scaled(operation, scale, shift):
    bias = shift if operation.bias is None else shift + scale * operation.bias
    return dataclasses.replace(
        operation, scale=scale if operation.scale is None else scale * operation.scale, bias=bias
    )


def stack_deals(graph):
    """Groups that channels are dealt to and that are read one by one are stacked like pictures.

    Taken out of a stack a group is a piece of memory, and to stack them takes less time than to shuffle channels.
    """
    readers, number = graph.consumers(), graph.next_number()
    stacks, operations = {}, []
    for operation in graph.operations:
        groups = sorted(readers.get(operation.output.number, ()), key=lambda reader: reader.attributes.get("start", 0))
        if operation.kind == "permute" and _are_dealt(groups, operation.attributes["indices"]):
            steps = _stacked(operation, len(groups), number)
            operations += steps
            number += len(steps) - 1
            stacks.update({group.output.number: (steps[-1].output, place) for place, group in enumerate(groups)})
        elif operation.output.number in stacks:
            stack, place = stacks[operation.output.number]
            operation = dataclasses.replace(operation, inputs=(stack,), attributes={"start": 0, "picture": place})
            operations.append(operation)
        else:
            operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def _are_dealt(groups, indices):
    """Whether operations slice the groups, in their order, that `indices` deals channels to."""
    if len(groups) < 2 or any(group.kind != "slice" for group in groups):
        return False
    sizes = hierarchical.split_sizes(len(indices), len(groups))
    starts = (0, *itertools.accumulate(sizes[:-1]))
    taken = [(group.attributes["start"], group.output.shape[-1]) for group in groups]
    return taken == list(zip(starts, sizes, strict=True)) and np.array_equal(
        indices, permutations.strided_shuffle(len(indices), len(groups))
    )


def _stacked(operation, groups, number):
    """A stack of all groups, padded with zeros to one size. A value that is new has the number."""
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


def read_apart(graph):
    """A 1x1 convolution that alone reads two joined values becomes two convolutions, added.

    It is done where an addition, which moves three numbers for each filter, is less than to join, which moves two for
    each channel. In integers the sum would be rounded once more.
    """
    readers, uses, number = graph.consumers(), graph.uses(), graph.next_number()
    pairs = {
        join.output.number: join
        for join in graph.operations
        if join.kind == "concat" and len(join.inputs) == 2 and join.output != graph.output
    }
    operations = []
    for operation in graph.operations:
        join = pairs.get(operation.inputs[0].number)
        if join is None or len(readers[join.output.number]) > 1 or not _is_cheaper_apart(operation, uses):
            operations.append(operation)
            continue
        operations.remove(join)
        parts, first = [], 0
        for value in join.inputs:
            stop = first + value.shape[-1]
            kernel = Stored(f"{operation.kernel.name}_{first}", operation.kernel.array[:, :, first:stop])
            output = Value(number + len(parts), operation.output.shape)
            vectors = {"bias": None if parts else operation.bias, "activation": None}
            parts.append(dataclasses.replace(operation, inputs=(value,), output=output, kernel=kernel, **vectors))
            first = stop
        added = tuple(part.output for part in parts)
        sums = Operation("add", operation.name, added, operation.output, activation=operation.activation)
        operations += [*parts, dataclasses.replace(sums, use=operation.use)]
        number += len(parts)
    return dataclasses.replace(graph, operations=tuple(operations))


def _is_cheaper_apart(operation, uses):
    if operation.kind != "conv" or not _pointwise(operation) or len(uses[operation.kernel]) > 1:
        return False
    _, _, channels, filters = operation.kernel.array.shape
    return 3 * filters <= 2 * channels and operation.attributes["strides"] == (1, 1)
