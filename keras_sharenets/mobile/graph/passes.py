"""Passes that rewrite an inference graph: each takes a graph and returns an equivalent one.

Every export begins with [`simplify`], after `merging.merge_equal`; the passes of `scales` come last. `simplify` ends
with `merge_equal`, too: ReLUs that differ in the padding of their readers are equal once it is folded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, InferenceGraph, Value
from keras_sharenets.mobile.graph.merging import (
    common_factor,
    merge_added,
    merge_equal,
    merge_hard_swish,
    merge_into_producer,
    merge_masks,
    merge_reshapes,
)
from keras_sharenets.mobile.graph.quantization import rewritable_kernels
from keras_sharenets.ops.convolution import same_padding

_WITH_KERNEL = ("conv", "conv_transpose", "depthwise", "dense")
_LINEAR = (*_WITH_KERNEL, "affine")
_WITH_ACTIVATION = (*_LINEAR, "add")
# Factors from its inverse to this number are folded into kernels; float16 kernels would underflow beyond.
_LARGEST_FACTOR = 1000


def simplify(graph: InferenceGraph) -> InferenceGraph:
    """Applies the passes that every export begins with."""
    for rewrite in (
        merge_hard_swish,
        merge_masks,
        hoist_above_reshape,
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
        fold_gate_factors,
        fold_permutes,
        pad_with_zeros,
        fold_padding,
        fold_common_factors,
        merge_equal,
    ):
        graph = rewrite(graph)
    return graph


def fold_scales(graph: InferenceGraph) -> InferenceGraph:
    """Merges a scale and shift into the preceding linear operation; the stored kernel itself does not change."""

    def merged(producer, reader):
        if reader.kind != "affine" or producer.activation is not None or producer.kind not in _LINEAR:
            return None
        scale = reader.scale if producer.scale is None else reader.scale * producer.scale
        bias = reader.bias if producer.bias is None else reader.bias + reader.scale * producer.bias
        return dataclasses.replace(producer, output=reader.output, scale=scale, bias=bias, activation=reader.activation)

    return merge_into_producer(graph, merged)


def fold_into_dense(graph: InferenceGraph) -> InferenceGraph:
    """Folds a scale and shift into the matrix product that is its only reader, if the kernel has no other use."""
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

    return merge_into_producer(graph, merged)


def fold_gate_factors(graph: InferenceGraph) -> InferenceGraph:
    """Moves the factor of a gate, such as 1/6 of a hard sigmoid, to the convolution that is the only reader.

    Only one factor for all channels is moved: others would change the ratios of the kernel weights.
    """
    readers, rewritable, ungated, factors = graph.consumers(), rewritable_kernels(graph), {}, {}

    def reader_of(operation):
        # Values with a learned range keep it.
        (one, *others) = readers.get(operation.output.number, (operation,))
        return None if others or one is operation or operation.output.number in graph.ranges else one

    for operation in graph.operations:
        factor = common_factor(operation)
        if factor:
            product = reader_of(operation)
            reader = reader_of(product) if product is not None and product.kind == "multiply" else None
            if reader is not None and reader.kind in _WITH_KERNEL and reader.kernel in rewritable:
                ungated[operation.output.number] = operation.inputs[0]
                factors[reader.output.number] = factors.get(reader.output.number, 1) * factor
    operations = []
    for operation in graph.operations:
        factor, kernel = factors.get(operation.output.number), operation.kernel
        if factor is not None and kernel is not None:
            kernel = Constant(kernel.name, kernel.array * np.float32(factor))
            operation = dataclasses.replace(operation, kernel=kernel)
        if operation.output.number not in ungated:
            inputs = tuple(ungated.get(value.number, value) for value in operation.inputs)
            operations.append(dataclasses.replace(operation, inputs=inputs))
    return graph.with_operations(operations)


def fold_common_factors(graph: InferenceGraph) -> InferenceGraph:
    """Moves one factor for all channels to the convolution or product that alone reads the result.

    `factor * x + shift` becomes `x + shift / factor`; without a shift, as for pixels divided by 255, nothing remains.
    """
    readers, rewritable = graph.consumers(), rewritable_kernels(graph)
    factors, same, operations = {}, {}, []
    for operation in graph.operations:
        inputs = tuple(same.get(value.number, value) for value in operation.inputs)
        operation, number = dataclasses.replace(operation, inputs=inputs), operation.output.number
        kernel = operation.kernel
        if number in factors and kernel is not None:
            kernel = Constant(kernel.name, kernel.array * factors[number])
            operation = dataclasses.replace(operation, kernel=kernel)
        factor, read = _factor(operation), readers.get(number, ())
        # Values with a learned range keep it.
        if factor and len(read) == 1 and number not in graph.ranges and read[0].kernel in rewritable:
            factors[read[0].output.number] = factor
            if operation.bias is None or not operation.bias.any():
                same[number] = inputs[0]
                continue
            bias = (operation.bias / factor).astype("float32")
            operation = dataclasses.replace(operation, scale=np.ones_like(bias), bias=bias)
        operations.append(operation)
    return graph.with_operations(operations)


def _factor(operation):
    """The factor other than 1 of a scale and shift that is the same for all channels; 0 for other operations."""
    scale = operation.scale
    if operation.kind != "affine" or operation.activation is not None or scale is None or np.ptp(scale):
        return 0
    return scale[0] if scale[0] != 1 and 1 / _LARGEST_FACTOR <= abs(scale[0]) <= _LARGEST_FACTOR else 0


def split_unit_vectors(graph: InferenceGraph) -> InferenceGraph:
    """Splits vector normalization, `x / sqrt(sum(x * x))`, into operations that GPU delegates support; for floats."""
    number, operations = graph.next_number(), []
    for operation in graph.operations:
        if operation.kind != "l2_normalize":
            operations.append(operation)
            continue
        (x,) = operation.inputs
        *sides, count = x.shape
        squares = Value(number, x.shape)
        mean, total, root = (Value(number + place, (*sides, 1)) for place in (1, 2, 3))
        number += 4
        # The lower bound that Keras uses for a vector of zeros.
        vectors = {"scale": np.array([count], "float32"), "bias": np.array([1e-24], "float32")}
        axes = {"axes": (len(sides),), "keepdims": True}
        operations += [
            dataclasses.replace(operation, kind="multiply", inputs=(x, x), output=squares),
            dataclasses.replace(operation, kind="mean", inputs=(squares,), output=mean, attributes=axes),
            dataclasses.replace(operation, kind="affine", inputs=(mean,), output=total, **vectors),
            dataclasses.replace(operation, kind="rsqrt", inputs=(total,), output=root),
            dataclasses.replace(operation, kind="multiply", inputs=(x, root)),
        ]
    return graph.with_operations(operations)


def split_hard_swish(graph: InferenceGraph) -> InferenceGraph:
    """Splits each hard swish into `x * hard_sigmoid(x)`: XNNPACK supports both in integers, but not hard swish."""
    number, operations = graph.next_number(), []
    for operation in graph.operations:
        if operation.kind == "hard_swish":
            gate = Value(number, operation.output.shape)
            number += 1
            operations.append(dataclasses.replace(operation, kind="hard_sigmoid", output=gate))
            operation = dataclasses.replace(operation, kind="multiply", inputs=(*operation.inputs, gate))
        operations.append(operation)
    return graph.with_operations(operations)


def fuse_activations(graph: InferenceGraph) -> InferenceGraph:
    """Fuses a ReLU into the preceding operation."""

    def merged(producer, reader):
        if reader.kind != "identity" or producer.activation is not None or producer.kind not in _WITH_ACTIVATION:
            return None
        return dataclasses.replace(producer, output=reader.output, activation=reader.activation)

    return merge_into_producer(graph, merged)


def pad_with_zeros(graph: InferenceGraph) -> InferenceGraph:
    """Replaces border padding before a max pooling by zero padding if no value is negative."""
    readers, positive, operations = graph.consumers(), set(), []
    for operation in graph.operations:
        symmetric = operation.attributes.get("mode") == "symmetric"
        if symmetric and operation.inputs[0].number in positive:
            paddings = operation.attributes["paddings"]
            if all(_pools_border(paddings, reader) for reader in readers.get(operation.output.number, ())):
                operation = dataclasses.replace(operation, attributes={"paddings": paddings})
        if operation.activation is not None:
            positive.add(operation.output.number)
        operations.append(operation)
    return graph.with_operations(operations)


def _pools_border(paddings, reader):
    """Whether an operation takes maxima over windows that contain the pixels that such a symmetric padding repeats."""
    if reader.kind != "max_pool" or reader.attributes["padding"] != "valid":
        return False
    sizes = (1, *reader.attributes["pool_size"], 1)
    return all(2 * max(each) <= size for each, size in zip(paddings, sizes, strict=True))


def fold_padding(graph: InferenceGraph) -> InferenceGraph:
    """Replaces zero padding that only convolutions read by their own "same" padding, if it is equivalent."""
    readers = graph.consumers()
    folded = {
        pad.output.number: pad
        for pad in graph.operations
        # A learned range applies to the padded value.
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
    """Whether a convolution of a padded image equals the convolution with "same" padding of the original image."""
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

    `hoisted(before, operation, number)` returns the operations in their new order, with new values numbered from
    `number`, or `None` if this operation stays below `before`.
    """
    readers, producers, operations = graph.consumers(), {}, []
    number = graph.next_number()
    for operation in graph.operations:
        before, order = producers.get(operation.source), None
        if before is not None and before.kind == kind:
            movable = operation.kind in ("affine", "identity") and len(readers[before.output.number]) == 1
            order = hoisted(before, operation, number) if movable else None
        if order is not None:
            operations.remove(before)
            number += len(order) - 1
        operations += order or [operation]
        producers[operation.output.number] = operations[-1]
    return graph.with_operations(operations)


def hoist_above_reshape(graph: InferenceGraph) -> InferenceGraph:
    """Moves a scale, shift or ReLU above a reshape that keeps the channels, next to their producer."""

    def hoisted(reshape, operation, number):
        (source,) = reshape.inputs
        if source.shape[-1] != operation.output.shape[-1]:
            return None
        between = Value(number, source.shape)
        return [
            dataclasses.replace(operation, inputs=reshape.inputs, output=between),
            dataclasses.replace(reshape, inputs=(between,), output=operation.output),
        ]

    return _hoist(graph, "reshape", hoisted)


def hoist_above_permute(graph: InferenceGraph) -> InferenceGraph:
    """Moves a scale, shift or ReLU above a permutation of channels, where more can be folded."""

    def hoisted(permute, operation, number):
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
    """Moves a scale, shift or ReLU above a concatenation of channels, split among its parts."""
    readers = graph.consumers()

    def hoisted(concat, operation, number):
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
    """Folds a permutation that only ungrouped convolutions read into their kernels, if each has one use."""
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
    """A convolution that reads the input of the permutation `before`."""
    rows = np.empty_like(operation.kernel.array)
    rows[:, :, before.attributes["indices"]] = operation.kernel.array
    return dataclasses.replace(operation, inputs=before.inputs, kernel=Constant(operation.kernel.name, rows))
