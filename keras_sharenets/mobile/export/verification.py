"""Which networks can be exported, and whether a written TFLite file computes what its network computes in Keras."""

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
from keras_sharenets.mobile.export.reference import Arrays, ExportMismatchError, LoweredModel, Results
from keras_sharenets.mobile.export.representative_data import fresh_inputs, verification_inputs
from keras_sharenets.mobile.graph.inference_graph import FLOAT, InferenceGraph
from keras_sharenets.mobile.graph.quantization import QuantizedGraph
from keras_sharenets.mobile.graph.rounding_error import kernel_rounding_error, rounding_error
from keras_sharenets.mobile.inspect import file

# An integer file may also have so many times the error that its bits make by themselves, and one step of its scores.
# Right files of all families had 0.92 to 1.14 times that error.
_ROUNDING_FACTOR = 1.5
# And one with kernels or layers in float no less than a float file.
_LEAST_BOUND = 1e-4
# Images that nothing is measured on, to verify a file with.
_FRESH = 16
# What to say of a share of equal answers, from the best down.
_AGREEMENTS = (
    (0.98, "which is good"),
    (0.9, "which is fair: measure the accuracy of the file"),
    (0.0, "which is poor: calibrate with more images like those of training, or train with `quantize_aware`"),
)
_CARRIES_ON = (
    " No file of integers can be right then: train the network, or if it is trained, see that the images are such as it"
    " was trained on. One that is to stay untrained needs statistics in its normalizations: call it on images with"
    " `training=True` some dozens of times."
)
_SAYS_THE_SAME = (
    "nothing can be seen, since the network says nearly the same of every image: train it, or if it is trained, see"
    " that the images are such as it was trained on"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a file agrees with Keras on the same images.

    Attributes:
        largest_difference: the largest difference between an output of the file and of Keras.
        score_error: length of the difference of all scores, as a share of the length of Keras' scores. Scores are the
            numbers before a final softmax or sigmoid, else the outputs. Of several outputs the one counts that comes
            nearest to its bound.
        top1_agreement: share of the images of which file and Keras say the same: the class that comes first, the side
            of 0.5 of one sigmoid, all labels of several; of the pixels if the output is a map; of several outputs the
            smallest; `None` for one number that is no probability.
        score_variation: how far Keras' scores differ from one image to the next: the length of their difference from
            their mean, as a share of their length; `None` for one image. Where it is not above `score_error`, the
            network says nearly the same of every image, and nothing can be seen from the agreement.
        verified_on: number and kind of these images.
        score_error_bound: the largest `score_error` with which the file would have been written. For `"int8"` it comes
            from the bits: 1.5 times the error that rounding every kernel and value makes in float, and one step of the
            scores; so it does where AI Edge Quantizer has made the file. In the float modes it is 1e-4 or 1e-2, or, in
            a network that carries every difference on, twice what rounding its kernels makes, if that is more.
        worst_layer: for `"int8"`, the layer that loses most when it alone is rounded; else `None`.
        worst_layer_error: what that layer loses, as a share of the length of its output.
    """

    largest_difference: float
    score_error: float
    top1_agreement: float | None
    score_variation: float | None = None
    verified_on: str = ""
    score_error_bound: float | None = None
    worst_layer: str | None = None
    worst_layer_error: float | None = None

    @property
    def tells(self) -> bool:
        """Whether the images are told apart at all, so that the agreement is worth something."""
        return self.score_variation is None or self.score_variation > self.score_error

    @property
    def in_words(self) -> str:
        """Whether that is good, and what helps if it is not."""
        if not self.tells:
            return _SAYS_THE_SAME
        if self.top1_agreement is None:
            return f"outputs differ by up to {self.largest_difference:.2g}"
        share = f"the same answer for {self.top1_agreement:.1%}"
        return f"{share}, {next(words for least, words in _AGREEMENTS if self.top1_agreement >= least)}"


def verify_file(
    data: bytes,
    lowered: LoweredModel,
    graph: InferenceGraph | QuantizedGraph | None,
    *,
    quantization: precisions.Quantization,
    representative_data: Arrays | None,
) -> Agreement:
    """Runs a file in the LiteRT interpreter, on given examples and on fresh ones, and compares it with Keras.

    Args:
        data: the file.
        lowered: the network, as [`reference.lower_model`] gives it.
        graph: what the file was written from, which says how much of a difference its bits explain.
        quantization: the precision of the file.
        representative_data: an array `(n, ...)` for each input, or `None` for synthetic examples.

    Returns:
        The `Agreement` on the given examples.

    Raises:
        ExportMismatchError: the file differs from Keras by more than its precision allows, and its bits explain; or a
            constant is in it twice, or something stayed in float in a file of integers.
    """
    known, shapes = precisions.of_file(quantization), reference.input_shapes(lowered.traced)
    count = min(precision.verification_images for precision in known)
    given, verified_on = verification_inputs(representative_data, shapes, count=count)
    fresh = fresh_inputs(representative_data, shapes, count=_FRESH)
    tolerance = max(precision.tolerance for precision in known)
    # Images that an integer file was not calibrated with may have values outside its ranges, which it clips as it must.
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
    repeated, floats = file.repeated_bytes(model), file.tensor_types(model) - {"int8", "int32"}
    if repeated:
        raise ExportMismatchError(f"{repeated} bytes of constants are in the converted file twice; it was not written.")
    in_float = any(step.kind in FLOAT for step in lowered.graph.operations)
    if quantization == "int8" and floats and not in_float:
        names = ", ".join(sorted(floats))
        raise ExportMismatchError(f"Some values of the converted file stayed in {names}; it was not written.")


def _open(data: bytes, lowered: LoweredModel) -> Callable[[Arrays], Results]:
    """A function that runs a file on an array `(n, ...)` for each input."""
    interpreter = file.open_bytes(data, "The converted file")
    places = [detail["index"] for detail in interpreter.get_output_details()]
    graph = lowered.graph
    inside = zip(places, file.score_tensors(file.parse(data)), graph.scores(), graph.outputs, strict=True)
    # What a layer does inside of itself at its end is not told apart from its output.
    tensors = [place if score is None or own == end else score for place, score, own, end in inside]
    keeping = interpreter
    if tensors != places:
        with warnings.catch_warnings():
            # Only so are scores inside of a file kept, which LiteRT says costs memory. Its delegate then runs operators
            # one by one, so that the outputs are those of an interpreter as programs open it.
            warnings.simplefilter("ignore", UserWarning)
            keeping = file.open_bytes(data, "The converted file", experimental_preserve_all_tensors=True)

    def run(inputs):
        outputs = file.run_examples(interpreter, inputs, places)
        scores = outputs if keeping is interpreter else file.run_examples(keeping, inputs, tensors)
        return tuple(outputs), tuple(scores)

    return run


def _judge(results, expected, lowered, graph, inputs, most, quantization, ranges) -> Agreement:
    """The `Agreement` of the output that is nearest to its bound; an `ExportMismatchError` if one is beyond it.

    Its scores may differ by `most`, or less if that is more than the bits of integers explain, or more if the bits that
    a float file has do.
    """
    heads, (_, right_scores) = heads_of(lowered.traced), expected
    agreements = list(map(_compare, heads, *results, *expected))
    bounds, limits, hint = [most] * len(heads), {}, ""
    in_float = not precisions.has_integers(quantization)
    if isinstance(graph, QuantizedGraph):
        rounding = rounding_error(graph, inputs)
        worst = rounding.worst_layer
        pairs = zip(rounding.scores, rounding.score_steps, strict=True)
        bounds = [float(min(most, _ROUNDING_FACTOR * error + step)) for error, step in pairs]
        if worst is not None:
            loss = rounding.layers[worst]
            limits = {"worst_layer": worst, "worst_layer_error": loss}
            hint = f" Rounding alone makes {max(rounding.scores):.2g}; layer '{worst}' loses most, {loss:.2g}."
            hint += _CARRIES_ON if max(rounding.scores) > most else ""
    elif precisions.needs_quantizer(quantization) and graph is not None:
        errors = kernel_rounding_error(
            graph, inputs, lambda each: edge_quantizer.rounded_bits(quantization, each), ranges=ranges
        )
        bounds = [max(_LEAST_BOUND, min(most, _ROUNDING_FACTOR * error)) for error in errors]
        hint = f" Rounding alone makes {max(errors):.2g}."
    elif in_float and graph is not None and any(each.score_error > most for each in agreements):
        precision, *_ = precisions.of_file(quantization)
        _, explained = reference.rounding_limits(graph, inputs, bits=_checks.known("right_bits", precision.right_bits))
        bounds = [max(most, error) for error in explained]
    for agreement, limit, right in zip(agreements, bounds, right_scores, strict=True):
        difference_limit = limit * (1 + np.abs(right).max() / 2) if in_float else np.inf
        # Written so that a difference that is no number fails.
        if not (agreement.score_error <= limit and agreement.largest_difference <= difference_limit):
            difference = f", largest difference of the outputs {agreement.largest_difference:.2g}"
            raise ExportMismatchError(
                f"The converted file does not compute what Keras computes on {len(inputs[0])} images, and was not"
                f" written: relative error of the scores {agreement.score_error:.2g} (at most {limit:.2g} is right)"
                f"{f'{difference} (at most {difference_limit:.2g})' if in_float else ''}.{hint}"
            )
    tightest = max(range(len(heads)), key=lambda place: agreements[place].score_error / max(bounds[place], 1e-30))
    shares = [agreement.top1_agreement for agreement in agreements if agreement.top1_agreement is not None]
    return dataclasses.replace(
        agreements[tightest],
        largest_difference=max(each.largest_difference for each in agreements),
        top1_agreement=min(shares, default=None),
        score_error_bound=bounds[tightest],
        **limits,
    )


def _compare(
    head: Head, outputs: np.ndarray, scores: np.ndarray, right_outputs: np.ndarray, right_scores: np.ndarray
) -> Agreement:
    """The `Agreement` of one output."""
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
        ValueError: the model is not functional or sequential, or does not take one batch of images of a fixed size, or
            does not give one vector of a fixed length for each.
    """
    images, results = check_model(model)
    if len(images) != 1 or len(results) != 1:
        raise ValueError(f"`model` must have one input and one output, has {len(images)} and {len(results)}.")
    (image,), (result,) = images, results
    if len(image) != 3:
        raise ValueError(f"The input of `model` must be images `(batch, height, width, channels)`, is {image}.")
    if len(result) != 1:
        raise ValueError(f"`model` must give one vector an image, `(batch, classes)`, but gives {result}.")
    return image, result[0]


def check_model(model: keras.Model) -> tuple[list[Shape], list[Shape]]:
    """The shapes of one example, of each input and of each output, of a network that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, or has open sides beside the batch.
    """
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
            raise ValueError(f"`model` must give results of a fixed size, but gives {shape}.")
    return given, results
