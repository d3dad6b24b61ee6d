"""Lowering of a trained Keras model to its inference graph, call by call.

A layer without a rule that is composed of others, such as a block, an attention layer or a whole network written as a
subclass of `keras.layers.Layer` or `keras.Model`, is called on symbolic tensors, and the calls inside it are lowered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import Call, Graph, Tensor, trace
from keras_sharenets.analysis.running import run_call, run_calls
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.layers.whitening import Whitening
from keras_sharenets.mobile.graph import (  # Most are imported only to register their rules.
    moving_rules,  # noqa: F401
    product_rules,  # noqa: F401
    selection_rules,  # noqa: F401
    sequence_rules,  # noqa: F401
    sharing_rules,
)
from keras_sharenets.mobile.graph.fallback import lower_by_converter
from keras_sharenets.mobile.graph.inference_graph import CallSite, InferenceGraph, Materialize, Operation, Value
from keras_sharenets.mobile.graph.rules import (
    RULES,
    GraphBuilder,
    UnsupportedLayerError,
    check_arguments,
    check_call,
    check_class,
    check_masks,
    refuse,
    registered_class,
)

# Held while methods of Keras' classes are replaced, so that threads restore them in turn.
_REPLACING = threading.RLock()
_GRAPHS: weakref.WeakKeyDictionary[Call, Graph | None] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class LoweredCall:
    """The lowered form of one call of a layer.

    Attributes:
        call: the `Call`.
        inputs: input values.
        operations: operations; empty for a layer that does nothing in inference.
        outputs: output values, one for each output of the call.
    """

    call: Call
    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class LoweredModel:
    """A model, its trace by [`keras_sharenets.analysis.graph.trace`], and its lowered calls.

    `shared` are the calls of kernel-shared layers, `(name, use)`, each of which `graph` materializes.
    """

    model: keras.Model
    traced: Graph
    graph: InferenceGraph
    calls: tuple[LoweredCall, ...]
    shared: tuple[CallSite, ...]


def lower_model(model: keras.Model) -> LoweredModel:
    """Lowers every call of a model once, for comparison with Keras.

    Raises:
        ValueError: the model is not functional, or a layer cannot be lowered (`UnsupportedLayerError`).
    """
    traced, shared = with_known_shapes(trace(model)), dict[CallSite, bool]()
    graph, calls = lower_calls(traced, materialize=lambda site: shared.setdefault(site, True))
    return LoweredModel(model, traced, graph, calls, tuple(shared))


def lower_calls(
    traced: Graph, *, materialize: Materialize = lambda site: True
) -> tuple[InferenceGraph, tuple[LoweredCall, ...]]:
    """Lowers a traced network to an inference graph, without any folding.

    Args:
        traced: the traced network, with inputs and outputs of fixed sizes.
        materialize: function of a call of a kernel-shared layer, `(name, use)`, that returns whether it becomes one
            convolution with its effective kernel, instead of operations on the stored tensors.

    Returns:
        `(graph, calls)`: the `InferenceGraph`, with the learned ranges of a quantization-aware network, and the lowered
        form of each traced call, in order.

    Raises:
        UnsupportedLayerError: a layer has no applicable rule; the message names it.
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
        shared = hasattr(layer, "effective_kernel")
        materialized = shared and materialize((f"{builder.within}{layer.name}", call.index))
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
    return sharing_rules.EFFECTIVE.lower if materialized else rule.lower


def parts_of(layer: Any, call: Call) -> Graph | None:
    """The graph of the calls inside a call of a layer, from its inputs to its outputs.

    The paths of these calls begin with that of the layer, and their indices differ between calls of the layer.

    Args:
        layer: the layer of the call.
        call: the `Call`.

    Returns:
        A `Graph`, or `None` if it is not a layer, or if the layer needs concrete values, uses functions outside Keras,
        or returns values that do not depend on its inputs. Also `None` for `Whitening`.
    """
    # Whitening amplifies small differences between pixels. With integers, its output would be noise.
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, Whitening):
        return None
    if call not in _GRAPHS:  # One per call; keeps its operations alive, whose identities are the keys of constants.
        _GRAPHS[call] = _traced(layer, call)
    return _GRAPHS[call]


def _traced(layer, call):
    if any(tensor.dtype != "float32" for tensor in (*call.inputs, *call.outputs)):
        return None
    symbols = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in call.inputs]
    try:
        # The scope discards updates of the layer's variables.
        with keras.StatelessScope(), _symbols_beside_variables(), _products_of_known_shapes():
            outputs = run_call(call, symbols, layer, inside=True)
            graph = with_known_shapes(trace(keras.Model(symbols, outputs)))
    # A layer that is not a composition may raise any exception for symbolic tensors.
    except Exception:
        return None
    alike = [tensor.shape for tensor in graph.outputs] == [tensor.shape for tensor in call.outputs]
    if not alike or any(part.kwargs.get("training") for part in graph.calls):  # Rules are for inference.
        return None
    calls = tuple(
        dataclasses.replace(part, path=f"{call.path}/{part.path}", index=call.index * len(graph.calls) + part.index)
        for part in graph.calls
    )
    return dataclasses.replace(graph, calls=calls)


def with_known_shapes(graph: Graph) -> Graph:
    """The graph with the shapes that its calls have for zeros, if Keras leaves some unknown, as for `EinsumDense`."""
    if all(None not in tensor.shape[1:] for call in graph.calls for tensor in call.outputs):
        return graph
    known = {tensor.number: tensor for tensor in graph.inputs}
    zeros = [keras.ops.zeros((1, *tensor.shape[1:]), tensor.dtype) for tensor in graph.inputs]
    calls = []
    for call, _, results in run_calls(graph, zeros):
        for tensor, result in zip(call.outputs, results, strict=True):
            known[tensor.number] = dataclasses.replace(tensor, shape=(tensor.shape[0], *result.shape[1:]))
        given = keras.tree.map_structure(
            lambda argument: known[argument.number] if isinstance(argument, Tensor) else argument,
            (call.args, call.kwargs),
        )
        outputs = tuple(known[tensor.number] for tensor in call.outputs)
        calls.append(dataclasses.replace(call, args=given[0], kwargs=given[1], outputs=outputs))
    return Graph(graph.inputs, tuple(calls), tuple(known[tensor.number] for tensor in graph.outputs))


@contextlib.contextmanager
def _symbols_beside_variables() -> Iterator[None]:
    """Makes `variable * symbol` equal `symbol * variable`: the variable's method does not support symbolic tensors."""
    names = ("__add__", "__sub__", "__mul__", "__truediv__", "__pow__")

    def deferring(name):
        method = getattr(keras.Variable, name)

        @functools.wraps(method)
        def combined(variable, other):
            return NotImplemented if isinstance(other, keras.KerasTensor) else method(variable, other)

        return combined

    with _replaced(keras.Variable, {name: deferring(name) for name in names}):
        yield


def _products_of_known_shapes() -> contextlib.AbstractContextManager[None]:
    """Makes `EinsumDense` return sides that its `output_shape` leaves open: attention computes its masks from them."""
    method = keras.layers.EinsumDense.compute_output_shape

    @functools.wraps(method)
    def known(layer, input_shape):
        shape = method(layer, input_shape)
        if None not in shape[1:]:
            return shape
        kernel = keras.KerasTensor(layer.kernel.shape)
        return tuple(keras.ops.einsum(layer.equation, keras.KerasTensor(input_shape), kernel).shape)

    return _replaced(keras.layers.EinsumDense, {"compute_output_shape": known})


@contextlib.contextmanager
def _replaced(owner: type, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces methods of a class of Keras, in one thread at a time."""
    with _REPLACING:
        known = {name: vars(owner).get(name) for name in methods}
        try:
            for name, method in methods.items():
                setattr(owner, name, method)
            yield
        finally:
            for name, method in known.items():
                if method is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, method)
