"""Rewrites of an inference graph: each takes a graph and returns one that computes the same.

[`simplify`] is what every export begins with; those of `scales` come last.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, InferenceGraph, Operation, Value, reduced_axes
from keras_sharenets.mobile.graph.quantization import rewritable_kernels
from keras_sharenets.ops.convolution import same_padding

_LINEAR = ("conv", "conv_transpose", "depthwise", "dense", "affine")
_WITH_ACTIVATION = (*_LINEAR, "add")


def simplify(graph: InferenceGraph) -> InferenceGraph:
    """The passes that every export begins with, in their order."""
    for rewrite in (
        merge_reshapes,
        merge_added,
        hoist_above_permute,
        hoist_above_permute,
        hoist_above_concat,
        hoist_above_concat,
        fold_scales,
        fuse_activations,
        fold_scales,
        fold_into_dense,
        fold_permutes,
        pad_with_zeros,
        fold_padding,
    ):
        graph = rewrite(graph)
    return graph


def _merge_into_producer(graph, merged):
    """Replaces a producer and its only reader by one operation, wherever `merged(producer, reader)` gives one."""
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
    """Reshapes become part of what is before them, or go where they change nothing.

    A mean or maximum over an image keeps the axes that a reshape behind it brings back, as in squeeze-and-excitation;
    over a single pixel it is a reshape itself. Each of these steps costs as much time as a small layer.
    """

    def merged(producer, reader):
        if reader.kind != "reshape":
            return None
        if producer.kind == "reshape":
            return dataclasses.replace(producer, output=reader.output)
        if producer.kind in ("mean", "max"):
            for keepdims in (True, False):
                if reader.output.shape == _reduced_shape(producer, keepdims):
                    attributes = {**producer.attributes, "keepdims": keepdims}
                    return dataclasses.replace(producer, output=reader.output, attributes=attributes)
        return None

    operations = map(_as_reshape, graph.operations)
    graph = _merge_into_producer(_with_moved_ranges(graph.with_operations(operations)), merged)
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
    """A mean or maximum of single numbers as the reshape that it is; any other operation as it is."""
    if operation.kind in ("mean", "max") and _reduced_shape(operation, True) == operation.inputs[0].shape:
        return dataclasses.replace(operation, kind="reshape", attributes={})
    return operation


def _reduced_shape(operation: Operation, keepdims: bool) -> tuple[int, ...]:
    """The shape that a mean or maximum gives, with its axes as axes of 1 or without them."""
    shape = operation.inputs[0].shape
    axes = {axis % len(shape) for axis in reduced_axes(operation)}
    return tuple(1 if axis in axes else side for axis, side in enumerate(shape) if keepdims or axis not in axes)


def _with_moved_ranges(graph: InferenceGraph) -> InferenceGraph:
    """Ranges that were learned before a reshape hold behind it, and the other way around."""
    ranges = dict(graph.ranges)
    for operation in graph.operations:
        ends = operation.source, operation.output.number
        known = [ranges[number] for number in ends if number in ranges]
        if operation.kind == "reshape" and len(known) == 1:
            ranges.update(dict.fromkeys(ends, known[0]))
    return dataclasses.replace(graph, ranges=ranges)


def fold_scales(graph: InferenceGraph) -> InferenceGraph:
    """A scale and shift behind a linear operation becomes part of it; the kernel itself stays as it is stored."""

    def merged(producer, reader):
        if reader.kind != "affine" or producer.activation is not None or producer.kind not in _LINEAR:
            return None
        scale = reader.scale if producer.scale is None else reader.scale * producer.scale
        bias = reader.bias if producer.bias is None else reader.bias + reader.scale * producer.bias
        return dataclasses.replace(producer, output=reader.output, scale=scale, bias=bias, activation=reader.activation)

    return _merge_into_producer(graph, merged)


def fold_into_dense(graph: InferenceGraph) -> InferenceGraph:
    """A scale and shift that a matrix product alone reads becomes part of it, if its kernel has no other use."""
    rewritable = rewritable_kernels(graph)

    def merged(producer, reader):
        folds = producer.kind == "affine" and producer.activation is None and producer.inputs[0] not in graph.inputs
        if not folds or reader.kind != "dense" or reader.kernel not in rewritable:
            return None
        array = reader.kernel.array * producer.scale[:, None]
        shift = producer.bias @ reader.kernel.array
        shift = shift if reader.scale is None else shift * reader.scale
        bias = (shift if reader.bias is None else reader.bias + shift).astype("float32")
        kernel = Constant(reader.kernel.name, array.astype("float32"))
        return dataclasses.replace(reader, inputs=producer.inputs, kernel=kernel, bias=bias)

    return _merge_into_producer(graph, merged)


def fuse_activations(graph: InferenceGraph) -> InferenceGraph:
    """A ReLU becomes part of the operation before it."""

    def merged(producer, reader):
        if reader.kind != "identity" or producer.activation is not None or producer.kind not in _WITH_ACTIVATION:
            return None
        return dataclasses.replace(producer, output=reader.output, activation=reader.activation)

    return _merge_into_producer(graph, merged)


def pad_with_zeros(graph: InferenceGraph) -> InferenceGraph:
    """Padding that repeats the border, before a max pooling, becomes padding with zeros where nothing is negative."""
    positive, operations = set(), []
    for operation in graph.operations:
        symmetric = operation.attributes.get("mode") == "symmetric"
        if symmetric and operation.inputs[0].number in positive:
            operation = dataclasses.replace(operation, attributes={"paddings": operation.attributes["paddings"]})
        if operation.activation is not None:
            positive.add(operation.output.number)
        operations.append(operation)
    return graph.with_operations(operations)


def fold_padding(graph: InferenceGraph) -> InferenceGraph:
    """Zeros around an image that convolutions alone read become their own padding, where "same" puts as many there."""
    readers = graph.consumers()
    folded = {
        pad.output.number: pad
        for pad in graph.operations
        # A range that was learned holds for what is read.
        if pad.kind == "pad" and "mode" not in pad.attributes and pad.output.number not in graph.ranges
        if all(_pads_alike(pad, reader) for reader in readers.get(pad.output.number, ()))
    }
    operations = []
    for operation in graph.operations:
        pad = folded.get(operation.source)
        if pad is not None:
            attributes = {**operation.attributes, "padding": "same"}
            operation = dataclasses.replace(operation, inputs=pad.inputs, attributes=attributes)
        if operation.output.number not in folded:
            operations.append(operation)
    return graph.with_operations(operations)


def _pads_alike(pad, reader):
    """Whether a convolution without padding that reads a padded image gives with "same" what it gives without it."""
    if reader.kind not in ("conv", "shared_conv", "depthwise") or reader.attributes["padding"] != "valid":
        return False
    _, *sides, _ = pad.inputs[0].shape
    before, *paddings, behind = pad.attributes["paddings"]
    dilation = reader.attributes.get("dilation", (1, 1))
    sizes = [(size - 1) * rate + 1 for size, rate in zip(reader.kernel.array.shape[:2], dilation, strict=True)]
    same = [same_padding(*each) for each in zip(sides, sizes, reader.attributes["strides"], strict=True)]
    return (before, behind) == ((0, 0), (0, 0)) and [tuple(padding) for padding in paddings] == same


def _hoist(graph, kind, hoisted):
    """Moves scales, shifts and ReLUs above operations of a kind.

    `hoisted(before, operation, number, readers)` gives the operations in their new order, values counted from a number
    that is free, or `None` where this operation stays below `before`.
    """
    readers, producers, operations = graph.consumers(), {}, []
    number = graph.next_number()
    for operation in graph.operations:
        before, order = producers.get(operation.source), None
        if before is not None and before.kind == kind:
            movable = operation.kind in ("affine", "identity") and len(readers[before.output.number]) == 1
            order = hoisted(before, operation, number, readers) if movable else None
        if order is not None:
            operations.remove(before)
            number += len(order) - 1
        operations += order or [operation]
        producers[operation.output.number] = operations[-1]
    return graph.with_operations(operations)


def hoist_above_permute(graph: InferenceGraph) -> InferenceGraph:
    """A scale, shift or ReLU behind a permutation of channels goes before it, where it can become part of more."""

    def hoisted(permute, operation, number, readers):
        indices, between = permute.attributes["indices"], Value(number, permute.output.shape)
        vectors = {name: _unpermuted(getattr(operation, name), indices) for name in ("scale", "bias")}
        return [
            dataclasses.replace(operation, inputs=permute.inputs, output=between, **vectors),
            dataclasses.replace(permute, inputs=(between,), output=operation.output),
        ]

    return _hoist(graph, "permute", hoisted)


def _unpermuted(vector, indices):
    if vector is None:
        return None
    original = np.empty_like(vector)
    original[indices] = vector
    return original


def hoist_above_concat(graph: InferenceGraph) -> InferenceGraph:
    """A scale, shift or ReLU behind concatenated channels goes before that, to each part its own."""

    def hoisted(concat, operation, number, readers):
        if any(len(readers.get(value.number, ())) != 1 for value in concat.inputs):
            return None
        moved, start = [], 0
        for value in concat.inputs:
            own = slice(start, start + value.shape[-1])
            vectors = {"scale": operation.scale, "bias": operation.bias}
            vectors = {name: None if vector is None else vector[own] for name, vector in vectors.items()}
            part = Value(number + len(moved), value.shape)
            moved.append(dataclasses.replace(operation, inputs=(value,), output=part, **vectors))
            start = own.stop
        parts = tuple(part.output for part in moved)
        return [*moved, dataclasses.replace(concat, inputs=parts, output=operation.output)]

    return _hoist(graph, "concat", hoisted)


def fold_permutes(graph: InferenceGraph) -> InferenceGraph:
    """A permutation that only ungrouped convolutions read becomes part of their kernels, if each has one use."""
    readers, uses, folded = graph.consumers(), graph.uses(), {}

    def absorbs(reader):
        return reader.kind == "conv" and reader.attributes["groups"] == 1 and len(uses[reader.kernel]) == 1

    for operation in graph.operations:
        read = readers.get(operation.output.number, [])
        if operation.kind == "permute" and read and all(map(absorbs, read)):
            folded[operation.output.number] = operation
    operations = []
    for operation in graph.operations:
        before = folded.get(operation.source)
        if before is not None:
            operation = _with_rows_of(operation, before)
        if operation.output.number not in folded:
            operations.append(operation)
    return graph.with_operations(operations)


def _with_rows_of(operation, before):
    """A convolution that reads what the permutation `before` reads."""
    rows = np.empty_like(operation.kernel.array)
    rows[:, :, before.attributes["indices"]] = operation.kernel.array
    return dataclasses.replace(operation, inputs=before.inputs, kernel=Constant(operation.kernel.name, rows))


def merge_added(graph: InferenceGraph) -> InferenceGraph:
    """A convolution and a 1x1 convolution of the same image, added, become one: their kernels are added.

    Done where all uses of both kernels are in such pairs, so that no kernel is stored twice.
    """
    pairs = _pairs(graph)
    replaced, gone, merged = {}, set(), {}
    for operation, (large, small, place) in pairs.items():
        key = large.kernel, small.kernel, place
        if key not in merged:
            array = large.kernel.array.copy()
            array[place] += small.kernel.array[0, 0]
            merged[key] = Constant(f"{large.kernel.name} and {small.kernel.name}", array)
        replaced[operation] = dataclasses.replace(large, output=operation.output, kernel=merged[key])
        gone |= {large, small}
    return graph.with_operations(replaced.get(entry, entry) for entry in graph.operations if entry not in gone)


def _pairs(graph):
    """`{addition: (convolution, 1x1 convolution, place in the kernel of the first)}` where they can be one."""
    readers, pairs = graph.consumers(), {}
    producers = {operation.output.number: operation for operation in graph.operations}

    def bare(part):
        """Whether nothing but the addition reads this convolution, and nothing is done to it before."""
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
    """Where in the large kernel the 1x1 kernel acts; `None` if they do not go over the same image alike."""
    alike = all(large.attributes[name] == small.attributes[name] for name in ("strides", "groups"))
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
    """The pairs whose kernels are used in no other way."""
    partners = {}
    for large, small, place in pairs.values():
        for kernel, partner in ((large.kernel, (small.kernel, place)), (small.kernel, (large.kernel, place))):
            partners.setdefault(kernel, []).append(partner)
    uses = graph.uses()
    sound = {kernel for kernel, found in partners.items() if len(found) == len(uses[kernel]) and len(set(found)) == 1}
    return {addition: pair for addition, pair in pairs.items() if {pair[0].kernel, pair[1].kernel} <= sound}
