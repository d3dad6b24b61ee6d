"""From a trained classifier to a TFLite file that is known to work."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks, files, precisions, targets
from keras_sharenets.analysis.profile import profile_graph
from keras_sharenets.heads import ends_of, head_of_end
from keras_sharenets.mobile.export import (
    calibration_check,
    conversion,
    edge_quantizer,
    metadata,
    reference,
    verification,
)
from keras_sharenets.mobile.export.representative_data import gather_inputs
from keras_sharenets.mobile.export.verification import ExportMismatchError
from keras_sharenets.mobile.graph.inference_graph import FLOAT, InferenceGraph
from keras_sharenets.mobile.graph.quantization import QuantizedGraph
from keras_sharenets.mobile.graph.rounding_error import kernel_rounding_error, rounding_error
from keras_sharenets.mobile.inspect import arena, file

# An integer file may also have so many times the error that its bits make by themselves, and one step of its scores.
# Right files of all families had 0.92 to 1.14 times that error.
_ROUNDING_FACTOR = 1.5
# And one with kernels or layers in float no less than a float file.
_LEAST_BOUND = 1e-4
# What to say of a share of equal answers, from the best down.
_AGREEMENTS = (
    (0.98, "which is good"),
    (0.9, "which is fair: measure the accuracy of the file"),
    (0.0, "which is poor: calibrate with more images like those of training, or train with `quantize_aware`"),
)
_SAYS_THE_SAME = (
    "nothing can be seen, since the network says nearly the same of every image: train it, or if it is trained, see"
    " that the images are such as it was trained on"
)
# Images that nothing is measured on, to verify a file with.
_FRESH = 16


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """What `export_tflite` wrote, and how it was verified.

    Attributes:
        path: the file.
        quantization: what was asked for: `None`, the name of a precision, or a mapping from layers to such names.
        prefer: `"size"`, `"speed"`, `"memory"` or `"npu"`; `"max_bytes"` where a budget was given instead.
        file_bytes: size of the file.
        stored_parameters: as in `keras_sharenets.profile`: trainable parameters of the network, shared ones once.
        stored_weight_bytes: what these parameters take at the file's precision: in kernels 4 (float32), 2 (float16), 1
            (int8, int16) or 0.5 (int4) bytes each, in vectors such as biases 4, but 2 (float16) or 8 (int16).
        file_weight_bytes: what the constants in the file really take.
        largest_difference: the largest difference between an output of the file and of Keras.
        score_error: length of the difference of all scores, as a share of the length of Keras' scores. Scores are the
            numbers before a final softmax or sigmoid, else the outputs. Of several outputs the one counts that comes
            nearest to its bound.
        top1_agreement: share of the images of which file and Keras say the same: the class that comes first, the side
            of 0.5 of one sigmoid, all labels of several; of the pixels if the output is a map; of several outputs the
            smallest; `None` for one number that is no probability.
        verified_on: number and kind of these images.
        classes: number of classes; 0 where there are several outputs.
        score_error_bound: the largest `score_error` with which the file would have been written. For `"int8"` it comes
            from the bits: 1.5 times the error that rounding every kernel and value makes in float, and one step of the
            scores; so it does where AI Edge Quantizer has made the file. In the float modes it is 1e-4 or 1e-2, or, in
            a network that carries every difference on, twice what rounding its kernels makes, if that is more.
        worst_layer: for `"int8"`, the layer that loses most when it alone is rounded; else `None`.
        worst_layer_error: what that layer loses, as a share of the length of its output.
        input_type, output_type: types of the numbers that the file takes and gives.
        score_variation: how far Keras' scores differ from one image to the next, as a share of their length. A network
            that says nearly the same of every image is warned of: nothing can be seen from its agreement.
        fallback_layers: paths of the layers that have no lowering rule and came in as the operators that TensorFlow's
            converter makes of each alone. They compute in float in every file, and share no constants between calls
            but equal ones.
        arena_bytes: memory for the values of one inference, as [`size_report`] estimates it.

    `print(report)` says all this in words.
    """

    path: str
    quantization: precisions.Quantization
    prefer: str
    file_bytes: int
    stored_parameters: int
    stored_weight_bytes: int
    file_weight_bytes: int
    largest_difference: float
    score_error: float
    top1_agreement: float | None
    verified_on: str
    classes: int
    score_error_bound: float | None = None
    worst_layer: str | None = None
    worst_layer_error: float | None = None
    input_type: str = "float32"
    output_type: str = "float32"
    score_variation: float | None = None
    fallback_layers: tuple[str, ...] = ()
    arena_bytes: int = 0

    def __str__(self) -> str:
        kind = precisions.tell(self.quantization)
        lines = [
            f"{self.path}: {kind}, {self.file_bytes:,} bytes for {self.stored_parameters:,} stored parameters, takes"
            f" {self.input_type}, gives {self.output_type}",
            f"compared with Keras on {self.verified_on}: {self._agreement_in_words()}",
        ]
        if self.score_error_bound is not None:
            error, bound = f"{self.score_error:.2g} of their length", f"{self.score_error_bound:.2g}"
            lines.append(f"error of the scores: {error}; up to {bound} is right")
        if self.worst_layer is not None:
            lines.append(f"loses most by rounding: layer '{self.worst_layer}', {self.worst_layer_error:.2g}")
        if self.fallback_layers:
            names = ", ".join(f"'{name}'" for name in self.fallback_layers)
            lines.append(f"no lowering rule, so in float as TensorFlow's converter writes it: {names}")
        return "\n".join(lines)

    def _agreement_in_words(self) -> str:
        if self.score_variation is not None and self.score_variation <= self.score_error:
            return _SAYS_THE_SAME
        if self.top1_agreement is None:
            return f"outputs differ by up to {self.largest_difference:.2g}"
        share = f"the same answer for {self.top1_agreement:.1%}"
        return f"{share}, {next(words for least, words in _AGREEMENTS if self.top1_agreement >= least)}"

    @property
    def repetition(self) -> float:
        """`file_weight_bytes / stored_weight_bytes`: how much sharing is lost in the file.

        With `prefer="size"` it is near 1: every kernel is there once, and beside it what differs between its uses, such
        as the scales that normalizations leave. With `prefer="speed"` each use of a shared kernel has one of its own.
        """
        return self.file_weight_bytes / self.stored_weight_bytes if self.stored_weight_bytes else 1.0


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: precisions.Quantization = None,
    *,
    representative_data: Iterable[Any] | None = None,
    class_names: Sequence[str] | None = None,
    prefer: str | None = None,
    max_bytes: int | None = None,
    input_type: str | None = None,
    output_type: str | None = None,
    target: str | None = None,
) -> TFLiteReport:
    """Writes a classifier as a TFLite file for mobile devices, after running it and comparing it with Keras.

    The file takes one image of raw pixel values at a time, has the signature `classify` from `images` to
    `probabilities` (`scores` if the network does not end in a softmax or sigmoid), and carries the class names. A
    network may have several inputs and outputs, of any rank: they have the names of the `keras.Input`s, and the keys of
    a dict of outputs or the names of the layers that give them.

    What the network stores once is in the file once, in integers too: a kernel's integers are chosen before anything is
    folded, and what a normalization makes of them at one use goes into the scales of that use, or into a step of its
    own where a scale is negative. (One exception: filters that are both repeated and arranged are materialized with all
    their arrangements, once for all uses. To shuffle the few channels of a small group takes longer than to convolve
    them.)

    Every layer of the graph that is written is compared with Keras first, in float, to 1e-4, on some of
    `representative_data` and on fresh images. Before the file gets its name it is run in the LiteRT interpreter, on up
    to 64 of `representative_data` or on 16 synthetic images, and on 16 fresh ones. Its scores may differ from Keras' by
    1e-4 of their length (float32), 1e-2 (float16) or what its bits explain (int8, and float files of networks that
    carry every difference on; `score_error_bound` of the report; never more than 0.5, or 1 with kernels of 4 bits, or
    0.1 in float), and in the float modes its outputs by the same share of 1 plus half the largest score, which is how
    far a softmax carries such a difference. That finds wrong files, not imprecise ones: look at `top1_agreement` and
    `worst_layer`, and measure the accuracy of the file.

    Args:
        model: functional or sequential `keras.Model` for images, or whatever else, of a fixed size.
        path: file to write; a file of that name is replaced.
        quantization: `None` for float32, `"float16"` for weights of half the size, `"int8"` for integers throughout.
            With AI Edge Quantizer (extra `precisions`): `"dynamic_int8"` and `"dynamic_int4"`, kernels of integers, and
            values in float but for 8 bits where they meet a kernel (depthwise kernels have 8 bits in both); `"int16"`,
            int8 kernels and int16 values; or a mapping from patterns of layers' names, such as `"stage1_*"`, to these
            names or `None`. The first pattern that a layer's name has counts, and layers without one stay in float32.
        representative_data: array `(n, height, width, channels)` of pixel values, or an iterable of such arrays;
            `"int8"` and `"int16"` need it to measure the range of every tensor. A few hundred training images are
            enough. For several inputs, a dict of arrays by their names, a tuple of arrays, or an iterable of such dicts
            or tuples.
        class_names: sequence of strings, one a class, or `None`. One sigmoid unit has two, and gives the probability of
            the second.
        prefer: `"size"` (the default), or `"speed"` for a file in which calls of shared layers are materialized, each
            with a kernel of its own and its normalization multiplied in, where that is faster; or `"memory"` for the
            smallest tensor arena: as one of these, with its operators in the order that needs least, and a plan of
            where its values lie that LiteRT for Microcontrollers follows, additions in place; or `"npu"`: as one of the
            first two, whichever is smaller after Vela, by an estimate.
        max_bytes: int, or `None`. Instead of `prefer`: the calls that gain most time for a byte are materialized, by a
            simple model of their cost, as far as the file stays within so many bytes.
        input_type: of the numbers that an `"int8"` file takes: `"uint8"`, which `None` means there and with which a
            network for pixel values takes them as they come (scale 1, zero point 0); `"float32"`; or `"int8"`, for
            microcontrollers, which saves the operator that makes int8 of other ones. Float files take float32.
        output_type: of those that it gives, in the same way.
        target: `"phone"`, `"browser"`, `"microcontroller"`, `"npu"` or `"gpu"`: what `quantization`, `prefer` and the
            types are where they are `None`; see `keras_sharenets.targets`.

    Returns:
        A `TFLiteReport`.

    Raises:
        ValueError: an argument breaks a rule above; nothing has been done then. Among them `UnsupportedLayerError`: a
            layer has no counterpart in TFLite.
        ModuleNotFoundError: `quantization` needs AI Edge Quantizer, which is not installed.
        RuntimeError: Keras does not run on TensorFlow.
        ExportMismatchError: the file does not compute what Keras computes; it is not written.
    """
    given = {"prefer": prefer, "input_type": input_type, "output_type": output_type}
    quantization, prefer, input_type, output_type = targets.choose(target, quantization=quantization, **given).values()
    prefer = prefer or "size"
    precisions.check_quantization(quantization)
    _checks.one_of("prefer", prefer, conversion.PREFERENCES)
    if max_bytes is not None:
        _checks.positive("max_bytes", max_bytes)
    ends = conversion.end_types(quantization, input_type, output_type)
    _checks.tensorflow_backend("Export", "load and export it there")
    shapes, results = verification.check_model(model)
    lowered = reference.lower_model(model)
    precisions.check_layers(quantization, (operation.name for operation in lowered.graph.operations))
    ends_in = ends_of(lowered.traced)
    heads = [head_of_end(end, result[-1] if result else 1) for end, result in zip(ends_in, results, strict=True)]
    if class_names is not None:
        if len(heads) > 1:
            raise ValueError(f"`class_names` are for a network with one output; `model` has {len(heads)}.")
        class_names = heads[0].check_names(class_names)
    if precisions.needs_ranges(quantization) and representative_data is None:
        told = precisions.tell(quantization)
        raise ValueError(f"`quantization` (={told!r}) needs `representative_data`: images to measure the ranges on.")
    if representative_data is not None:
        named = dict(zip(conversion.signature_of(lowered).inputs, shapes, strict=True))
        representative_data = gather_inputs("representative_data", representative_data, named)
        if [len(shape) for shape in shapes] == [3]:
            (images,) = representative_data
            calibration_check.check_images(model, images, quantization=quantization, graph=lowered.traced)
    if pathlib.Path(path).is_dir():
        raise ValueError(f"`path` (={str(path)!r}) is a folder, and must be a file.")

    def described(data):
        return metadata.write_description(data) if class_names is None else metadata.write_labels(data, class_names)

    graphs = []
    data = conversion.convert(
        lowered,
        quantization=quantization,
        representative_data=representative_data,
        prefer=prefer,
        max_bytes=max_bytes,
        input_type=input_type,
        output_type=output_type,
        on_graph=graphs.append,
        finish=described,
    )
    limited = representative_data
    if representative_data is not None:
        count = min(precision.verification_images for precision in precisions.of_file(quantization))
        limited = tuple(verification.spread(array, count) for array in representative_data)
    inputs, verified_on = verification.verification_inputs(limited, shapes)
    graph = graphs[-1] if graphs else None
    tolerance = max(precision.tolerance for precision in precisions.of_file(quantization))
    agreement, limits = _verify(lowered, heads, data, graph, inputs, most=tolerance, quantization=quantization)
    # Images that an integer file was not calibrated with may have values outside its ranges, which it clips as it must.
    most = math.inf if precisions.has_integers(quantization) else tolerance
    fresh = reference.fresh_inputs(representative_data, shapes, count=_FRESH)
    _verify(lowered, heads, data, graph, fresh, most=most, quantization=quantization)
    unruled = tuple(
        each.call.path for each in lowered.calls if any(step.kind == "converted" for step in each.operations)
    )
    in_float = any(step.kind in FLOAT for step in lowered.graph.operations)
    constants = _check_constants(data, None if in_float else quantization)
    stored = profile_graph(lowered.traced, name=model.name).stored_parameters
    files.write_bytes(path, data)
    if not agreement.tells:
        warnings.warn(f"On {verified_on}, {_SAYS_THE_SAME}.", stacklevel=2)
    return TFLiteReport(
        path=str(path),
        quantization=quantization,
        prefer=prefer if max_bytes is None else "max_bytes",
        file_bytes=len(data),
        stored_parameters=stored,
        stored_weight_bytes=_weight_bytes(lowered, stored, quantization),
        file_weight_bytes=constants,
        verified_on=verified_on,
        classes=heads[0].classes if len(heads) == 1 else 0,
        input_type=ends[0],
        output_type=ends[1],
        fallback_layers=unruled,
        arena_bytes=arena.arena_bytes(file.parse(data)),
        **dataclasses.asdict(agreement),
        **limits,
    )


def _check_constants(data, quantization):
    """The bytes of all constants; raises if one is there twice, or something stayed in float in a file of integers."""
    contents = file.parse(data)
    repeated, floats = file.repeated_bytes(contents), file.tensor_types(contents) - {"int8", "int32"}
    if repeated:
        raise ExportMismatchError(f"{repeated} bytes of constants are in the converted file twice; it was not written.")
    if quantization == "int8" and floats:
        names = ", ".join(sorted(floats))
        raise ExportMismatchError(f"Some values of the converted file stayed in {names}; it was not written.")
    return sum(file.constant_bytes(contents).values())


def _weight_bytes(lowered, parameters, quantization):
    """Bytes of so many stored parameters at a precision; those that are in no kernel are in vectors."""
    sizes = {}
    for call in lowered.traced.calls:
        for weight in getattr(call.operation, "weights", ()):
            if weight.dtype.startswith("float") and len(weight.shape) > 1:
                sizes[id(weight)] = math.prod(weight.shape), precisions.of_layer(quantization, call.operation.name)
    vector_bytes = max(precision.vector_bytes for precision in precisions.of_file(quantization))
    in_kernels = sum(math.ceil(size * precision.kernel_bytes) for size, precision in sizes.values())
    return in_kernels + (parameters - sum(size for size, _ in sizes.values())) * vector_bytes


def _verify(lowered, heads, data, graph, inputs, *, most, quantization):
    """Runs the file and compares it with Keras; an `ExportMismatchError` if it is wrong.

    Its scores may differ by `most`, or less if that is more than the bits of integers explain, or more if the bits that
    a float file has do.

    Returns:
        `(agreement, limits)`: the `Agreement`, of the output that is nearest to its bound, and what the report says of
        that bound.
    """
    interpreter = file.open_bytes(data, "The converted file")
    places = [detail["index"] for detail in interpreter.get_output_details()]
    inside = zip(places, file.score_tensors(file.parse(data)), lowered.graph.scores(), strict=True)
    # What a layer does inside of itself at its end is not told apart from its output.
    tensors = [place if score is None or own in lowered.graph.outputs else score for place, score, own in inside]
    outputs = file.run_examples(interpreter, inputs, places)
    scores = outputs if tensors == places else _file_scores(data, tensors, inputs)
    expected, expected_scores = reference.results_of(lowered, inputs)
    limits: dict[str, Any] = {}
    bounds, hint = [most] * len(heads), ""
    if isinstance(graph, QuantizedGraph):
        rounding = rounding_error(graph, inputs)
        worst = rounding.worst_layer
        pairs = zip(rounding.scores, rounding.score_steps, strict=True)
        bounds = [float(min(most, _ROUNDING_FACTOR * error + step)) for error, step in pairs]
        if worst is not None:
            loss = rounding.layers[worst]
            limits.update(worst_layer=worst, worst_layer_error=loss)
            hint = f" Rounding alone makes {max(rounding.scores):.2g}; layer '{worst}' loses most, {loss:.2g}."
    elif precisions.needs_quantizer(quantization) and isinstance(graph, InferenceGraph):
        errors = kernel_rounding_error(graph, inputs, lambda each: edge_quantizer.rounded_bits(quantization, each))
        bounds = [max(_LEAST_BOUND, min(most, _ROUNDING_FACTOR * error)) for error in errors]
        hint = f" Rounding alone makes {max(errors):.2g}."
    agreements = list(map(verification.compare, heads, outputs, scores, expected, expected_scores))
    exceeded = any(not each.score_error <= bound for each, bound in zip(agreements, bounds, strict=True))
    in_float = not precisions.has_integers(quantization)
    if exceeded and in_float and isinstance(graph, InferenceGraph):
        (precision,) = precisions.of_file(quantization)
        _, explained = reference.rounding_limits(graph, inputs, bits=_checks.known("right_bits", precision.right_bits))
        bounds = list(map(max, bounds, explained))
    for agreement, limit, right in zip(agreements, bounds, expected_scores, strict=True):
        difference_limit = limit * (1 + np.abs(right).max() / 2) if in_float else np.inf
        # Written so that a difference that is no number fails.
        if not (agreement.score_error <= limit and agreement.largest_difference <= difference_limit):
            raise ExportMismatchError(
                f"The converted file does not compute what Keras computes on {len(inputs[0])} images, and was not"
                f" written: relative error of the scores {agreement.score_error:.2g} (at most {limit:.2g} is right),"
                f" largest difference of the outputs {agreement.largest_difference:.2g} (at most"
                f" {difference_limit:.2g}).{hint}"
            )
    tightest = max(range(len(heads)), key=lambda place: agreements[place].score_error / max(bounds[place], 1e-30))
    shares = [agreement.top1_agreement for agreement in agreements if agreement.top1_agreement is not None]
    agreement = dataclasses.replace(
        agreements[tightest],
        largest_difference=max(each.largest_difference for each in agreements),
        top1_agreement=min(shares, default=None),
    )
    return agreement, {"score_error_bound": bounds[tightest], **limits}


def _file_scores(data, tensors, inputs):
    """The scores inside the file, which LiteRT keeps only when asked to, and then says that this costs memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        interpreter = file.open_bytes(data, "The converted file", experimental_preserve_all_tensors=True)
    return file.run_examples(interpreter, inputs, tensors)
