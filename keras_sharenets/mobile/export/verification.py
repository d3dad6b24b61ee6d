"""Checks of whether a network can be exported, and verification of TFLite files against Keras."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable

import keras
import numpy as np

from keras_sharenets import _checks, precisions
from keras_sharenets._types import Shape
from keras_sharenets.heads import Head, heads_of
from keras_sharenets.mobile.export import edge_quantizer, reference
from keras_sharenets.mobile.export.reference import Arrays, ExportMismatchError, Results
from keras_sharenets.mobile.export.representative_data import fresh_inputs, verification_inputs
from keras_sharenets.mobile.graph.inference_graph import FLOAT, InferenceGraph
from keras_sharenets.mobile.graph.lowering import LoweredModel
from keras_sharenets.mobile.graph.quantization import QuantizedGraph
from keras_sharenets.mobile.graph.rounding_error import kernel_rounding_error, rounding_error
from keras_sharenets.mobile.inspect import file

# The error limit of an integer file is this multiple of the rounding error by itself, plus one step of the scores.
# Correct files of all families had 0.92 to 1.14 times that error.
_ROUNDING_FACTOR = 1.5
# With some kernels or layers in float, the limit is at least that of a float file.
_LEAST_BOUND = 1e-4
# Number of additional images for verification that are not used for calibration.
_FRESH = 16
# Assessment of the fraction of equal predictions, from the best down.
_AGREEMENTS = (
    (0.98, "which is good"),
    (0.9, "which is fair: measure the accuracy of the file"),
    (0.0, "which is poor: calibrate with more images like those of training, or train with `quantize_aware`"),
)
# With fewer steps of 1/256 in the largest probability, a file does not rank classes.
_FEW_STEPS = 16
_AMPLIFIES = (
    " No int8 file can be accurate for this network: train it, or if it is trained, check that the images are like its"
    " training images. A network that is to stay untrained needs statistics in its normalizations: call it on images"
    " with `training=True` a few dozen times."
)
_CONSTANT_OUTPUT = (
    "the comparison is not meaningful, because the network gives nearly the same output for every image: train it, or"
    " if it is trained, check that the images are like its training images"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a file with Keras on the same images.

    Attributes:
        largest_difference: largest difference between an output of the file and of Keras.
        score_error: relative error of the scores: norm of the difference to Keras' scores divided by the norm of Keras'
            scores. Scores are the values before a final softmax or sigmoid, otherwise the outputs. For several outputs,
            the one closest to its bound counts.
        top1_agreement: fraction of images with the same prediction in the file and in Keras: the top class, the side of
            0.5 for one sigmoid, or all labels for several. For an output map it is the fraction of pixels; for several
            outputs the smallest fraction; `None` for a single number that is not a probability.
        score_variation: relative variation of Keras' scores between images: norm of the difference to their mean
            divided by their norm; `None` for one image. If it does not exceed `score_error`, the network gives nearly
            the same output for every image, and the agreement is not meaningful.
        verified_on: number and kind of these images.
        score_error_bound: limit of `score_error`, above which the file would not have been written. For `"int8"` it is
            1.5 times the error of rounding every kernel and activation in float, plus one step of the scores; likewise
            for files by AI Edge Quantizer. In the float modes it is 1e-4 or 1e-2, or twice the error of rounding the
            kernels if that is larger, as in a network that amplifies differences.
        worst_layer: for `"int8"`, the layer with the largest error when it alone is rounded; otherwise `None`.
        worst_layer_error: relative error of the output of that layer.
        probability_steps: for `"int8"` and a final softmax, the largest probability of a typical image (the median), in
            the steps of 1/256 that TFLite prescribes; otherwise `None`. With few steps, as for many classes, several
            classes have the same probability in the file.
    """

    largest_difference: float
    score_error: float
    top1_agreement: float | None
    score_variation: float | None = None
    verified_on: str = ""
    score_error_bound: float | None = None
    worst_layer: str | None = None
    worst_layer_error: float | None = None
    probability_steps: float | None = None

    @property
    def tells(self) -> bool:
        """Whether the outputs vary between images, so that the agreement is meaningful."""
        return self.score_variation is None or self.score_variation > self.score_error

    @property
    def in_words(self) -> str:
        """Assessment of the agreement, with advice if it is not good."""
        if not self.tells:
            return _CONSTANT_OUTPUT
        if self.top1_agreement is None:
            return f"outputs differ by up to {self.largest_difference:.2g}"
        share = f"the predictions agree for {self.top1_agreement:.1%}"
        words = next(words for least, words in _AGREEMENTS if self.top1_agreement >= least)
        if self.probability_steps is not None and self.probability_steps < _FEW_STEPS:
            words += (
                f"; the largest probability of a typical image is {self.probability_steps:.0f}/256, and int8 rounds all"
                " to multiples of 1/256: to rank the classes, export the network without its softmax"
            )
        return f"{share}, {words}"


def verify_file(
    data: bytes,
    lowered: LoweredModel,
    graph: InferenceGraph | QuantizedGraph,
    *,
    quantization: precisions.Quantization,
    representative_data: Arrays | None,
) -> Agreement:
    """Runs a file in the LiteRT interpreter, on given and on fresh examples, and compares it with Keras.

    Args:
        data: bytes of the file.
        lowered: the network, as returned by [`lower_model`].
        graph: the graph from which the file was written; determines the error that rounding explains.
        quantization: precision of the file.
        representative_data: an array `(n, ...)` for each input, or `None` for synthetic examples.

    Returns:
        The `Agreement` on the given examples.

    Raises:
        ExportMismatchError: the file differs from Keras by more than its precision allows; or it contains a constant
            twice; or a value of an integer file stayed in float.
    """
    known, shapes = precisions.of_file(quantization), reference.input_shapes(lowered.traced)
    count = min(precision.verification_images for precision in known)
    given, verified_on = verification_inputs(representative_data, shapes, count=count)
    fresh = fresh_inputs(representative_data, shapes, count=_FRESH)
    tolerance = max(precision.tolerance for precision in known)
    # Images that were not used for calibration may have values outside the ranges, which an integer file clips.
    most = math.inf if precisions.has_integers(quantization) else tolerance
    run, ranges = _open(data, lowered), {}
    if precisions.needs_quantizer(quantization) and isinstance(graph, InferenceGraph):
        ranges = edge_quantizer.clipping_ranges(graph, quantization, representative_data)
    agreement, _ = (
        _judge(run(inputs), reference.results_of(lowered, inputs), lowered, graph, inputs, limit, quantization, ranges)
        for inputs, limit in ((given, tolerance), (fresh, most))
    )
    _check_constants(file.parse(data), lowered, quantization)
    return dataclasses.replace(agreement, verified_on=verified_on)


def _check_constants(model: file.Model, lowered: LoweredModel, quantization: precisions.Quantization) -> None:
    repeated, floats = file.repeated_bytes(model), file.tensor_types(model) - {"int8", "int32", "bool"}
    if repeated:
        raise ExportMismatchError(
            f"The converted file contains {repeated} bytes of constants twice, and was not written."
        )
    in_float = any(step.kind in FLOAT for step in lowered.graph.operations)
    if quantization == "int8" and floats and not in_float:
        names = ", ".join(sorted(floats))
        raise ExportMismatchError(f"Some values of the converted file stayed in {names}, and it was not written.")


def _open(data: bytes, lowered: LoweredModel) -> Callable[[Arrays], Results]:
    """Returns a function that runs a file on an array `(n, ...)` for each input."""
    interpreter = file.open_bytes(data, "The converted file")
    places = [detail["index"] for detail in interpreter.get_output_details()]
    graph = lowered.graph
    inside = zip(places, file.score_tensors(file.parse(data)), graph.scores(), graph.outputs, strict=True)
    # The scores inside a single layer cannot be separated from its output.
    tensors = [place if score is None or own == end else score for place, score, own, end in inside]
    keeping = interpreter
    if tensors != places:
        with warnings.catch_warnings():
            # Required to read the scores; LiteRT warns that it costs memory. The delegate then runs operators one by
            # one, so the outputs are taken from an interpreter with the default options.
            warnings.simplefilter("ignore", UserWarning)
            keeping = file.open_bytes(data, "The converted file", experimental_preserve_all_tensors=True)

    def run(inputs):
        outputs = file.run_examples(interpreter, inputs, places)
        scores = outputs if keeping is interpreter else file.run_examples(keeping, inputs, tensors)
        return tuple(outputs), tuple(scores)

    return run


def _judge(results, expected, lowered, graph, inputs, most, quantization, ranges) -> Agreement:
    """The `Agreement` of the output that is closest to its bound; raises `ExportMismatchError` if one exceeds it.

    The bound is `most`, or less if integer rounding explains less, or more if the rounding of a float file explains
    more.
    """
    heads, (_, right_scores) = heads_of(lowered.traced), expected
    agreements = list(map(_compare, heads, *results, *expected))
    bounds, limits, hint, steps = [most] * len(heads), {}, "", None
    in_float = not precisions.has_integers(quantization)
    if isinstance(graph, QuantizedGraph):
        steps = _probability_steps(graph.graph, results[0])
        rounding = rounding_error(graph, inputs)
        worst = rounding.worst_layer
        pairs = zip(rounding.scores, rounding.score_steps, strict=True)
        bounds = [float(min(most, _ROUNDING_FACTOR * error + step)) for error, step in pairs]
        if worst is not None:
            loss = rounding.layers[worst]
            limits = {"worst_layer": worst, "worst_layer_error": loss}
            hint = (
                f" Rounding alone causes {max(rounding.scores):.2g}; layer '{worst}' has the largest error, {loss:.2g}."
            )
            hint += _AMPLIFIES if max(rounding.scores) > most else ""
    elif precisions.needs_quantizer(quantization):
        errors = kernel_rounding_error(
            graph, inputs, lambda each: edge_quantizer.rounded_bits(quantization, each), ranges=ranges
        )
        bounds = [max(_LEAST_BOUND, min(most, _ROUNDING_FACTOR * error)) for error in errors]
        hint = f" Rounding alone causes {max(errors):.2g}."
    elif in_float and any(each.score_error > most for each in agreements):
        precision, *_ = precisions.of_file(quantization)
        _, explained = reference.rounding_limits(graph, inputs, bits=_checks.known("right_bits", precision.right_bits))
        bounds = [max(most, error) for error in explained]
    for agreement, limit, right in zip(agreements, bounds, right_scores, strict=True):
        difference_limit = limit * (1 + np.abs(right).max() / 2) if in_float else np.inf
        # Written so that NaN fails.
        if not (agreement.score_error <= limit and agreement.largest_difference <= difference_limit):
            difference = f", largest output difference {agreement.largest_difference:.2g}"
            raise ExportMismatchError(
                f"The converted file does not compute what Keras computes on {len(inputs[0])} images, and was not"
                f" written: relative error of the scores {agreement.score_error:.2g} (limit {limit:.2g})"
                f"{f'{difference} (limit {difference_limit:.2g})' if in_float else ''}.{hint}"
            )
    tightest = max(range(len(heads)), key=lambda place: agreements[place].score_error / max(bounds[place], 1e-30))
    shares = [agreement.top1_agreement for agreement in agreements if agreement.top1_agreement is not None]
    return dataclasses.replace(
        agreements[tightest],
        largest_difference=max(each.largest_difference for each in agreements),
        top1_agreement=min(shares, default=None),
        score_error_bound=bounds[tightest],
        probability_steps=steps,
        **limits,
    )


def _probability_steps(graph: InferenceGraph, outputs: Arrays) -> float | None:
    """The largest probability of a typical image in steps of 1/256; the fewest of several outputs."""
    made = {operation.output.number for operation in graph.operations if operation.kind == "softmax"}
    ends = (array for value, array in zip(graph.outputs, outputs, strict=True) if value.number in made)
    return min((256 * float(np.median(array.max(axis=-1))) for array in ends), default=None)


def _compare(
    head: Head, outputs: np.ndarray, scores: np.ndarray, right_outputs: np.ndarray, right_scores: np.ndarray
) -> Agreement:
    """The `Agreement` of one output."""
    scores, right_scores = scores.astype("float64"), right_scores.astype("float64")  # Squares of 1e20 overflow.
    length = max(np.linalg.norm(right_scores), np.finfo(np.float32).tiny)
    variation = np.linalg.norm(right_scores - right_scores.mean(axis=0)) / length
    return Agreement(
        largest_difference=float(np.abs(outputs - right_outputs).max()),
        score_error=float(np.linalg.norm(scores - right_scores) / length),
        top1_agreement=head.agreement(outputs, right_outputs),
        score_variation=float(variation) if len(scores) > 1 else None,
    )


def check_classifier(model: keras.Model) -> tuple[tuple[int, int, int], int]:
    """The shape of one image and the number of classes of a classifier that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, does not take one batch of images of a fixed size, or
            does not return one vector of a fixed length per image.
    """
    images, results = check_model(model)
    if len(images) != 1 or len(results) != 1:
        raise ValueError(f"`model` must have one input and one output, has {len(images)} and {len(results)}.")
    (image,), (result,) = images, results
    if len(image) != 3:
        raise ValueError(f"The input of `model` must be images `(batch, height, width, channels)`, is {image}.")
    if len(result) != 1:
        raise ValueError(f"`model` must return one vector per image, `(batch, classes)`, but returns {result}.")
    return image, result[0]


def check_model(model: keras.Model) -> tuple[list[Shape], list[Shape]]:
    """The shape of one example for each input and output of a network that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, or has unknown dimensions other than the batch.
    """
    _checks.loaded("model", model)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not inputs or not outputs:
        raise ValueError(f"`model` (={model!r}) must be a functional or sequential Keras model with a known input.")
    given, results = ([tuple(tensor.shape[1:]) for tensor in tensors] for tensors in (inputs, outputs))
    for shape in given:
        if None in shape:
            raise ValueError(
                f"Export needs a fixed image size, and the model takes {shape}: build it with a fixed `input_shape` "
                f"and load the weights into it."
            )
    for shape in results:
        if None in shape:
            raise ValueError(f"`model` must return results of a fixed size, but returns {shape}.")
    return given, results
