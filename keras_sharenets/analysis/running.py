"""Running a traced model call by call, on concrete or symbolic tensors, in inference mode."""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_sharenets.analysis.graph import Call, Graph, Tensor


def run_call(call: Call, inputs: Sequence[Any], operation: Any = None, *, inside: bool = False) -> list[Any]:
    """The outputs of one call of a layer, in inference mode, for new inputs.

    Args:
        call: the `Call`.
        inputs: a tensor for each of its inputs.
        operation: operation to call instead of the call's own, or `None`.
        inside: whether to call its method `call`, so that symbolic tensors reach the parts of the layer.
    """
    operation, given = call.operation if operation is None else operation, iter(inputs)
    args, kwargs = keras.tree.map_structure(
        lambda argument: next(given) if isinstance(argument, Tensor) else argument, (call.args, call.kwargs)
    )
    if "training" in inspect.signature(operation.call).parameters:
        kwargs["training"] = False
    return keras.tree.flatten((operation.call if inside else operation)(*args, **kwargs))


def run_calls(
    graph: Graph, inputs: Sequence[Any], run: Callable[[Call, list], list] = run_call
) -> Iterator[tuple[Call, list, list]]:
    """Runs a model call by call: yields each call with its inputs and its outputs, the result of `run(call, inputs)`.

    Args:
        graph: the traced model.
        inputs: an array or tensor `(n, ...)` for each input.
        run: function that runs a call.
    """
    values = {
        tensor.number: keras.ops.convert_to_tensor(array, tensor.dtype)
        for tensor, array in zip(graph.inputs, inputs, strict=True)
    }
    readers = collections.Counter(tensor.number for call in graph.calls for tensor in call.inputs)
    for call in graph.calls:
        read = [values[tensor.number] for tensor in call.inputs]
        outputs = run(call, read)
        yield call, read, outputs
        values.update((tensor.number, output) for tensor, output in zip(call.outputs, outputs, strict=True))
        for tensor in call.inputs:
            readers[tensor.number] -= 1
            if not readers[tensor.number]:
                del values[tensor.number]
