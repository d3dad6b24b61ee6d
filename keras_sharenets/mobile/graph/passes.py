"""Small rewrites of an inference graph. Each takes a graph and returns one that computes the same."""

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Stored, Value
from keras_sharenets.mobile.graph.merging import merge_added

_LINEAR = ("conv", "depthwise", "dense", "affine")
_ACTIVATED = (*_LINEAR, "add")


def _merge_into_producer(graph, mergeable):
    """Replaces a producer and its only reader by one operation, wherever `mergeable(producer, reader)` gives one."""
    readers = graph.consumers()
    producers, order = {}, []
    for operation in graph.operations:
        producer = producers.get(operation.inputs[0].number) if len(operation.inputs) == 1 else None
        merged = None
        if producer is not None and len(readers[producer.output.number]) == 1 and producer.output != graph.output:
            merged = mergeable(producer, operation)
        if merged is not None:
            order[order.index(producer)] = merged
            operation = merged
        else:
            order.append(operation)
        producers[operation.output.number] = operation
    return dataclasses.replace(graph, operations=tuple(order))


def fold_scales(graph):
    """A scale and shift behind a linear operation becomes part of it; the kernel itself stays as it is stored."""

    def mergeable(producer, reader):
        if reader.kind != "affine" or producer.activation is not None or producer.kind not in _LINEAR:
            return None
        scale = reader.scale if producer.scale is None else reader.scale * producer.scale
        bias = reader.bias if producer.bias is None else reader.bias + reader.scale * producer.bias
        return dataclasses.replace(producer, output=reader.output, scale=scale, bias=bias, activation=reader.activation)

    return _merge_into_producer(graph, mergeable)


def fuse_activations(graph):
    """A ReLU becomes part of the operation before it."""

    def mergeable(producer, reader):
        if reader.kind != "identity" or producer.activation is not None or producer.kind not in _ACTIVATED:
            return None
        return dataclasses.replace(producer, output=reader.output, activation=reader.activation)

    return _merge_into_producer(graph, mergeable)


def pad_with_zeros(graph):
    """Padding that repeats the border, before a max pooling, becomes padding with zeros where nothing is negative."""
    positive, operations = set(), []
    for operation in graph.operations:
        symmetric = operation.attributes.get("mode") == "symmetric"
        if symmetric and operation.inputs[0].number in positive:
            operation = dataclasses.replace(operation, attributes={"paddings": operation.attributes["paddings"]})
        if operation.activation is not None:
            positive.add(operation.output.number)
        operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def shuffle_last(graph):
    """A scale, shift or ReLU behind a permutation of channels goes before it, so that it can become part of more."""
    readers, producers, operations = graph.consumers(), {}, []
    number = graph.next_number()
    for operation in graph.operations:
        before = producers.get(operation.inputs[0].number)
        movable = operation.kind in ("affine", "identity") and before is not None and before.kind == "permute"
        if movable and len(readers[before.output.number]) == 1 and before.output != graph.output:
            indices = before.attributes["indices"]
            vectors = {name: _unpermuted(getattr(operation, name), indices) for name in ("scale", "bias")}
            between, number = Value(number, before.output.shape), number + 1
            operations.remove(before)
            operations.append(dataclasses.replace(operation, inputs=before.inputs, output=between, **vectors))
            operation = dataclasses.replace(before, inputs=(between,), output=operation.output)
        operations.append(operation)
        producers[operation.output.number] = operation
    return dataclasses.replace(graph, operations=tuple(operations))


def join_last(graph):
    """A scale, shift or ReLU behind joined channels goes before the join, to each part its own."""
    readers, producers, operations = graph.consumers(), {}, []
    number = graph.next_number()
    for operation in graph.operations:
        before = producers.get(operation.inputs[0].number)
        movable = operation.kind in ("affine", "identity") and before is not None and before.kind == "concat"
        alone = movable and len(readers[before.output.number]) == 1 and before.output != graph.output
        if alone and all(len(readers.get(value.number, ())) == 1 for value in before.inputs):
            operations.remove(before)
            parts, start = [], 0
            for value in before.inputs:
                part = Value(number, value.shape)
                own = slice(start, start + value.shape[-1])
                vectors = {name: _part(getattr(operation, name), own) for name in ("scale", "bias")}
                operations.append(dataclasses.replace(operation, inputs=(value,), output=part, **vectors))
                parts.append(part)
                number, start = number + 1, own.stop
            operation = dataclasses.replace(before, inputs=tuple(parts), output=operation.output)
        operations.append(operation)
        producers[operation.output.number] = operation
    return dataclasses.replace(graph, operations=tuple(operations))


def _part(vector, own):
    return None if vector is None else vector[own]


def permute_kernels(graph):
    """A permutation that only convolutions without groups read becomes part of their kernels, if each has one use."""
    readers, uses = graph.consumers(), graph.uses()
    gone = {}
    for operation in graph.operations:
        read = readers.get(operation.output.number, [])
        taken_in = all(_mixes_channels(reader) and len(uses[reader.kernel]) == 1 for reader in read)
        if operation.kind == "permute" and read and taken_in and operation.output != graph.output:
            gone[operation.output.number] = operation
    operations = []
    for operation in graph.operations:
        before = gone.get(operation.inputs[0].number)
        if before is not None:
            rows = np.empty_like(operation.kernel.array)
            rows[:, :, before.attributes["indices"]] = operation.kernel.array
            operation = dataclasses.replace(operation, inputs=before.inputs, kernel=Stored(operation.kernel.name, rows))
        if operation.output.number not in gone:
            operations.append(operation)
    return dataclasses.replace(graph, operations=tuple(operations))


def _mixes_channels(operation):
    return operation.kind == "conv" and operation.attributes["groups"] == 1


def _unpermuted(vector, indices):
    if vector is None:
        return None
    original = np.empty_like(vector)
    original[indices] = vector
    return original


def simplify(graph):
    """The passes that every export begins with, in their order."""
    for rewrite in (
        merge_added,
        shuffle_last,
        shuffle_last,
        join_last,
        join_last,
        fold_scales,
        fuse_activations,
        fold_scales,
        permute_kernels,
        pad_with_zeros,
    ):
        graph = rewrite(graph)
    return graph
