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

from keras_sharenets import _checks, files, precisions, targets
from keras_sharenets.analysis.graph import in_full_precision
from keras_sharenets.analysis.profile import profile_graph
from keras_sharenets.heads import heads_of
from keras_sharenets.mobile.export import calibration_check, conversion, metadata, reference
from keras_sharenets.mobile.export.representative_data import gather_inputs
from keras_sharenets.mobile.export.verification import Agreement, check_model, verify_file
from keras_sharenets.mobile.inspect import arena, file


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteReport(Agreement):
    """What `export_tflite` wrote, and how it was verified: it has the attributes of an [`Agreement`] too.

    Attributes:
        path: the file.
        quantization: what was asked for: `None`, the name of a precision, or a mapping from layers to such names.
        prefer: one of `targets.PREFERENCES`; `"max_bytes"` where a budget was given instead.
        file_bytes: size of the file.
        stored_parameters: as in `keras_sharenets.profile`: trainable parameters of the network, shared ones once.
        stored_weight_bytes: what these parameters take at the file's precision: in kernels 4 (float32), 2 (float16), 1
            (int8, int16) or 0.5 (int4) bytes each, in vectors such as biases 4, but 2 (float16) or 8 (int16).
        file_weight_bytes: what the constants in the file really take.
        classes: number of classes; 0 where there are several outputs.
        input_type, output_type: types of the numbers that the file takes and gives.
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
    classes: int
    input_type: str = "float32"
    output_type: str = "float32"
    fallback_layers: tuple[str, ...] = ()
    arena_bytes: int = 0

    def __str__(self) -> str:
        kind = precisions.tell(self.quantization)
        lines = [
            f"{self.path}: {kind}, {self.file_bytes:,} bytes for {self.stored_parameters:,} stored parameters, takes"
            f" {self.input_type}, gives {self.output_type}",
            f"compared with Keras on {self.verified_on}: {self.in_words}",
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
        model: functional or sequential `keras.Model` for images, or whatever else, of a fixed size. One that computes
            in half precision, such as `mixed_bfloat16`, is exported and compared as what it is in float32.
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
            first two, whichever is smaller after Vela, by an estimate; or `"gpu"`: as `"size"`, with kernels of
            one layer expanded, and groups of convolutions joined until each has a multiple of four channels: without
            that, LiteRT.js gives wrong numbers on WebGPU.
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
    _checks.one_of("prefer", prefer, targets.PREFERENCES)
    if max_bytes is not None:
        _checks.positive("max_bytes", max_bytes)
    ends = conversion.end_types(quantization, input_type, output_type)
    _checks.tensorflow_backend("Export", "load and export it there")
    shapes, _ = check_model(model)
    model = in_full_precision(model)
    lowered = reference.lower_model(model)
    precisions.check_layers(quantization, (operation.name for operation in lowered.graph.operations))
    heads = heads_of(lowered.traced)
    if class_names is not None:
        if len(heads) > 1:
            raise ValueError(f"`class_names` are for a network with one output; `model` has {len(heads)}.")
        class_names = heads[0].check_names(class_names)
    if precisions.needs_ranges(quantization) and representative_data is None:
        told = precisions.tell(quantization)
        raise ValueError(f"`quantization` (={told!r}) needs `representative_data`: images to measure the ranges on.")
    if representative_data is not None:
        named = dict(zip(conversion.signature_of(model, lowered.traced).inputs, shapes, strict=True))
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
    graph = graphs[-1] if graphs else None
    agreement = verify_file(data, lowered, graph, quantization=quantization, representative_data=representative_data)
    unruled = tuple(
        each.call.path for each in lowered.calls if any(step.kind == "converted" for step in each.operations)
    )
    contents, stored = file.parse(data), profile_graph(lowered.traced, name=model.name).stored_parameters
    files.write_bytes(path, data)
    if not agreement.tells:
        warnings.warn(f"On {agreement.verified_on}, {agreement.in_words}.", stacklevel=2)
    return TFLiteReport(
        path=str(path),
        quantization=quantization,
        prefer=prefer if max_bytes is None else "max_bytes",
        file_bytes=len(data),
        stored_parameters=stored,
        stored_weight_bytes=_weight_bytes(lowered, stored, quantization),
        file_weight_bytes=sum(file.constant_bytes(contents).values()),
        classes=heads[0].classes if len(heads) == 1 else 0,
        input_type=ends[0],
        output_type=ends[1],
        fallback_layers=unruled,
        arena_bytes=arena.arena_bytes(contents),
        **dataclasses.asdict(agreement),
    )


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
