"""Composite layers: the calls inside their `call` method, which rules can lower.

A block, an attention layer or a whole network written as a subclass of `keras.layers.Layer` or `keras.Model` is called
on symbolic tensors, and the resulting graph of layers and functions of `keras.ops` replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_sharenets.analysis.graph import Call, Graph, Tensor, trace
from keras_sharenets.layers.whitening import Whitening
from keras_sharenets.mobile.graph.rules import call_keras

# Held while the methods of `keras.Variable` are replaced, so that threads restore them in turn.
_REPLACING = threading.RLock()
_GRAPHS: weakref.WeakKeyDictionary[Call, Graph | None] = weakref.WeakKeyDictionary()


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
        with keras.StatelessScope(), _symbols_beside_variables():
            outputs = call_keras(call, symbols, layer, inside=True)
            graph = _with_known_shapes(trace(keras.Model(symbols, outputs)))
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


def _with_known_shapes(graph: Graph) -> Graph:
    """The graph with the shapes that its calls have for zeros, if Keras leaves some unknown, as for `EinsumDense`."""
    if all(None not in tensor.shape[1:] for call in graph.calls for tensor in call.outputs):
        return graph
    known = {tensor.number: tensor for tensor in graph.inputs}
    values = {tensor.number: keras.ops.zeros((1, *tensor.shape[1:]), tensor.dtype) for tensor in graph.inputs}
    calls = []
    for call in graph.calls:
        results = call_keras(call, [values[tensor.number] for tensor in call.inputs])
        for tensor, result in zip(call.outputs, results, strict=True):
            values[tensor.number] = result
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

    with _REPLACING:
        known = {name: vars(keras.Variable).get(name) for name in names}
        try:
            for name in names:
                setattr(keras.Variable, name, deferring(name))
            yield
        finally:
            for name, method in known.items():
                if method is None:
                    delattr(keras.Variable, name)
                else:
                    setattr(keras.Variable, name, method)
