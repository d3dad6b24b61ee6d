"""Merging of operations of an inference graph: equal ones, and those that one operation can replace."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import FAR, Constant, InferenceGraph, Operation, Value, reduced_axes
from keras_sharenets.mobile.graph.quantization import tied_values

_REDUCTIONS = ("mean", "max", "min")


def merge_equal(graph: InferenceGraph) -> InferenceGraph:
    """Merges operations that compute the same from the same values, such as ReLUs at the start of several branches.

    Operations are not merged if values with separate integer scales would get a common one, nor in a graph with learned
    ranges, where quantization-aware training rounds the output of each.
    """
    if graph.ranges:
        return graph
    tied, given = tied_values(graph), {value.number for value in graph.outputs}
    alone = {root for root, count in collections.Counter(tied.values()).items() if count == 1}
    same, first, operations = {}, {}, []
    for operation in graph.operations:
        inputs = tuple(same.get(value.number, value) for value in operation.inputs)
        operation, number = dataclasses.replace(operation, inputs=inputs), operation.output.number
        known = first.setdefault(_meaning(operation), operation.output)
        roots = {tied[number], tied[known.number]}
        # A constant has a separate scale at each use.
        if known != operation.output and number not in given and (len(roots) == 1 or roots <= alone) and inputs:
            same[number] = known
        else:
            operations.append(operation)
    return graph.with_operations(operations)


def _meaning(operation):
    """Key of operations that compute the same; for reshapes and the like, the output shape distinguishes them."""
    numbers = {"scale": operation.scale, "bias": operation.bias, **operation.attributes}
    contents = tuple((name, _hashable(value)) for name, value in sorted(numbers.items()))
    return operation.kind, operation.inputs, operation.kernel, operation.activation, operation.output.shape, contents


def _hashable(value):
    """An attribute as a hashable object."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def merge_into_producer(
    graph: InferenceGraph, merged: Callable[[Operation, Operation], Operation | None]
) -> InferenceGraph:
    """Replaces a producer and its only reader by one operation wherever `merged(producer, reader)` returns one."""
    readers, producers, order = graph.consumers(), {}, []
    for operation in graph.operations:
        producer = producers.get(operation.source) if len(operation.inputs) == 1 else None
        one = None
        if producer is not None and len(readers[producer.output.number]) == 1:
            one = merged(producer, operation)
        if one is None:
            order.append(operation)
        else:
            order[order.index(producer)] = operation = one
        producers[operation.output.number] = operation
    return graph.with_operations(order)


def merge_reshapes(graph: InferenceGraph) -> InferenceGraph:
    """Merges reshapes into preceding operations, and removes those that do nothing.

    A mean or maximum over an image keeps the axes that a subsequent reshape restores, as in squeeze-and-excitation;
    over a single pixel it is itself a reshape. Each of these steps takes as much time as a small layer.
    """

    def merged(producer, reader):
        if reader.kind != "reshape":
            return None
        if producer.kind == "reshape":
            return dataclasses.replace(producer, output=reader.output)
        if producer.kind in _REDUCTIONS:
            for keepdims in (True, False):
                if reader.output.shape == _reduced_shape(producer, keepdims):
                    attributes = {**producer.attributes, "keepdims": keepdims}
                    return dataclasses.replace(producer, output=reader.output, attributes=attributes)
        return None

    operations = map(_as_reshape, graph.operations)
    graph = merge_into_producer(_with_moved_ranges(graph.with_operations(operations)), merged)
    same, operations = {}, []
    for operation in graph.operations:
        inputs = tuple(same.get(value.number, value) for value in operation.inputs)
        operation = dataclasses.replace(operation, inputs=inputs)
        idle = operation.kind == "reshape" and operation.output.shape == inputs[0].shape
        if idle and operation.output not in graph.outputs:
            same[operation.output.number] = inputs[0]
        else:
            operations.append(operation)
    return graph.with_operations(operations)


def _as_reshape(operation: Operation) -> Operation:
    """Replaces a mean or maximum of single numbers by a reshape; returns other operations unchanged."""
    if operation.kind in _REDUCTIONS and _reduced_shape(operation, True) == operation.inputs[0].shape:
        return dataclasses.replace(operation, kind="reshape", attributes={})
    return operation


def _reduced_shape(operation: Operation, keepdims: bool) -> tuple[int, ...]:
    """The output shape of a mean or maximum, with its axes kept as size 1 or removed."""
    shape = operation.inputs[0].shape
    axes = {axis % len(shape) for axis in reduced_axes(operation)}
    return tuple(1 if axis in axes else side for axis, side in enumerate(shape) if keepdims or axis not in axes)


def _with_moved_ranges(graph: InferenceGraph) -> InferenceGraph:
    """Copies learned ranges across reshapes, in both directions."""
    ranges = dict(graph.ranges)
    for operation in graph.operations:
        ends = operation.source, operation.output.number
        known = [ranges[number] for number in ends if number in ranges]
        if operation.kind == "reshape" and len(known) == 1:
            ranges.update(dict.fromkeys(ends, known[0]))
    return dataclasses.replace(graph, ranges=ranges)


def merge_added(graph: InferenceGraph) -> InferenceGraph:
    """Merges the sum of a convolution and a 1x1 convolution of the same image by adding their kernels.

    Applied if all uses of both kernels are in such pairs, so that no kernel is stored twice.
    """
    pairs = _pairs(graph)
    replaced, gone, merged = {}, set(), {}
    for operation, (large, small, place) in pairs.items():
        key = large.kernel, small.kernel, place
        if key not in merged:
            array = large.kernel.array.copy()
            array[place] += small.kernel.array[0, 0]
            merged[key] = Constant(f"{large.kernel.name} and {small.kernel.name}", array)
        fields = {"kernel": merged[key], "output": operation.output, "activation": operation.activation}
        replaced[operation] = dataclasses.replace(large, **fields)
        gone |= {large, small}
    return graph.with_operations(replaced.get(entry, entry) for entry in graph.operations if entry not in gone)


def _pairs(graph):
    """`{addition: (convolution, 1x1 convolution, position in the first kernel)}` for pairs that can be merged."""
    readers, pairs = graph.consumers(), {}
    producers = {operation.output.number: operation for operation in graph.operations}

    def bare(part):
        """Whether this is a convolution without scale, bias or activation that only the addition reads."""
        if part is None or part.kind != "conv" or len(readers[part.output.number]) > 1:
            return False
        if "dilation" in part.attributes:
            return False
        return part.scale is None and part.bias is None and part.activation is None

    for operation in graph.operations:
        parts = [producers.get(value.number) for value in operation.inputs]
        if operation.kind == "add" and len(parts) == 2 and all(map(bare, parts)):
            large, small = sorted(parts, key=_kernel_size, reverse=True)
            place = _common_place(large, small, producers)
            if place is not None:
                pairs[operation] = large, small, place
    return _complete(graph, pairs)


def _kernel_size(operation):
    return operation.kernel.array.size


def _common_place(large, small, producers):
    """Position of the 1x1 kernel in the large kernel; `None` if they do not process the same image in the same way."""
    alike = all(large.attributes[name] == small.attributes[name] for name in ("strides", "groups"))
    alike = alike and large.output.shape == small.output.shape  # An addition may broadcast.
    *sides, _, filters = large.kernel.array.shape
    *small_sides, _, small_filters = small.kernel.array.shape
    if not alike or small_sides != [1, 1] or small_filters != filters:
        return None
    if large.attributes["padding"] == "same":
        central = large.attributes["strides"] == (1, 1) and all(side % 2 for side in sides)
        return tuple(side // 2 for side in sides) if central and large.inputs == small.inputs else None
    if large.inputs == small.inputs:
        return (0, 0) if sides == [1, 1] else None
    pad = producers.get(large.inputs[0].number)
    if pad is None or pad.kind != "pad" or "mode" in pad.attributes or pad.inputs != small.inputs:
        return None
    _, rows, columns, channels = pad.attributes["paddings"]
    place = rows[0], columns[0]
    inside = all(start < side for start, side in zip(place, sides, strict=True))
    return place if inside and channels == (0, 0) else None


def _complete(graph, pairs):
    """The pairs whose kernels have no other uses."""
    partners = {}
    for large, small, place in pairs.values():
        for kernel, partner in ((large.kernel, (small.kernel, place)), (small.kernel, (large.kernel, place))):
            partners.setdefault(kernel, []).append(partner)
    uses = graph.uses()
    sound = {kernel for kernel, found in partners.items() if len(found) == len(uses[kernel]) and len(set(found)) == 1}
    return {addition: pair for addition, pair in pairs.items() if {pair[0].kernel, pair[1].kernel} <= sound}


def merge_masks(graph: InferenceGraph) -> InferenceGraph:
    """Moves a constant mask into the softmax that reads the masked scores, as in attention.

    The masked scores were replaced by a number that is too low to count, or such a number was added to them.
    """
    made = {step.output.number: step for step in graph.operations}

    def merged(producer, reader):
        found = _masked(producer, made) if reader.kind == "softmax" and not reader.attributes else None
        # A softmax of only masked scores is not 0.
        if found is None or not np.broadcast_to(found[1], producer.output.shape).any(axis=-1).all():
            return None
        return dataclasses.replace(reader, inputs=(found[0],), attributes={"mask": found[1]})

    result = merge_into_producer(graph, merged)
    return graph if result.operations == graph.operations else _without_unread(result)


def _masked(operation: Operation, made: dict[int, Operation]) -> tuple[Value, np.ndarray] | None:
    """The scores that an operation masks, and the mask: true for those that count; `None` for other operations."""
    if operation.kind == "fill":
        low = operation.attributes["numbers"].max() <= -FAR and operation.inputs[0].shape == operation.output.shape
        return (operation.inputs[0], operation.attributes["condition"]) if low else None
    if operation.kind == "where":
        condition = operation.attributes["condition"]
        for (x, other), mask in ((operation.inputs, condition), (operation.inputs[::-1], ~condition)):
            found = _addend(made.get(other.number), made)
            if found and found[0] == x and found[1].max() <= -FAR and x.shape == operation.output.shape:
                return x, mask
        return None
    found = _addend(operation, made)
    if found is None or found[0].shape != operation.output.shape:
        return None
    x, added = found
    if not np.all((added == 0) | (added <= -FAR)):
        return None
    return x, (added == 0).reshape((1,) * (len(x.shape) - added.ndim) + added.shape)


def _addend(operation: Operation | None, made: dict[int, Operation]) -> tuple[Value, np.ndarray] | None:
    """`(x, numbers)` for an operation that adds constant numbers to `x`; `None` for others."""
    if operation is None or operation.activation is not None:
        return None
    if operation.kind == "affine" and operation.bias is not None and np.all(operation.scale == 1):
        return operation.inputs[0], operation.bias
    if operation.kind in ("add", "subtract"):
        for place, (x, other) in enumerate((operation.inputs, operation.inputs[::-1])):
            numbers = _constant_of(other, made)
            if numbers is not None and (operation.kind == "add" or not place):
                return x, numbers if operation.kind == "add" else -numbers
    return None


def _constant_of(value: Value, made: dict[int, Operation]) -> np.ndarray | None:
    """The numbers of a constant value; `None` for others."""
    operation = made.get(value.number)
    return operation.attributes["constant"].array if operation is not None and operation.kind == "constant" else None


def _without_unread(graph):
    """The graph without operations whose results nothing reads."""
    read, operations = {value.number for value in graph.outputs}, []
    for operation in reversed(graph.operations):
        if operation.output.number in read:
            read.update(value.number for value in operation.inputs)
            operations.append(operation)
    return graph.with_operations(reversed(operations))


def merge_hard_swish(graph: InferenceGraph) -> InferenceGraph:
    """Fuses `x * relu6(x + 3) / 6`, the form in most networks, and `x * hard_sigmoid(x)` into one operation.

    Not applied if a range was learned for an intermediate value.
    """
    readers, producers = graph.consumers(), {step.output.number: step for step in graph.operations}
    merged: dict[Operation, Operation] = {}
    gone: set[Operation] = set()

    def read_once(number: int) -> bool:
        return len(readers.get(number, ())) == 1 and number not in graph.ranges

    def chain(value: Value) -> list[Operation]:
        """The steps that lead to a value, the last first, as far back as their outputs have no other readers."""
        steps: list[Operation] = []
        while value.number in producers and read_once(value.number):
            steps.append(producers[value.number])
            if len(steps) == 3 or len(steps[-1].inputs) != 1:
                break
            value = steps[-1].inputs[0]
        return steps

    for product in graph.operations:
        if product.kind != "multiply" or product.activation is not None:
            continue
        for x, gate in (product.inputs, product.inputs[::-1]):
            steps, factor, last = chain(gate), 1.0, product
            if steps and steps[0].kind == "affine":
                factor = common_factor(steps[0])
            elif read_once(product.output.number):
                steps, last = [product, *steps[:2]], readers[product.output.number][0]
                factor = common_factor(last)
            if len(steps) == 3 and np.isclose(factor, 1 / 6, rtol=1e-6) and _is_gate(steps[1], steps[2], x):
                fields = {"inputs": (x,), "output": last.output, "name": last.name, "use": last.use}
                merged[last] = dataclasses.replace(product, kind="hard_swish", **fields)
                gone.update(steps)
                break
    return graph.with_operations(merged.get(step, step) for step in graph.operations if step not in gone)


def _is_gate(clipped, shifted, x):
    """Whether two steps are `relu6(x + 3)`."""
    is_clipped = clipped.kind == "identity" and clipped.activation == "relu6"
    return is_clipped and shifted.inputs == (x,) and common_factor(shifted, shift=3) == 1


def common_factor(operation: Operation, *, shift: float = 0.0) -> float:
    """The factor of an operation that scales all channels alike and adds `shift` to each; 0 for other operations."""
    scale = operation.scale
    if operation.kind != "affine" or operation.activation is not None or scale is None or np.ptp(scale):
        return 0.0
    shifts = 0 if operation.bias is None else operation.bias
    return float(scale[0]) if np.all(shifts == np.float32(shift)) else 0.0
