"""Layers that are put together from other ones: what their `call` calls, as calls that rules can lower.

A block, an attention, a whole network written as a subclass of `keras.layers.Layer` or `keras.Model` is called on
symbols, and is the graph of layers and functions of `keras.ops` that this leaves behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_sharenets.analysis.graph import Call, Graph, trace
from keras_sharenets.mobile.graph.rules import call_keras

_GRAPHS: weakref.WeakKeyDictionary[Call, Graph | None] = weakref.WeakKeyDictionary()


def parts_of(layer: Any, call: Call) -> Graph | None:
    """What a call of a layer calls itself, as a graph from its inputs to its outputs.

    The calls have paths behind that of the layer, and numbers of their own at each of its calls.

    Args:
        layer: the layer of the call.
        call: the `Call`.

    Returns:
        A `Graph`, or `None` for what is no layer, and where the layer looks at numbers, computes with something else
        than Keras, or gives what does not come from its inputs.
    """
    if not isinstance(layer, keras.layers.Layer):
        return None
    if call not in _GRAPHS:  # One for each call, which keeps the operations in it alive: constants are known by them.
        _GRAPHS[call] = _traced(layer, call)
    return _GRAPHS[call]


def _traced(layer, call):
    if any(tensor.dtype != "float32" for tensor in (*call.inputs, *call.outputs)):
        return None
    symbols = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in call.inputs]
    try:
        # What a layer would write to its variables is forgotten with the scope.
        with keras.StatelessScope(), _symbols_beside_variables():
            outputs = call_keras(call, symbols, layer, inside=True)
            graph = trace(keras.Model(symbols, outputs))
    # A layer that is no composition raises whatever it likes when it is given symbols.
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


@contextlib.contextmanager
def _symbols_beside_variables() -> Iterator[None]:
    """`variable * symbol` is what `symbol * variable` is: Keras asks the variable, which knows numbers alone."""
    names = ("__add__", "__sub__", "__mul__", "__truediv__", "__pow__")
    known = {name: vars(keras.Variable).get(name) for name in names}

    def deferring(name):
        method = getattr(keras.Variable, name)

        @functools.wraps(method)
        def combined(variable, other):
            return NotImplemented if isinstance(other, keras.KerasTensor) else method(variable, other)

        return combined

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
