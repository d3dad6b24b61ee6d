"""Cross-layer equalization: the filters of a kernel get one scale in an integer file instead of one each.

Each scale takes 8 bytes, 4 for the kernel and 4 for the bias, which is up to a quarter of the file of a small network.
If the channels of a value are divided by factors, and the kernels that read it multiply their input channels by them,
also after a ReLU, pooling, or an addition, the network computes the same. With the scales of its filters as factors, a
kernel needs only one. Other factors, for example for an addition of the outputs of several kernels, or for channels
with small filters but large values, cost some filters some of their integers. `equalization_factors` chooses them.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), choose such factors for
accuracy. Here they make the file smaller, and are used where the estimated rounding error grows little, if at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_sharenets.mobile.graph.equalization_error import Channels, LinkedErrors
from keras_sharenets.mobile.graph.equalization_factors import best_factors
from keras_sharenets.mobile.graph.inference_graph import BATCH, Constant, InferenceGraph, run_all
from keras_sharenets.mobile.graph.linked_channels import linked_channels
from keras_sharenets.mobile.graph.quantization import kernel_quantization, rewritable_kernels, tied_values
from keras_sharenets.mobile.graph.scales import scaled_kernel

# Images on which the values of each channel are measured.
_IMAGES = 64


def equalize(graph: InferenceGraph, representative_data: Sequence[np.ndarray]) -> InferenceGraph:
    """Gives the filters of kernels one scale where the kernels that read their output can take up the factors.

    Args:
        graph: `InferenceGraph` as returned by `scales.prepare_int8`.
        representative_data: a float array `(n, ...)` for each input.

    Returns:
        An equivalent graph. A kernel with several uses keeps its integers; only its scales at one use change. Values
        with a range from quantization-aware training do not change.
    """
    found = _measure(graph, [array[:_IMAGES] for array in representative_data])
    kernels, groups = _own_kernels(graph), tied_values(graph)
    changed = {operation.output.number: operation for operation in graph.operations}
    own = {number for number, operation in changed.items() if operation.kernel in kernels}
    for linked in linked_channels(graph, own):
        factors, alike = best_factors(LinkedErrors.of(linked, changed, found, groups, own))
        if factors is None:
            continue
        for number in (*linked.writers, *(operation.output.number for operation in linked.between)):
            divisors = factors[linked.values[number]]
            changed[number] = _divided(changed[number], divisors, own_kernel=number in own, one_scale=number in alike)
        for number in linked.readers:
            changed[number] = _multiplied(changed[number], factors[linked.values[changed[number].source]])
        for number, channels in linked.values.items():
            found[number] = found[number].divided(factors[channels])
    return graph.with_operations(changed.values())


def _own_kernels(graph) -> set[Constant]:
    """The kernels that a pass may change without storing one more: no other kernel has the same integers.

    Copies of a shared kernel with different scales of their filters have the same integers, and are stored once.
    """
    found: dict[tuple, list[Constant]] = {}
    for kernel, users in graph.uses().items():
        quantization = kernel_quantization(kernel.array, users[0].kind)
        shape = kernel.array.shape[2:] if users[0].kind == "depthwise" else (-1,)
        integers = np.round(kernel.array / quantization.scale.reshape(shape)).astype("int8")
        found.setdefault((integers.shape, integers.tobytes()), []).append(kernel)
    return {kernels[0] for kernels in found.values() if len(kernels) == 1} & rewritable_kernels(graph)


def _measure(graph, inputs) -> dict[int, Channels]:
    """`{value number: Channels}` of all values with channels."""
    found: dict[int, list] = {}

    def watch(value, array):
        array = np.asarray(array)
        if array.ndim > 1:
            images = array.reshape(len(array), -1, array.shape[-1])
            squares = [np.square(image).mean(0) for image in images]  # One by one: those of all take much memory.
            limits = images.min((0, 1)), images.max((0, 1))
            found.setdefault(value.number, []).append((*limits, np.mean(squares, 0), len(images)))

    for start in range(0, len(inputs[0]), BATCH):
        run_all(graph, [array[start : start + BATCH] for array in inputs], watch=watch)
    channels = {}
    for number, parts in found.items():
        lows, highs, squares, counts = zip(*parts, strict=True)
        channels[number] = Channels(
            np.minimum(np.min(lows, 0), 0), np.maximum(np.max(highs, 0), 0), np.average(squares, 0, counts)
        )
    return channels


def _divided(operation, factors, *, own_kernel, one_scale):
    """The operation with its output divided by factors."""
    bias = None if operation.bias is None else (operation.bias / factors).astype("float32")
    if operation.kernel is None:
        return dataclasses.replace(operation, bias=bias)
    scale = (1 / factors if operation.scale is None else operation.scale / factors).astype("float32")
    if not own_kernel:
        return dataclasses.replace(operation, scale=scale, bias=bias)
    attributes = {**operation.attributes, "one_scale": True} if one_scale else operation.attributes
    own = {"kernel": scaled_kernel(operation.kernel, operation.kind, scale), "scale": None, "attributes": attributes}
    return dataclasses.replace(operation, bias=bias, **own)


def _multiplied(operation, factors):
    """The operation for an input that has been divided by factors."""
    array, groups = operation.kernel.array, operation.attributes.get("groups", 1)
    if operation.kind != "depthwise":
        factors = np.repeat(factors.reshape(groups, -1).T, array.shape[-1] // groups, axis=1)
    else:
        factors = factors[:, None]
    return dataclasses.replace(operation, kernel=Constant(operation.kernel.name, (array * factors).astype("float32")))
