"""From a Keras classifier to its inference graph: one rule a layer class.

A layer without a rule is refused by name. Dropout and the like vanish; a batch normalisation becomes a scale and a
shift; a layer that is called in several places gives operations that share one stored tensor.
"""

import contextlib

import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import trace
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.graph import sharing_rules as compact_lowering
from keras_sharenets.mobile.graph.inference_graph import InferenceGraph, Operation, Stored, Value
from keras_sharenets.mobile.graph.lowering_rules import RULES, UnsupportedLayerError, expanded


class Lowering:
    """The graph that grows while the calls of a model are lowered one by one."""

    def __init__(self):
        self.operations = []
        self.ranges = {}
        self.use = 0
        self._stored = {}
        self._count = 0

    def value(self, shape):
        self._count += 1
        return Value(self._count - 1, tuple(1 if side is None else side for side in shape))

    def stored(self, layer, name, make):
        """The stored tensor `name` of a layer: made at its first use, the same object at every later one."""
        key = id(layer), name
        if key not in self._stored:
            self._stored[key] = Stored(f"{layer.name}/{name}", np.asarray(make(), "float32"))
        return self._stored[key]

    def add(self, kind, name, inputs, shape, **more):
        """Appends an operation and returns its output."""
        output = self.value(shape)
        self.operations.append(Operation(kind, name, tuple(inputs), output, use=self.use, **more))
        return output


def lower(model, compact=lambda site: False):
    """The inference graph of a trained classifier, nothing folded yet.

    Args:
        model: functional or built sequential `keras.Model` with one input of a fixed picture size, and one output.
        compact: function of a call of a kernel-shared layer, `(name, use)`: whether it becomes operations on the
            tensors that the layer stores, instead of one convolution with its effective kernel.

    Returns:
        An `InferenceGraph`. What a quantisation-aware network learnt about ranges is in it.

    Raises:
        ValueError: the model is not functional, or has open sides or several inputs or outputs.
        UnsupportedLayerError: a layer has no rule; the message names it.
    """
    return lower_calls(trace(model), compact)[0]


def lower_calls(traced, compact=lambda site: False):
    """As [`lower`], for a model that has been traced.

    Returns:
        `(graph, values)`: the `InferenceGraph`, and `{traced tensor's number: Value}`.
    """
    graph = Lowering()
    start = graph.value(traced.inputs[0].shape)
    values = {traced.inputs[0].number: start}
    for call in traced.calls:
        inputs = [values[tensor.number] for tensor in call.inputs]
        values[call.outputs[0].number] = _lower_call(graph, call, inputs, compact)
    output = values[traced.outputs[0].number]
    return InferenceGraph(start, tuple(graph.operations), output, graph.ranges), values


def _lower_call(graph, call, inputs, compact):
    layer = call.operation
    if isinstance(layer, ours.FakeQuantize):
        low, high = layer.range()
        if high > low:
            graph.ranges[inputs[0].number] = float(low), float(high)
        return inputs[0]
    with contextlib.ExitStack() as stack:
        if isinstance(layer, ours.QuantizedKernels):
            stack.enter_context(layer.rounded())
        graph.use = call.index
        rule = _rule(inner(layer), call, compact)
        return rule(graph, inner(layer), call, inputs, call.outputs[0].shape)


def _rule(layer, call, compact):
    if hasattr(layer, "effective_kernel") and not compact((layer.name, call.index)):
        return expanded
    for classes, rule in (*RULES, *compact_lowering.RULES):
        if isinstance(layer, classes):
            return rule
    raise UnsupportedLayerError(
        f"'{call.path}', a {type(layer).__name__}, cannot be exported to TFLite. Replace it by layers of Keras or of "
        "this library that have a rule in `keras_sharenets.mobile.graph.lowering_rules`."
    )
