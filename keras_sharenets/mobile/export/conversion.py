"""Conversion of a Keras classifier to the bytes of a TFLite file.

What a network stores once is stored in the file once. On request, calls of shared layers are *materialized*: each gets
its own fully expanded kernel with its normalization folded in, which takes bytes and saves time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_sharenets import _checks, precisions
from keras_sharenets.analysis.graph import Graph
from keras_sharenets.heads import ends_of
from keras_sharenets.layers import FakeQuantize
from keras_sharenets.mobile.export import edge_quantizer, metadata, reference
from keras_sharenets.mobile.export.representative_data import checked_inputs
from keras_sharenets.mobile.graph import equalization, group_chains, merging, passes, scales
from keras_sharenets.mobile.graph.inference_graph import InferenceGraph
from keras_sharenets.mobile.graph.lowering import LoweredModel, lower_calls
from keras_sharenets.mobile.graph.quantization import QuantizedGraph, is_clustered, quantize
from keras_sharenets.mobile.inspect import arena, file
from keras_sharenets.mobile.writer.tensors import Signature, write_float, write_int8

SIGNATURE, INPUT = "classify", "images"
END_TYPES = ("float32", "uint8", "int8")

# Bytes of Vela's commands per operator. Any value from 470 to 920 predicted the smaller file for all of seven networks
# of three families; four of them were tried only after the value had been chosen.
_COMMAND_BYTES = 700
# Operations that become several operators.
_OPERATORS = {"permute": 3, "shared_conv": 4, "stack": 3}
# Field number of a graph's operators in the TFLite schema, and the version of a memory plan.
_OPERATORS_FIELD, _PLAN_VERSION = 3, 1


def output_name(end: str | None) -> str:
    """Name of a file's output: `probabilities`, or `scores` if the network does not end in a softmax or sigmoid."""
    return "probabilities" if end else "scores"


def signature_of(model: keras.Model, traced: Graph) -> Signature:
    """Names of the inputs and outputs in a file of a traced model.

    A single image input is `images`, and a single output is [`output_name`]. Otherwise inputs have their Keras names,
    and outputs have the keys of a dict of outputs or the names of the output layers; duplicates get a number.
    """
    ends = ends_of(traced)
    layers = {tensor.number: call.operation.name for call in traced.calls for tensor in call.outputs}
    inputs = [tensor.name for tensor in model.inputs]
    outputs = [layers.get(tensor.number, "output") for tensor in traced.outputs]
    if len(inputs) == 1 and len(traced.inputs[0].shape) == 4:
        inputs = [INPUT]
    if len(outputs) == 1:
        outputs = [output_name(ends[0])]
    elif isinstance(model.output, dict) and len(model.output) == len(outputs):
        outputs = [str(key) for key in sorted(model.output)]
    names: list[str] = []
    for name in (*inputs, *outputs):
        numbered = (f"{name}_{count}" for count in range(2, len(names) + 3))
        names.append(name if name not in names else next(each for each in numbered if each not in names))
    return Signature(SIGNATURE, tuple(names[: len(inputs)]), tuple(names[len(inputs) :]))


def end_types(
    quantization: precisions.Quantization, input_type: str | None, output_type: str | None
) -> tuple[str, str]:
    """The data types of a file's input and output.

    `None` is the type that most programs expect: uint8 for both ends of an int8 file, otherwise float32. Programs also
    accept a float32 output of an int8 file, but XNNPACK needs a second partition for it, and Ethos-U leaves the last
    operator to the CPU.

    Raises:
        ValueError: a type is not one of `END_TYPES`, or is an integer type for a float file.

    >>> end_types("int8", None, None)
    ('uint8', 'uint8')
    >>> end_types("int8", "int8", "int8")
    ('int8', 'int8')
    """
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        _checks.one_of(name, value, (None, *END_TYPES))
        if quantization != "int8" and value not in (None, "float32"):
            raise ValueError(f'`{name}` (={value!r}) is for `quantization="int8"`: other files take and give float32.')
    default = "uint8" if quantization == "int8" else "float32"
    return input_type or default, output_type or default


def convert(
    lowered: LoweredModel,
    *,
    quantization: precisions.Quantization = None,
    representative_data: reference.Arrays | None = None,
    prefer: str = "size",
    max_bytes: int | None = None,
    input_type: str | None = None,
    output_type: str | None = None,
    finish: Callable[[bytes], bytes] = bytes,
) -> tuple[bytes, InferenceGraph | QuantizedGraph]:
    """Converts a network for one image at a time.

    Args:
        lowered: a model with inputs of fixed sizes, as returned by [`lower_model`].
        quantization: a name of [`precisions.PRECISIONS`], or a mapping from patterns of layer names to such names.
        representative_data: an array `(n, ...)` for each input; for images, pixel values `(n, height, width,
            channels)`. Used to measure the range of every value if [`precisions.needs_ranges`].
        prefer: `"size"`: calls of shared layers are materialized where that takes no more bytes; `"speed"`: where it is
            faster; `"memory"`: one of these two, whichever needs less memory with the best operator order and a memory
            plan ([`plan_memory`]); `"npu"`: whichever of the first two is smaller after Vela by
            [`npu_bytes`]; `"gpu"`: like `"size"`, but a kernel over shuffled parts of a value, which takes several
            operators, is expanded to one, and groups are merged by [`group_chains.join_groups`].
        max_bytes: the calls with the largest gains are materialized within this file size; of `prefer`, only the memory
            plan of `"memory"` still applies.
        input_type, output_type: members of `END_TYPES`, or `None` for the default; see `end_types`.
        finish: function that adds data outside the graph to a file; `max_bytes` includes them.

    Returns:
        The bytes, with the signature `classify` and the names of [`signature_of`], and the graph of the file, a
        `QuantizedGraph` for `"int8"`.

    Raises:
        ValueError: the smallest file is larger than `max_bytes`.
        ExportMismatchError: the lowered or rewritten network does not compute what Keras computes; the message names a
            wrong layer. This is checked before quantization, on some of `representative_data` and on images that are
            not used for calibration.
    """
    traced = lowered.traced
    names = signature_of(lowered.model, traced)
    checked = checked_inputs(representative_data, reference.input_shapes(traced))
    try:
        expected = reference.check_layers(lowered, checked)
    except tf.errors.InvalidArgumentError as error:
        if representative_data is not None:
            raise
        raise ValueError(
            "`model` cannot compute synthetic examples with values from 0 to 255: pass `representative_data`."
        ) from error
    # Fake quantization rounds in Keras, but is not part of the graph.
    if any(isinstance(call.operation, FakeQuantize) for call in traced.calls):
        expected = reference.results_of(lowered.graph, checked)

    latest: tuple[dict, InferenceGraph | None] = {}, None

    def build(materialize):
        nonlocal latest
        choices, graph = latest
        # Often, the next graph is the same: without shared layers, there are no choices.
        if graph is None or any(materialize(site) != choice for site, choice in choices.items()):
            choices = {}
            graph = build_anew(lambda site: choices.setdefault(site, materialize(site)))
            latest = choices, graph
        return graph

    def build_anew(materialize):
        materialized = all(map(materialize, lowered.shared))
        graph = lowered.graph if materialized else lower_calls(traced, materialize=materialize)[0]
        graph = passes.simplify(merging.merge_equal(graph))
        if quantization != "int8":
            graph = passes.split_unit_vectors(graph)
        # Microcontrollers and Vela have an integer version of the operator.
        if quantization == "int8" and prefer not in ("memory", "npu"):
            graph = passes.split_hard_swish(graph)
        graph = group_chains.fold_chain_normalization(graph)
        if quantization != "int8":
            graph = group_chains.split_concat_readers(graph)
        graph = group_chains.pad_uneven_shuffles(group_chains.stack_groups(graph))
        if prefer == "gpu":
            graph = group_chains.join_groups(graph)
        graph = (scales.prepare_int8 if quantization == "int8" else scales.prepare_float)(graph, materialize)
        # Microcontrollers and Vela prefer few operators, and have an integer ReLU. WebGPU computes some sums with one
        # number wrongly.
        if prefer in ("memory", "npu", "gpu"):
            return graph
        return scales.use_single_numbers(graph, integers=quantization == "int8")

    ends = dict(zip(("input_type", "output_type"), end_types(quantization, input_type, output_type), strict=True))

    # Before `finish`, whose data must stay at the end of the file.
    planned = plan_memory if prefer == "memory" else bytes

    def encode(graph, inputs):
        if quantization == "int8":
            quantized = quantize(graph, inputs, whole_pixels=ends["input_type"] == "uint8")
            return finish(planned(write_int8(quantized, names, **ends))), quantized
        if precisions.needs_quantizer(quantization):
            return finish(planned(edge_quantizer.write_quantized(graph, names, quantization, inputs))), graph
        stored_type = "float16" if quantization else "float32"
        return finish(planned(write_float(graph, names, stored_type=stored_type))), graph

    def prepared(sites, inputs):
        graph = build(frozenset(sites).__contains__)
        return equalization.equalize(graph, inputs) if quantization == "int8" else graph

    def size(sites):
        # The size hardly depends on the ranges, so one image suffices.
        one = None if representative_data is None else tuple(array[:1] for array in representative_data)
        return len(encode(prepared(sites, one), one)[0])

    def write(sites):
        graph = prepared(sites, representative_data)
        reference.check_graph(graph, expected, checked)
        return encode(graph, representative_data)

    gains = _gains(build, quantization)
    # Sorted by time gained per byte, ties by call.
    order = sorted(gains, key=lambda site: (-gains[site], site))
    free = sum(gain == math.inf for gain in gains.values())
    if max_bytes is None and prefer in _COSTS:
        # The first of files with equal cost: operators and tensors take some memory, too.
        found = map(write, dict.fromkeys((tuple(order), tuple(order[:free]))))
        return min(found, key=lambda written: _COSTS[prefer](file.parse(written[0])))
    if max_bytes is None and prefer == "gpu":
        parts = [each.site for each in build(lambda site: False).operations if each.kind == "shared_conv"]
        return write([*order[:free], *parts])
    if max_bytes is None:
        return write(order if prefer == "speed" else order[:free])
    # All calls can take less than most of them, because kernels materialized everywhere can be merged with neighbors.
    data, final = write(order)
    if len(data) <= max_bytes:
        return data, final
    count = _most_that_fit(len(order), free, lambda count: size(order[:count]) <= max_bytes)
    data, final = write(order[:count])
    while count > free and len(data) > max_bytes:
        count -= 1
        data, final = write(order[:count])
    if len(data) > max_bytes:
        raise ValueError(
            f"`max_bytes` (={max_bytes}) must be at least {len(data)}, the size with every tensor stored once."
        )
    return data, final


def plan_memory(data: bytes) -> bytes:
    """Adds a memory plan to a file and puts its operators in the order that needs the least memory.

    LiteRT for Microcontrollers follows the plan; other runtimes ignore it. Additions, products, activations and
    reshapes are planned in place, so an addition needs the memory of two values instead of three. Neither operators nor
    constants change, so the file computes the same.
    """
    program, numbers = arena.program_of(file.parse(data))
    # A kernel that several steps share is widened before the first of them in the new order.
    order = list(dict.fromkeys(number for step in arena.best_order(program) for number in numbers[step]))
    data = _reordered(data, order)
    model = file.parse(data)
    offsets = arena.best_offsets(arena.program_of(model)[0])
    graphs = range(model.SubgraphsLength())
    places = [-1] * sum(model.Subgraphs(graph).TensorsLength() for graph in graphs)
    for value, offset in offsets.items():
        places[value] = offset
    plan = np.asarray([_PLAN_VERSION, len(graphs), len(places), *places], "int32")
    return metadata.add_buffers(data, {arena.PLAN_BUFFER: plan.tobytes()})


def _reordered(data, order):
    """Rewrites the vector of operators, which holds relative offsets; nothing else moves."""
    table = file.parse(data).Subgraphs(0)._tab
    vector, written = table.Vector(table.Offset(4 + 2 * _OPERATORS_FIELD)), bytearray(data)
    places = [table.Indirect(vector + 4 * number) for number in range(len(order))]
    for slot, number in enumerate(order):
        position = vector + 4 * slot
        struct.pack_into("<I", written, position, places[number] - position)
    return bytes(written)


def npu_bytes(model: file.Model) -> int:
    """Estimated size of a file after Vela compiles it for Ethos-U: its constants, and commands for each operator.

    A grouped convolution counts as one operator per group, and a batch as one per image.
    """
    commands = 0
    for name, inputs, _ in file.operators(model):
        commands += 1
        if name == "CONV_2D":
            images, *_, channels = file.tensor_shape(model, inputs[0])
            commands += images * channels // file.tensor_shape(model, inputs[1])[-1]
    return sum(file.constant_bytes(model).values()) + _COMMAND_BYTES * commands


# The cost that decides between two files.
_COSTS = {"memory": arena.arena_bytes, "npu": npu_bytes}


def _most_that_fit(every, fewest, fits):
    """Number of calls to materialize in the fastest file that fits, at least `fewest`."""
    good, too_many = fewest, every + 1
    while too_many - good > 1:
        middle = (good + too_many) // 2
        if fits(middle):
            good = middle
        else:
            too_many = middle
    return good


def _gains(build, quantization):
    """`{call: time gained per byte}` for calls that are faster when materialized, infinite for free ones.

    A call is free if materializing it takes no more bytes: one large operator instead of many small ones. Clustered
    layers are never free, because their stored weights compress well.
    """
    stored, materialized = (build(lambda site, every=every: every) for every in (False, True))
    clustered = {operation.site for operation in stored.operations if is_clustered(operation)}
    before, after = _costs(stored, quantization, False), _costs(materialized, quantization, True)
    gains = {}
    for site, (time, size) in after.items():
        slower, smaller = before.get(site, (0.0, 0))
        if slower > time:
            free = size <= smaller and site not in clustered
            gains[site] = math.inf if free else (slower - time) / max(size - smaller, 1)
    return gains


def _costs(graph, quantization, materialized):
    """`{call: (time, bytes)}`.

    If materialized, each call is charged for its kernel. Otherwise no call is charged for a kernel that several calls
    use, because the others still need it.
    """
    sites = {kernel: {operation.site for operation in users} for kernel, users in graph.uses().items()}
    costs, seen = {}, set()
    for operation in graph.operations:
        precision = precisions.of_layer(quantization, operation.name)
        time, size = costs.get(operation.site, (0.0, 0))
        size += _OPERATORS.get(operation.kind, 1) * precision.record_bytes
        numbers = math.prod(operation.output.shape)
        if operation.kernel is not None:
            products = numbers * operation.kernel.array.size // operation.kernel.array.shape[-1]
            time += products * precision.product_time
            if operation.kind == "shared_conv":  # Folds its repeats into the batch and back.
                time += 2 * numbers * precision.move_time
            charged = materialized or len(sites[operation.kernel]) == 1
            if charged and (operation.site, operation.kernel) not in seen:
                size += math.ceil(operation.kernel.array.size * precision.kernel_bytes)
                seen.add((operation.site, operation.kernel))
        else:
            time += numbers * precision.move_time
        costs[operation.site] = time, size
    return costs
