"""From a Keras classifier to the bytes of a TFLite file.

What a network stores once is in the file once; where that is wanted, calls of shared layers are *materialized*: each
has a kernel of its own, expanded in full and with its normalization multiplied in, which takes bytes and saves time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_sharenets import _checks, precisions
from keras_sharenets.analysis.graph import Graph
from keras_sharenets.heads import ends_of
from keras_sharenets.layers import FakeQuantize
from keras_sharenets.mobile.export import edge_quantizer, memory_plan, reference
from keras_sharenets.mobile.export.representative_data import checked_inputs
from keras_sharenets.mobile.graph import group_chains, hard_swish, merging, passes, scales
from keras_sharenets.mobile.graph.inference_graph import InferenceGraph
from keras_sharenets.mobile.graph.lowering import lower_calls
from keras_sharenets.mobile.graph.quantization import QuantizedGraph, is_clustered, quantize
from keras_sharenets.mobile.inspect import arena, file
from keras_sharenets.mobile.writer.tensors import Signature, write_float, write_int8

SIGNATURE, INPUT = "classify", "images"
END_TYPES = ("float32", "uint8", "int8")

# Of what Vela makes for each operator. With 470 to 920 the smaller file was told in all of seven networks of three
# families, four of which were tried only after this was chosen.
_COMMAND_BYTES = 700
# Some operations are several operators.
_OPERATORS = {"permute": 3, "shared_conv": 4, "stack": 3}


def output_name(end: str | None) -> str:
    """What a file calls its output: `probabilities`, or `scores` if the network does not end in softmax or sigmoid."""
    return "probabilities" if end else "scores"


def signature_of(model: keras.Model, traced: Graph) -> Signature:
    """What a file of a model, traced, calls its inputs and outputs.

    One input of images is `images`, and one output [`output_name`]. Else inputs have their names in Keras, and outputs
    their keys where the network gives a dict, or the names of the layers that give them; what is taken gets a number.
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
    """The types of the numbers that a file takes and gives.

    `None` is what most programs take: uint8 at both ends of an int8 file, else float32. They take a float32 output of
    an int8 file too, but XNNPACK needs a second partition for it, and Ethos-U leaves its last operator to the CPU.

    Raises:
        ValueError: a type is none of `END_TYPES`, or is one of integers and the file is one of floats.

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
    lowered: reference.LoweredModel,
    *,
    quantization: precisions.Quantization = None,
    representative_data: reference.Arrays | None = None,
    prefer: str = "size",
    max_bytes: int | None = None,
    input_type: str | None = None,
    output_type: str | None = None,
    on_graph: Callable[[InferenceGraph | QuantizedGraph], None] | None = None,
    finish: Callable[[bytes], bytes] = bytes,
) -> bytes:
    """Converts a network for one image at a time.

    Args:
        lowered: a model with inputs of fixed sizes, as [`reference.lower_model`] gives it.
        quantization: a name of [`precisions.PRECISIONS`], or names by patterns of layers' names.
        representative_data: an array `(n, ...)` for each input, `(n, height, width, channels)` of pixel values for
            images, where [`precisions.needs_ranges`]: the range of every value is measured on them.
        prefer: `"size"`: calls of shared layers are materialized where that takes no more bytes; `"speed"`: where it is
            faster; `"memory"`: as one of these, whichever needs less memory when its operators are in their best order
            and its values planned (`memory_plan.plan_memory`); `"npu"`: as that of the first two which is smaller after
            Vela by [`npu_bytes`]; `"gpu"`: as `"size"`, but a kernel over shuffled parts of a value, which
            is several operators, is expanded to one, and groups are as [`group_chains.join_groups`] makes them.
        max_bytes: calls are materialized as far as that gains most, in a file of so many bytes at most; of `prefer`
            only the plan of `"memory"` counts then.
        input_type, output_type: some of `END_TYPES`, or `None` for the default; see `end_types`.
        on_graph: function that is shown the graph of the file, a `QuantizedGraph` for `"int8"`; or `None`.
        finish: function that puts what is no part of the graph into a file; that counts in `max_bytes`.

    Returns:
        The bytes, with the signature `classify` and the names of [`signature_of`].

    Raises:
        ValueError: the smallest file is larger than `max_bytes`.
        ExportMismatchError: what the network was lowered to, or rewritten to, does not compute what Keras computes; a
            wrong layer is named. Looked at before anything is quantized, on some of `representative_data` and on images
            that nothing is measured on.
    """
    traced = lowered.traced
    names = signature_of(lowered.model, traced)
    checked = checked_inputs(representative_data, reference.input_shapes(traced))
    reference.check_layers(lowered, checked)
    # Fake quantization rounds in Keras, and is no part of the graph.
    rounds = any(isinstance(call.operation, FakeQuantize) for call in traced.calls)
    expected = reference.results_of(lowered.graph if rounds else lowered, checked)

    def build(materialize):
        graph = passes.simplify(merging.merge_equal(lower_calls(traced, materialize=materialize)[0]))
        if quantization != "int8":
            graph = passes.split_unit_vectors(graph)
        # Microcontrollers and Vela have the operator in integers.
        if quantization == "int8" and prefer not in ("memory", "npu"):
            graph = hard_swish.split_hard_swish(graph)
        graph = group_chains.fold_chain_normalization(graph)
        if quantization != "int8":
            graph = group_chains.split_concat_readers(graph)
        graph = group_chains.pad_uneven_shuffles(group_chains.stack_groups(graph))
        if prefer == "gpu":
            graph = group_chains.join_groups(graph)
        return (scales.prepare_int8 if quantization == "int8" else scales.prepare_float)(graph, materialize)

    ends = dict(zip(("input_type", "output_type"), end_types(quantization, input_type, output_type), strict=True))

    # Before `finish`: what it puts behind the file is to stay at its end.
    planned = memory_plan.plan_memory if prefer == "memory" else bytes

    def encode(graph, inputs):
        if quantization == "int8":
            quantized = quantize(graph, inputs, whole_pixels=ends["input_type"] == "uint8")
            return quantized, finish(planned(write_int8(quantized, names, **ends)))
        if precisions.needs_quantizer(quantization):
            return graph, finish(planned(edge_quantizer.write_quantized(graph, names, quantization, inputs)))
        stored_type = "float16" if quantization else "float32"
        return graph, finish(planned(write_float(graph, names, stored_type=stored_type)))

    def size(sites):
        # It hardly depends on the ranges: one image does to look for it.
        one = None if representative_data is None else tuple(array[:1] for array in representative_data)
        return len(encode(build(frozenset(sites).__contains__), one)[1])

    def write(sites):
        graph = build(frozenset(sites).__contains__)
        reference.check_graph(graph, expected, checked)
        return encode(graph, representative_data)

    def give(final, data):
        if on_graph is not None:
            on_graph(final)
        return data

    gains = _gains(build, quantization)
    # Those first that gain most time for a byte; the call itself decides between equals.
    order = sorted(gains, key=lambda site: (-gains[site], site))
    free = sum(gain == math.inf for gain in gains.values())
    if max_bytes is None and prefer in _COSTS:
        # Of files that cost the same the first one: operators and tensors take some memory too.
        found = map(write, dict.fromkeys((tuple(order), tuple(order[:free]))))
        return give(*min(found, key=lambda written: _COSTS[prefer](file.parse(written[1]))))
    if max_bytes is None and prefer == "gpu":
        parts = [each.site for each in build(lambda site: False).operations if each.kind == "shared_conv"]
        return give(*write([*order[:free], *parts]))
    if max_bytes is None:
        return give(*write(order if prefer == "speed" else order[:free]))
    # All at once can be smaller than most of them: what is materialized everywhere can be merged with its neighbors.
    final, data = write(order)
    if len(data) <= max_bytes:
        return give(final, data)
    count = _most_that_fit(len(order), free, lambda count: size(order[:count]) <= max_bytes)
    final, data = write(order[:count])
    while count > free and len(data) > max_bytes:
        count -= 1
        final, data = write(order[:count])
    if len(data) > max_bytes:
        raise ValueError(f"`max_bytes` (={max_bytes}) must be at least {len(data)}, the size with every tensor once.")
    return give(final, data)


def npu_bytes(model: file.Model) -> int:
    """Estimated bytes of what Vela makes of a file for Ethos-U: its constants, and commands for each of its operators.

    A grouped convolution is one operator for each group, and a batch one for each image in it.
    """
    commands = 0
    for name, inputs, _ in file.operators(model):
        commands += 1
        if name == "CONV_2D":
            images, *_, channels = file.tensor_shape(model, inputs[0])
            commands += images * channels // file.tensor_shape(model, inputs[1])[-1]
    return sum(file.constant_bytes(model).values()) + _COMMAND_BYTES * commands


# What is least in the file that is chosen, where two are written.
_COSTS = {"memory": arena.arena_bytes, "npu": npu_bytes}


def _most_that_fit(every, fewest, fits):
    """How many calls to materialize in the fastest file that fits; `fewest` if no more do."""
    good, too_many = fewest, every + 1
    while too_many - good > 1:
        middle = (good + too_many) // 2
        if fits(middle):
            good = middle
        else:
            too_many = middle
    return good


def _gains(build, quantization):
    """`{call: time gained for a byte}` of the calls that are faster materialized, infinite for those that are free.

    Free is a call that takes no more bytes so: one large operator instead of many small ones. A layer that has been
    clustered is not free: what it stores compresses well.
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

    Materialized, each call is charged for its kernel. Else none is for a kernel that several calls use: it stays for
    the others.
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
            if operation.kind == "shared_conv":  # Its repeats are folded into the batch, and back.
                time += 2 * numbers * precision.move_time
            charged = materialized or len(sites[operation.kernel]) == 1
            if charged and (operation.site, operation.kernel) not in seen:
                size += math.ceil(operation.kernel.array.size * precision.kernel_bytes)
                seen.add((operation.site, operation.kernel))
        else:
            time += numbers * precision.move_time
        costs[operation.site] = time, size
    return costs
