"""Lowering of a trained Keras model to its inference graph, call by call."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect

import keras

from keras_sharenets import layers as ours
from keras_sharenets.analysis import graph as keras_graph
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.graph import (  # Most are imported only to register their rules.
    arithmetic_rules,  # noqa: F401
    function_rules,  # noqa: F401
    image_rules,  # noqa: F401
    moving_rules,  # noqa: F401
    normalization_rules,  # noqa: F401
    sequence_rules,  # noqa: F401
    sharing_rules,
)
from keras_sharenets.mobile.graph.composed import parts_of
from keras_sharenets.mobile.graph.fallback import lower_by_converter
from keras_sharenets.mobile.graph.inference_graph import InferenceGraph, Materialize, Operation, Value
from keras_sharenets.mobile.graph.rules import (
    RULES,
    GraphBuilder,
    UnsupportedLayerError,
    check_arguments,
    check_call,
    check_class,
    refuse,
    registered_class,
)


@dataclasses.dataclass(frozen=True)
class LoweredCall:
    """The lowered form of one call of a layer.

    Attributes:
        call: the `Call`.
        inputs: input values.
        operations: operations; empty for a layer that does nothing in inference.
        outputs: output values, one for each output of the call.
    """

    call: keras_graph.Call
    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Value, ...]


def lower(model: keras.Model, *, materialize: Materialize = lambda site: True) -> InferenceGraph:
    """Lowers a trained network to an inference graph, without any folding.

    Args:
        model: functional or built sequential `keras.Model` with inputs and outputs of fixed sizes.
        materialize: function of a call of a kernel-shared layer, `(name, use)`, that returns whether it becomes one
            convolution with its effective kernel, instead of operations on the stored tensors.

    Returns:
        An `InferenceGraph`, with the learned ranges of a quantization-aware network.

    Raises:
        ValueError: the model is not functional, or has unknown dimensions.
        UnsupportedLayerError: a layer has no applicable rule; the message names it.
    """
    return lower_calls(keras_graph.trace(model), materialize=materialize)[0]


def lower_calls(
    traced: keras_graph.Graph, *, materialize: Materialize = lambda site: True
) -> tuple[InferenceGraph, tuple[LoweredCall, ...]]:
    """As [`lower`], for a traced model.

    Returns:
        `(graph, calls)`: the `InferenceGraph`, and the lowered form of each traced call, in order.
    """
    check_masks(traced)
    builder = GraphBuilder()
    inputs = tuple(builder.value(tensor.shape) for tensor in traced.inputs)
    given, lowered = _lower_graph(builder, traced, inputs, materialize)
    constants = [step.output for step in builder.operations if step.kind == "constant"]
    outputs: list[Value] = []
    for value in given:
        if value in (*inputs, *constants, *outputs):
            # A tensor of a file is either one input or one output, so passed-through and repeated outputs are copied.
            # So are constants, because an output is the result of an operator.
            value = builder.add("reshape", "output", [value], value.shape)
        outputs.append(value)
    return InferenceGraph(inputs, tuple(builder.operations), tuple(outputs), builder.ranges), tuple(lowered)


def check_masks(traced: keras_graph.Graph) -> None:
    """Raises `UnsupportedLayerError` if a layer gets a mask that is not an input of its call.

    The graph of a model has the mask of a layer with one input. Keras passes the masks of several inputs, as those of
    an attention, when the model runs, so the file would compute without them: on examples without padding, the same.
    """
    masked: set[int] = set()
    for call in traced.calls:
        layer = inner(call.operation)
        if not isinstance(layer, keras.layers.Layer):  # Functions drop masks.
            continue
        reads = any(tensor.number in masked for tensor in call.inputs)
        if reads:
            _check_masks_of(layer, call, masked)
        makes = isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        if makes or (reads and layer.supports_masking):
            masked.update(tensor.number for tensor in call.outputs)


def _check_masks_of(layer, call, masked):
    signature = inspect.signature(layer.call)
    given = signature.bind(*call.args, **call.kwargs).arguments
    # This layer takes the mask of its query from the tensor, even if another one is passed.
    always = isinstance(layer, keras.layers.MultiHeadAttention)
    for name, value in given.items():
        tensors = (each for each in keras.tree.flatten(value) if isinstance(each, keras_graph.Tensor))
        if not any(tensor.number in masked for tensor in tensors):
            continue
        mask = "mask" if len(call.inputs) == 1 or isinstance(value, (list, tuple)) else f"{name}_mask"
        if mask in signature.parameters and (always or given.get(mask) is None):
            raise refuse(
                layer,
                call.path,
                f"gets the mask of padded steps as `{mask}` when Keras runs it, but not in the graph of the model: set "
                "`mask_zero=False` where it comes from, and pass the mask explicitly.",
            )


def _lower_graph(builder, traced, inputs, materialize, *, converted=True):
    """The output values of a traced graph, and the lowered form of each of its calls."""
    values, lowered = {tensor.number: value for tensor, value in zip(traced.inputs, inputs, strict=True)}, []
    for call in traced.calls:
        read, first = [values[tensor.number] for tensor in call.inputs], len(builder.operations)
        lowers = _lower_call(builder, call, read, materialize, converted=converted)
        given = (lowers,) if isinstance(lowers, Value) else tuple(lowers)
        values.update((tensor.number, value) for tensor, value in zip(call.outputs, given, strict=True))
        lowered.append(LoweredCall(call, tuple(read), tuple(builder.operations[first:]), given))
    return [values[tensor.number] for tensor in traced.outputs], lowered


def _lower_call(builder, call, inputs, materialize, *, converted):
    """The output value or values of a call; `converted` allows TensorFlow's converter as a fallback."""
    layer = call.operation
    if isinstance(layer, ours.FakeQuantize):
        low, high = layer.range()
        if high > low:
            builder.ranges[inputs[0].number] = float(low), float(high)
        return inputs[0]
    with contextlib.ExitStack() as stack:
        if isinstance(layer, ours.QuantizedKernels):
            stack.enter_context(layer.rounded())
        layer, builder.use = inner(layer), call.index
        if getattr(getattr(layer, "dtype_policy", None), "quantization_mode", None):
            raise refuse(
                layer,
                call.path,
                "was quantized by Keras (`quantize`): export the original network with `quantization='int8'`.",
            )
        first, shape = len(builder.operations), call.outputs[0].shape
        materialized = materialize((f"{builder.within}{layer.name}", call.index))
        if _defines_effective_kernel(layer):
            # The converter would store the kernel for each call, without sharing.
            return _rule_for(layer, call, materialized)(builder, layer, call, inputs, shape)
        try:
            return _rule_for(layer, call, materialized)(builder, layer, call, inputs, shape)
        except UnsupportedLayerError as refusal:
            del builder.operations[first:]
            parts = _lower_parts(builder, layer, call, inputs, materialize)
            if parts is None and not converted:
                raise
            return lower_by_converter(builder, layer, call, inputs, refusal) if parts is None else parts


def _lower_parts(builder, layer, call, inputs, materialize):
    """The output values of a layer composed of other layers, if all of them have rules; otherwise `None`."""
    parts, first, before = parts_of(layer, call), len(builder.operations), (builder.within, builder.use)
    if parts is None:
        return None
    try:
        builder.within = f"{builder.within}{layer.name}/"
        return _lower_graph(builder, parts, inputs, materialize, converted=False)[0]
    except UnsupportedLayerError:
        del builder.operations[first:]
        return None
    finally:
        builder.within, builder.use = before


def _defines_effective_kernel(layer):
    """Whether the class of a layer itself defines `effective_kernel`, whatever it inherits."""
    own = getattr(type(layer), "effective_kernel", None)
    return hasattr(layer, "effective_kernel") and own is not getattr(registered_class(layer), "effective_kernel", None)


def _rule_for(layer, call, materialized):
    """The function that lowers a call of a layer, after checks that it applies to this layer and call."""
    base = registered_class(layer)
    if _defines_effective_kernel(layer):
        rule = sharing_rules.EFFECTIVE
    elif base is None:
        raise refuse(layer, call.path, "has no lowering rule (`keras_sharenets.mobile.register_lowering` adds one).")
    else:
        rule = RULES[base]
        check_class(layer, base, call.path)
    check_arguments(layer, rule, call.path)
    check_call(layer, call, rule)
    shared = materialized and hasattr(layer, "effective_kernel")
    return sharing_rules.EFFECTIVE.lower if shared else rule.lower
