"""Comparison of an inference graph with Keras, layer by layer, before the graph is used.

Keras runs one call after the other, and the lowered form of each call runs on the inputs of that call. A wrong layer is
therefore located even if its error hardly affects the final probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Graph, Tensor
from keras_sharenets.analysis.running import run_call, run_calls
from keras_sharenets.mobile.graph.inference_graph import BATCH, PROBABILITIES, InferenceGraph, compute, run_all
from keras_sharenets.mobile.graph.lowering import LoweredCall, LoweredModel
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError, article

# Limit of the relative error of a layer and of a graph. Correct ones had up to 1e-6 in networks of up to 100
# convolutions.
TOLERANCE = 1e-4
# A graph may instead have this multiple of the rounding error by itself, up to a maximum. In networks that amplify
# differences, such as untrained deep ones, the order of summation changes the scores in Keras, too: correct graphs of
# four of them had 0.5 to 0.9 times the error of rounding kernels, ResNet-152 up to 2e-3.
_ROUNDING_FACTOR, _MOST_ROUNDING = 2, 0.1
# Accurate bits of a float32 sum of products in a convolution.
_BITS = 22
# Outputs this small relative to the inputs of a layer are the result of cancellation.
_ROUNDING = 1e-3
# Scores above this saturate a softmax or sigmoid: it is 0 or 1 except for the last digits.
_SATURATED = 8


class ExportMismatchError(RuntimeError):
    """An exported file does not compute what its Keras model computes. No file is written."""


class LayerMismatchError(ExportMismatchError, UnsupportedLayerError):
    """The lowered form of a layer does not compute what the layer computes. No file is written."""


# An array `(n, ...)` for each input, or for each output, of a network.
Arrays = tuple[np.ndarray, ...]
# Outputs and scores.
Results = tuple[Arrays, Arrays]


def input_shapes(traced: Graph) -> list[Shape]:
    """The shape of each input for one example."""
    return [tensor.shape[1:] for tensor in traced.inputs]


def _run_lowered(lowered: LoweredCall, inputs: Sequence[Any]) -> dict[int, Any]:
    """Runs the lowered form of a call; returns `{value number: tensor}`."""
    # A network may take integers, but a file computes with real numbers, also for uint8.
    values = {
        value.number: keras.ops.cast(array, "float32") for value, array in zip(lowered.inputs, inputs, strict=True)
    }
    for operation in lowered.operations:
        values[operation.output.number] = compute(operation, [values[value.number] for value in operation.inputs])
    return values


def _error(result: Any, expected: Any, *, floor: float = 0.0) -> float:
    """Relative root-mean-square error, with a lower bound `floor` on the magnitude of the expected values."""
    result, expected = np.asarray(result, "float64"), np.asarray(expected, "float64")
    if len(result) == 1 and result.shape[1:] == expected.shape[1:]:  # The same for all examples.
        result = np.broadcast_to(result, expected.shape)
    if result.shape != expected.shape:
        return float("inf")
    size = max(np.sqrt(np.mean(expected**2)), floor, np.finfo("float32").tiny)
    return float(np.sqrt(np.mean((result - expected) ** 2)) / size)


def _floor(lowered: LoweredCall, inputs: Sequence[Any]) -> float:
    """Lower bound on the magnitude of a layer's outputs in case they nearly cancel out."""
    largest = max(np.sqrt(np.mean(np.asarray(x, "float64") ** 2)) for x in inputs)
    scales = [np.abs(operation.scale).max() for operation in lowered.operations if operation.scale is not None]
    return _ROUNDING * float(largest) * max(1.0, *map(float, scales), 1.0)


def check_layers(lowered: LoweredModel, checked: Arrays) -> Results:
    """Compares the lowered form of each call with Keras.

    Args:
        lowered: result of [`lower_model`].
        checked: a float array `(n, ...)` for each input.

    Returns:
        The result of [`results_of`] on the same arrays, from the same run.

    Raises:
        LayerMismatchError: the relative error of a layer exceeds `TOLERANCE`; names the first such layer.
        ExportMismatchError: the model does not compute what its calls compute.
        ValueError: a layer returns values that are not finite.
    """
    traced, name = lowered.traced, lowered.model.name
    given = {tensor: _batches(array) for tensor, array in zip(traced.inputs, checked, strict=True)}
    results: dict[Tensor, list] = {**given, **{tensor: [] for tensor in traced.outputs if tensor not in given}}

    def check(each, inputs, expected):
        for tensor, output in zip(each.call.outputs, expected, strict=True):
            if tensor in results:
                results[tensor].append(np.asarray(output))
        if not isinstance(each.call.operation, ours.FakeQuantize):
            _check_layer(each, inputs, expected)

    scores = _run_layers(lowered, checked, check)
    right = run_model(lowered.model, checked)
    # Detects layers that represent several calls, and models that run their layers in a custom way.
    outputs = (np.concatenate(results[tensor]) for tensor in traced.outputs)
    error = max(map(_error, outputs, right))
    if not error <= TOLERANCE:
        raise ExportMismatchError(
            f"`model` (='{name}') does not compute what its layers compute one after the other, and nothing was"
            f" written: relative error {error:.2g} on {len(checked[0])} images (limit {TOLERANCE:.2g})."
        )
    return right, scores or right


def _batches(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + BATCH] for start in range(0, len(array), BATCH)]


def _check_layer(lowered, inputs, expected):
    values, call = _run_lowered(lowered, inputs), lowered.call
    if not all(np.isfinite(np.asarray(array)).all() for array in expected):
        raise ValueError(f"Layer '{call.path}' of `model` returns values that are not finite: it cannot be verified.")
    floor = _floor(lowered, inputs)
    pairs = zip(lowered.outputs, expected, strict=True)
    error = max(_error(values[value.number], array, floor=floor) for value, array in pairs)
    own_end = len(lowered.operations) > 1 and lowered.operations[-1].kind in PROBABILITIES
    if own_end and error <= TOLERANCE:
        error = _unsaturated_error(lowered, inputs, values)
    # Written so that NaN fails.
    if not error <= TOLERANCE:
        raise LayerMismatchError(
            f"Layer '{call.path}', {article(type(call.operation).__name__)}, would compute something else in the file"
            f" than in Keras, and nothing was written: relative error {error:.2g} on {len(inputs[0])} images (limit"
            f" {TOLERANCE:.2g})."
        )


def _unsaturated_error(lowered, inputs, values):
    """The error of a layer with a built-in softmax or sigmoid for inputs that do not saturate it."""
    scores = np.abs(np.asarray(values[lowered.operations[-1].inputs[0].number])).max()
    if not scores > _SATURATED:
        return 0.0
    smaller = [x * (_SATURATED / float(scores)) for x in inputs]
    (expected,) = run_call(lowered.call, smaller)
    return _error(_run_lowered(lowered, smaller)[lowered.outputs[0].number], expected)


def run_keras(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """As [`run_model`], for a model with one input and one output."""
    (outputs,) = run_model(model, (images,))
    return outputs


def run_model(model: keras.Model, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs of a Keras model on an array `(n, ...)` for each input, in inference mode.

    Raises:
        ValueError: an output is not finite.
    """
    size, count = model.inputs[0].shape[0] or BATCH, len(inputs[0])
    if model.inputs[0].shape[0]:  # The batch size is fixed: the last example is repeated.
        inputs = [np.concatenate([array, np.repeat(array[-1:], -count % size, axis=0)]) for array in inputs]
    inputs = [array.astype(np.float32) for array in inputs]
    batches = [[array[start : start + size] for array in inputs] for start in range(0, count, size)]
    results = [keras.tree.flatten(model(packed(model, batch), training=False)) for batch in batches]
    outputs = tuple(np.concatenate(list(map(np.asarray, parts)))[:count] for parts in zip(*results, strict=True))
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError("`model` returns values that are not finite: it cannot be verified.")
    return outputs


def packed(model: keras.Model, inputs: Sequence[Any]) -> Any:
    """Arrays or tensors in the input structure of a model: a single one, or lists and dicts."""
    sequential = isinstance(model, keras.Sequential)
    return inputs[0] if sequential else keras.tree.pack_sequence_as(model.input, list(inputs))


def results_of(network: LoweredModel | InferenceGraph, inputs: Arrays) -> Results:
    """The outputs and scores of a Keras model or an inference graph on an array for each input."""
    if isinstance(network, LoweredModel):
        outputs, own_scores = run_model(network.model, inputs), network.graph.scores() != network.graph.outputs
        return outputs, keras_scores(network, inputs) if own_scores else outputs
    batches = [run_all(_with_scores(network), batch) for batch in zip(*map(_batches, inputs), strict=True)]
    arrays = tuple(map(np.concatenate, zip(*batches, strict=True)))
    return arrays[: len(network.outputs)], arrays[len(network.outputs) :]


def _with_scores(graph: InferenceGraph) -> InferenceGraph:
    """A graph that returns its scores after its outputs."""
    return dataclasses.replace(graph, outputs=(*graph.outputs, *graph.scores()))


def check_graph(graph: InferenceGraph, expected: Results, inputs: Arrays) -> None:
    """Compares a graph with Keras, or with the graph before it was rewritten.

    Args:
        graph: `InferenceGraph`, not quantized.
        expected: result of [`results_of`] for the reference on the inputs.
        inputs: a float array `(n, ...)` for each input.

    Raises:
        ExportMismatchError: the relative error of outputs or scores exceeds `TOLERANCE` and the rounding error.
    """
    results = results_of(graph, inputs)
    error, limit = max(map(max, _errors(results, expected))), TOLERANCE
    if not error <= limit:
        limit = max(limit, *map(max, rounding_limits(graph, inputs)))
    if not error <= limit:
        raise ExportMismatchError(
            f"The inference graph does not compute what Keras computes on {len(inputs[0])} images, and nothing was"
            f" written: relative error of the scores {error:.2g} (limit {limit:.2g})."
        )


def _errors(results: Results, expected: Results) -> tuple[list[float], list[float]]:
    outputs, scores = (list(map(_error, *arrays)) for arrays in zip(results, expected, strict=True))
    return outputs, scores


def rounding_limits(graph: InferenceGraph, inputs: Arrays, *, bits: int = _BITS) -> tuple[list[float], list[float]]:
    """Limits for a correct graph in which rounding alone has a large effect.

    Args:
        graph: `InferenceGraph`.
        inputs: a float array `(n, ...)` for each input.
        bits: number of accurate bits: each kernel weight is changed by a relative `2**-bits`, up or down.

    Returns:
        `(outputs, scores)`: twice the resulting relative error, at most 0.1, for each output.
    """
    random = np.random.default_rng(0)
    signs = {kernel: random.choice([-1.0, 1.0], kernel.array.shape) for kernel in graph.uses()}
    changed = graph.with_kernels({kernel: kernel.array * (1 + 2.0**-bits * signs[kernel]) for kernel in signs})
    errors = _errors(results_of(changed, inputs), results_of(graph, inputs))
    outputs, scores = ([min(_MOST_ROUNDING, _ROUNDING_FACTOR * error) for error in each] for each in errors)
    return outputs, scores


def keras_scores(lowered: LoweredModel, inputs: Arrays) -> Arrays:
    """The scores in Keras: the values before a final softmax or sigmoid, otherwise the outputs.

    The probabilities of a very confident classifier are exactly 0 and 1 and hide differences; the scores do not.

    Args:
        lowered: result of [`lower_model`].
        inputs: an array `(n, ...)` for each input.

    Returns:
        A float32 array `(n, ...)` for each output.
    """
    if lowered.graph.scores() == lowered.graph.outputs:
        return run_model(lowered.model, inputs)
    return _run_layers(lowered, inputs)


def _run_layers(lowered, inputs, see=lambda each, read, outputs: None):
    """Passes each lowered call, its inputs and its outputs to `see`; returns the scores unless they are the outputs."""
    graph = lowered.graph
    wanted = () if graph.scores() == graph.outputs else graph.scores()
    # Outputs that occur twice are copied after the last call.
    copied = {step.output: step.inputs[0] for step in graph.operations[sum(len(c.operations) for c in lowered.calls) :]}
    sources = [copied.get(value, value).number for value in wanted]
    found: dict[int, list[np.ndarray]] = {number: [] for number in sources}
    for batch in zip(*map(_batches, inputs), strict=True):
        values = dict(zip((value.number for value in graph.inputs), batch, strict=True))
        for each, (_, read, outputs) in zip(lowered.calls, run_calls(lowered.traced, batch), strict=True):
            see(each, read, outputs)
            if any(step.output.number in found for step in each.operations):
                values = {**_run_lowered(each, read), **values}
            values.update(zip((value.number for value in each.outputs), outputs, strict=True))
            values = {number: value for number, value in values.items() if number in found}
        for number, arrays in found.items():
            arrays.append(np.asarray(values[number], "float32"))
    return tuple(np.concatenate(found[number]) for number in sources)
