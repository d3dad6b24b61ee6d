"""Fallback for calls without a rule: TensorFlow's converter translates each separately to operators of the file.

A network with an unusual layer can therefore be exported, and the rest keeps its sharing.
"""

from __future__ import annotations

import contextlib
import logging
import re
import weakref
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_sharenets.analysis.graph import Call
from keras_sharenets.analysis.running import run_call
from keras_sharenets.mobile.graph.inference_graph import Constant, Value
from keras_sharenets.mobile.graph.rules import GraphBuilder, UnsupportedLayerError
from keras_sharenets.mobile.graph.steps import operation_class
from keras_sharenets.mobile.inspect import file


class Program:
    """One output of a call for one example, as a TFLite file from TensorFlow's converter.

    Its inputs and its output are float32, whatever their types in Keras.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._interpreter = None

    def __call__(self, *inputs: Any) -> Any:
        """The output for arrays `(n, ...)`, or `(1, ...)` if they are the same for all examples."""
        if self._interpreter is None:
            self._interpreter = file.open_bytes(self.data, "The result of TensorFlow's converter for a layer")
        arrays = [np.asarray(array, "float32") for array in inputs]
        count = max(map(len, arrays))
        arrays = [np.broadcast_to(array, (count, *array.shape[1:])) for array in arrays]
        output = self._interpreter.get_output_details()[0]["index"]
        return ops.convert_to_tensor(file.run_examples(self._interpreter, arrays, [output])[0])


# Keras inspects the bits to distinguish -0.0 from 0.0, for which LiteRT has no operator.
_PLAIN = {operation_class(ops.argmax): tf.argmax, operation_class(ops.argmin): tf.argmin}
_PROGRAMS: weakref.WeakKeyDictionary[Call, list[Program]] = weakref.WeakKeyDictionary()


def lower_by_converter(
    graph: GraphBuilder, layer: Any, call: Call, inputs: list[Value], refusal: UnsupportedLayerError
) -> list[Value]:
    """Lowers each output of a call to the operators of TensorFlow's converter.

    Args:
        graph: the graph under construction.
        layer: the layer or operation of the call.
        call: the `Call`.
        inputs: its input values.
        refusal: the reason why no rule applies.

    Raises:
        UnsupportedLayerError: the converter cannot convert it either, or only to operators of TensorFlow itself; or it
            mixes the examples of a batch.
    """
    if call not in _PROGRAMS:
        _PROGRAMS[call] = [_converted(layer, call, place, refusal) for place in range(len(call.outputs))]
    outputs = []
    for tensor, program in zip(call.outputs, _PROGRAMS[call], strict=True):
        main = file.parse(program.data).Subgraphs(0)
        given = main.Outputs(0)
        if given in main.InputsAsNumpy().tolist():  # Does nothing in inference.
            outputs.append(inputs[main.InputsAsNumpy().tolist().index(given)])
        elif not main.OperatorsLength():
            constant = Constant(f"{layer.name}/constant", np.asarray(program(*_zeros(inputs))))
            outputs.append(graph.add("constant", layer.name, [], tensor.shape, attributes={"constant": constant}))
        else:
            attributes = {"program": program, "whole": _is_whole(tensor), **_places_of_integers(layer, call)}
            outputs.append(graph.add("converted", layer.name, inputs, tensor.shape, attributes=attributes))
    return outputs


def _is_whole(tensor):
    """Whether a traced tensor is integers or truth values."""
    return not tensor.dtype.startswith(("float", "bfloat"))


def _places_of_integers(layer, call):
    """Attributes for the integers that a call reads, and the largest index that it can return."""
    attributes: dict[str, Any] = {
        "whole_inputs": tuple(place for place, tensor in enumerate(call.inputs) if _is_whole(tensor))
    }
    if type(layer) in _PLAIN and layer.axis is not None:
        attributes["most"] = call.inputs[0].shape[layer.axis] - 1
    return attributes


def _zeros(inputs):
    return [np.zeros(value.shape, "float32") for value in inputs]


def _converted(layer, call, place, refusal):
    """The `Program` of one output."""
    types = [tensor.dtype for tensor in call.inputs]

    def alone(*inputs):
        pairs = zip(inputs, types, strict=True)
        read = [x if dtype == "float32" else tf.cast(tf.round(x), dtype) for x, dtype in pairs]
        function = _PLAIN.get(type(layer))
        if function is not None and layer.axis is not None and len(read) == 1:
            indices = function(read[0], layer.axis, tf.int32)  # Microcontrollers do not support int64 here.
            return tf.cast(tf.expand_dims(indices, layer.axis) if layer.keepdims else indices, "float32")
        return tf.cast(run_call(call, read, layer)[place], "float32")

    shapes = [(1, *tensor.shape[1:]) for tensor in call.inputs]
    function = tf.function(alone, input_signature=[tf.TensorSpec(shape) for shape in shapes], autograph=False)
    try:
        with _quiet():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
            program = Program(converter.convert())
        result = np.shape(program(*(np.zeros(shape, "float32") for shape in shapes)))
    # The converter, and layers traced for a batch of 1, may raise any exception.
    except Exception as error:
        raise UnsupportedLayerError(f"{refusal} {_reason(str(error))}") from error
    expected = (1, *call.outputs[place].shape[1:])
    if result != expected:
        raise UnsupportedLayerError(
            f"{refusal} TensorFlow's converter cannot be used either: for one example the layer returns {result},"
            f" instead of {expected}."
        )
    return program


@contextlib.contextmanager
def _quiet():
    """Silences the converter's advice to pass the layer's variables, which it finds itself."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(message):
    """The reason why the converter failed, extracted from its long message."""
    names = sorted(set(re.findall(r"Flex ops: ([\w, ]+)", message)) or set(re.findall(r"'?tf\.(\w+)'? op", message)))
    if names:
        return f"TensorFlow's converter cannot convert it alone either: LiteRT has no operator for {', '.join(names)}."
    first = next((line.strip() for line in message.splitlines() if line.strip()), "it failed")
    return f"TensorFlow's converter cannot convert it alone either: {first}"
