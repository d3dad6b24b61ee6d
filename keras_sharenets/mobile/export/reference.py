"""Whether an inference graph computes what Keras computes, layer by layer, before anything is made of it.

Keras runs one call after the other; what each call was lowered to is run on the very inputs of that call. So a wrong
layer is found where it is, however little of its mistake is left in the probabilities at the end.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import Call, Graph, Tensor, trace
from keras_sharenets.mobile.export.verification import ExportMismatchError, run_keras, spread, synthetic_images
from keras_sharenets.mobile.graph.inference_graph import PROBABILITIES, InferenceGraph, compute, run
from keras_sharenets.mobile.graph.lowering import LoweredCall, lower_calls
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError, article

# The largest relative difference of a right layer, and of a right graph. Right ones had up to 1e-6 in networks of up to
# 100 convolutions.
TOLERANCE = 1e-4
# Numbers this small beside the inputs of a layer are what rounding leaves of a difference.
_ROUNDING = 1e-3
# Beyond this score a softmax or sigmoid is 0 or 1 in all but its last digits.
_SATURATED = 8
# Calibration images that a graph is checked on, and as many others.
_IMAGES, _BATCH = 8, 32


class LayerMismatchError(ExportMismatchError, UnsupportedLayerError):
    """A layer was lowered to something that does not compute what it computes. Nothing is written."""


Results = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LoweredModel:
    """A model, its calls as [`keras_sharenets.analysis.graph.trace`] gives them, and what they were lowered to."""

    model: keras.Model
    traced: Graph
    graph: InferenceGraph
    calls: tuple[LoweredCall, ...]


def lower_model(model: keras.Model) -> LoweredModel:
    """Lowers every call of a model once, to compare it with Keras.

    Raises:
        ValueError: the model is not functional, or a layer cannot be lowered (`UnsupportedLayerError`).
    """
    traced = trace(model)
    return LoweredModel(model, traced, *lower_calls(traced))


def fresh_images(representative_data: np.ndarray | None, shape: tuple[int, int, int], *, count: int) -> np.ndarray:
    """Seeded images that nothing was measured on, in the range of those that are given, or from 0 to 255."""
    images = synthetic_images(shape, count=count, seed=1).astype("float32")
    if representative_data is None:
        return images
    low, high = float(representative_data.min()), float(representative_data.max())
    return low + images * ((high - low) / 255)


def checked_images(representative_data: np.ndarray | None, shape: tuple[int, int, int]) -> np.ndarray:
    """Some of the given images and as many fresh ones, which a graph is checked on."""
    fresh = fresh_images(representative_data, shape, count=_IMAGES)
    if representative_data is None:
        return fresh
    return np.concatenate([spread(representative_data, _IMAGES).astype("float32"), fresh])


def keras_calls(traced: Graph, images: np.ndarray) -> Iterator[tuple[Call, list, Any]]:
    """Runs Keras call by call, in inference mode: each call with its inputs and its output."""
    values = {traced.inputs[0].number: keras.ops.convert_to_tensor(images, traced.inputs[0].dtype)}
    readers = collections.Counter(tensor.number for call in traced.calls for tensor in call.inputs)
    for call in traced.calls:
        inputs = [values[tensor.number] for tensor in call.inputs]
        output = call_keras(call, inputs)
        yield call, inputs, output
        values[call.outputs[0].number] = output
        for tensor in call.inputs:
            readers[tensor.number] -= 1
            if not readers[tensor.number]:
                del values[tensor.number]


def call_keras(call: Call, inputs: Sequence[Any]) -> Any:
    """The output of one call of a layer, in inference mode, for other inputs than it was traced with."""
    given = iter(inputs)
    args, kwargs = keras.tree.map_structure(
        lambda argument: next(given) if isinstance(argument, Tensor) else argument, (call.args, call.kwargs)
    )
    if "training" in inspect.signature(call.operation.call).parameters:
        kwargs["training"] = False
    return keras.tree.flatten(call.operation(*args, **kwargs))[0]


def _run_lowered(lowered: LoweredCall, inputs: Sequence[Any]) -> dict[int, Any]:
    """`{value number: tensor}` of what a call was lowered to, run on inputs of the call."""
    values = dict(zip((value.number for value in lowered.inputs), inputs, strict=True))
    for operation in lowered.operations:
        values[operation.output.number] = compute(operation, [values[value.number] for value in operation.inputs])
    return values


def _error(result: Any, expected: Any, *, floor: float = 0.0) -> float:
    """The length of a difference as a share of that of what is expected, or of a floor if that is more an element."""
    result, expected = np.asarray(result, "float64"), np.asarray(expected, "float64")
    if result.shape != expected.shape:
        return float("inf")
    size = max(np.sqrt(np.mean(expected**2)), floor, np.finfo("float32").tiny)
    return float(np.sqrt(np.mean((result - expected) ** 2)) / size)


def _floor(lowered: LoweredCall, inputs: Sequence[Any]) -> float:
    """What the numbers of a layer are compared with where they nearly cancel each other out."""
    largest = max(np.sqrt(np.mean(np.asarray(x, "float64") ** 2)) for x in inputs)
    scales = [np.abs(operation.scale).max() for operation in lowered.operations if operation.scale is not None]
    return _ROUNDING * float(largest) * max(1.0, *map(float, scales), 1.0)


def check_layers(lowered: LoweredModel, images: np.ndarray) -> None:
    """Compares what each call was lowered to with what Keras computes there.

    Args:
        lowered: what [`lower_model`] gives.
        images: float array `(n, height, width, channels)`.

    Raises:
        LayerMismatchError: the first layer whose numbers differ by more than `TOLERANCE` of their length, by name.
        ExportMismatchError: the model does not compute what its calls compute.
        ValueError: a layer gives numbers that are not finite.
    """
    traced, name = lowered.traced, lowered.model.name
    expected_outputs, outputs = run_keras(lowered.model, images), []
    for start in range(0, len(images), _BATCH):
        ran = keras_calls(traced, images[start : start + _BATCH])
        for each, (call, inputs, expected) in zip(lowered.calls, ran, strict=True):
            if call.outputs[0] == traced.outputs[0]:
                outputs.append(np.asarray(expected))
            if not isinstance(call.operation, ours.FakeQuantize):
                _check_layer(each, inputs, expected)
    # A layer that stands for several calls, and a model that runs its layers in a way of its own, show here.
    error = _error(np.concatenate(outputs), expected_outputs)
    if not error <= TOLERANCE:
        raise ExportMismatchError(
            f"`model` (='{name}') does not compute what its layers compute one after the other, and nothing was"
            f" written: relative error {error:.2g} on {len(images)} images (at most {TOLERANCE:.2g} is right)."
        )


def _check_layer(lowered, inputs, expected):
    values, call = _run_lowered(lowered, inputs), lowered.call
    if not np.isfinite(np.asarray(expected)).all():
        raise ValueError(f"Layer '{call.path}' of `model` gives numbers that are not finite: it cannot be verified.")
    error = _error(values[lowered.output.number], expected, floor=_floor(lowered, inputs))
    own_end = len(lowered.operations) > 1 and lowered.operations[-1].kind in PROBABILITIES
    if own_end and error <= TOLERANCE:
        error = _unsaturated_error(lowered, inputs, values)
    # Written so that a difference that is no number fails.
    if not error <= TOLERANCE:
        raise LayerMismatchError(
            f"Layer '{call.path}', {article(type(call.operation).__name__)}, would compute something else in the file"
            f" than in Keras, and nothing was written: relative error {error:.2g} on {len(inputs[0])} images (at most"
            f" {TOLERANCE:.2g} is right)."
        )


def _unsaturated_error(lowered, inputs, values):
    """The error of a layer with a softmax or sigmoid of its own where its scores are small enough to show it."""
    scores = np.abs(np.asarray(values[lowered.operations[-1].inputs[0].number])).max()
    if not scores > _SATURATED:
        return 0.0
    smaller = [x * (_SATURATED / float(scores)) for x in inputs]
    return _error(_run_lowered(lowered, smaller)[lowered.output.number], call_keras(lowered.call, smaller))


def results_of(network: LoweredModel | InferenceGraph, images: np.ndarray) -> Results:
    """The outputs and the scores of a model in Keras, or of an inference graph, on images."""
    if isinstance(network, LoweredModel):
        return run_keras(network.model, images), keras_scores(network, images)
    outputs, scores, wanted = [], [], network.scores()

    def watch(value, array):
        if value == wanted:
            scores.append(np.asarray(array))

    for start in range(0, len(images), _BATCH):
        outputs.append(run(network, images[start : start + _BATCH], watch=watch))
    return np.concatenate(outputs), np.concatenate(scores)


def check_graph(graph: InferenceGraph, expected: Results, images: np.ndarray) -> None:
    """Compares a graph with what Keras, or the graph before it was rewritten, computes.

    Args:
        graph: `InferenceGraph`, not quantized.
        expected: what [`results_of`] gives for those on the images.
        images: float array `(n, height, width, channels)`.

    Raises:
        ExportMismatchError: outputs or scores differ by more than `TOLERANCE` of their length.
    """
    error = max(map(_error, results_of(graph, images), expected))
    if not error <= TOLERANCE:
        raise ExportMismatchError(
            f"The inference graph does not compute what Keras computes on {len(images)} images, and nothing was"
            f" written: relative error of the scores {error:.2g} (at most {TOLERANCE:.2g} is right)."
        )


def keras_scores(lowered: LoweredModel, images: np.ndarray) -> np.ndarray:
    """The scores that Keras computes: the numbers before a final softmax or sigmoid, else the outputs.

    Where a classifier is very sure, its probabilities are exactly 0 and 1 and no longer show what happens inside; the
    scores before them always do.

    Args:
        lowered: what [`lower_model`] gives.
        images: array `(n, height, width, channels)`.

    Returns:
        A float32 array, one row an image.
    """
    graph, wanted, scores = lowered.graph, lowered.graph.scores(), []
    if wanted == graph.output:
        return run_keras(lowered.model, images)
    (end,) = (each for each in lowered.calls if any(step.output == graph.output for step in each.operations))
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH].astype("float32")
        inputs = next(inputs for call, inputs, _ in keras_calls(lowered.traced, batch) if call is end.call)
        scores.append(np.asarray(_run_lowered(end, inputs)[wanted.number], "float32"))
    return np.concatenate(scores)
