"""Export of a trained classifier to a verified TFLite file."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks, files, precisions, targets
from keras_sharenets.analysis.copying import in_full_precision
from keras_sharenets.analysis.profile import profile_graph
from keras_sharenets.heads import heads_of
from keras_sharenets.mobile.export import calibration_check, conversion, metadata
from keras_sharenets.mobile.export.representative_data import gather_inputs
from keras_sharenets.mobile.export.verification import Agreement, check_model, verify_file
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.inspect import arena, file


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteReport(Agreement):
    """Result of `export_tflite` and of the verification; it also has the attributes of an [`Agreement`].

    Attributes:
        path: path of the file.
        quantization: the requested precision: `None`, the name of a precision, or a mapping from layers to such names.
        prefer: one of `targets.PREFERENCES`; `"max_bytes"` if a budget was given instead.
        file_bytes: size of the file.
        stored_parameters: as in `keras_sharenets.profile`: trainable parameters of the network, shared ones once.
        stored_weight_bytes: size of these parameters at the file's precision. Each kernel weight takes 4 (float32), 2
            (float16), 1 (int8, int16) or 0.5 (int4) bytes. Each number in a vector, such as a bias, takes 4 bytes, or 2
            (float16) or 8 (int16).
        file_weight_bytes: actual size of the constants in the file.
        classes: number of classes; 0 for several outputs.
        input_type, output_type: data types of the file's inputs and outputs.
        fallback_layers: paths of the layers without a lowering rule. TensorFlow's converter translated each of them
            separately. They compute in float in every file, and their calls share only constants that are equal.
        arena_bytes: estimated activation memory of one inference; see [`size_report`].

    `print(report)` prints a summary.
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
            lines.append(f"relative error of the scores: {self.score_error:.2g} (limit {self.score_error_bound:.2g})")
        if self.worst_layer is not None:
            lines.append(f"largest rounding error: layer '{self.worst_layer}', {self.worst_layer_error:.2g}")
        if self.fallback_layers:
            names = ", ".join(f"'{name}'" for name in self.fallback_layers)
            lines.append(f"no lowering rule, written in float by TensorFlow's converter: {names}")
        return "\n".join(lines)

    @property
    def repetition(self) -> float:
        """`file_weight_bytes / stored_weight_bytes`: how much sharing is lost in the file.

        With `prefer="size"` it is near 1: the file stores every kernel once, plus what differs between its uses, such
        as the scales left by normalizations. With `prefer="speed"` each use of a shared kernel has its own copy.
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
    """Exports a classifier to a TFLite file for mobile devices and verifies the file against Keras.

    The file takes one image of raw pixel values at a time. Its signature `classify` maps `images` to `probabilities`
    (`scores` if the network does not end in a softmax or sigmoid), and it contains the class names. A network may have
    several inputs and outputs of any rank. Inputs are named after the `keras.Input`s. Outputs are named after the keys
    of a dict of outputs or the output layers.

    What the network stores once is stored in the file once, also in int8: kernels are quantized before anything is
    folded. The factors of a normalization go into the quantization scales of that use, or into an extra operation if a
    scale is negative. (One exception: filters that are both repeated and arranged are materialized with all their
    arrangements, once for all uses, because shuffling the few channels of a small group takes longer than convolving
    them.)

    Verification has two steps. First, every layer of the exported graph is compared with Keras in float, with a
    tolerance of 1e-4, on some of `representative_data` and on synthetic images. Then the file runs in the LiteRT
    interpreter, on up to 64 of `representative_data` or 16 synthetic images, and on 16 fresh ones; only a file that
    passes is written. The relative error of its scores may be 1e-4 (float32), 1e-2 (float16) or what rounding explains
    (int8, and float files of networks that amplify differences; see `score_error_bound` of the report; at most 0.5, or
    1 with 4-bit kernels, or 0.1 in float). In the float modes the outputs may differ by the same fraction of 1 plus
    half the largest score, which bounds how a softmax propagates such an error. These checks detect wrong files, not
    imprecise ones: look at `top1_agreement` and `worst_layer`, and measure the accuracy of the file.

    Args:
        model: functional or sequential `keras.Model` for images or other inputs of a fixed size. A model that computes
            in half precision, such as `mixed_bfloat16`, is exported and compared in float32.
        path: output file; an existing file is replaced.
        quantization: `None` or `"float32"`; `"float16"` for weights of half the size; `"int8"` for full integer
            quantization. With AI Edge Quantizer (extra `precisions`): `"dynamic_int8"` and `"dynamic_int4"` for integer
            kernels and float activations, which are quantized to 8 bits only where they meet a kernel (depthwise
            kernels have 8 bits in both); `"int16"` for int8 kernels and int16 activations; or a mapping from patterns
            of layer names, such as `"stage1_*"`, to these names or `None`. The first matching pattern applies, and
            layers without a match stay in float32.
        representative_data: array `(n, height, width, channels)` of pixel values, or an iterable of such arrays;
            `"int8"` and `"int16"` need it to calibrate the range of every tensor. A few hundred training images are
            enough. For several inputs, a dict from input names to arrays, a tuple of arrays, or an iterable of such
            dicts or tuples.
        class_names: sequence of strings, one per class, or `None`. A single sigmoid unit has two class names, and its
            output is the probability of the second.
        prefer: `"size"` (the default); `"speed"`, which materializes calls of shared layers, each with its own kernel
            and with its normalization folded in, where that is faster; `"memory"` for the smallest tensor arena: one of
            the first two, with operators in the order that needs least memory and with a memory plan for LiteRT for
            Microcontrollers that adds in place; `"npu"`: whichever of the first two is estimated to be smaller after
            Vela; or `"gpu"`: like `"size"`, but with the kernels of single layers expanded and with groups of
            convolutions merged until each has a multiple of four channels. Without that, LiteRT.js computes wrong
            results on WebGPU.
        max_bytes: int or `None`, a file size budget that replaces `prefer`. Within the budget, the calls that save the
            most time per byte, by a simple cost model, are materialized.
        input_type: data type of the input of an `"int8"` file: `"uint8"` (the default), with which a network for pixel
            values takes them unchanged (scale 1, zero point 0); `"float32"`; or `"int8"` for microcontrollers, which
            saves the conversion operator. Float files take float32.
        output_type: data type of the output, likewise.
        target: `"phone"`, `"browser"`, `"microcontroller"`, `"npu"` or `"gpu"`: sets `quantization`, `prefer` and the
            types where they are `None`; see `keras_sharenets.targets`.

    Returns:
        A `TFLiteReport`.

    Raises:
        ValueError: an argument breaks a rule above; nothing is written. The subclass `UnsupportedLayerError` means that
            a layer has no counterpart in TFLite.
        ModuleNotFoundError: `quantization` needs AI Edge Quantizer, which is not installed.
        RuntimeError: the Keras backend is not TensorFlow.
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
    files.check_writable(path)
    _checks.tensorflow_backend("Export", "load and export it there")
    shapes, _ = check_model(model)
    model = in_full_precision(model)
    lowered = lower_model(model)
    precisions.check_layers(quantization, (operation.name for operation in lowered.graph.operations))
    heads = heads_of(lowered.traced)
    if class_names is not None:
        if len(heads) > 1:
            raise ValueError(f"`class_names` require a network with one output; `model` has {len(heads)}.")
        class_names = heads[0].check_names(class_names)
    if precisions.needs_ranges(quantization) and representative_data is None:
        told = precisions.tell(quantization)
        raise ValueError(f"`quantization` (={told!r}) needs `representative_data`: images to measure the ranges on.")
    image_input, images = [len(shape) for shape in shapes] == [3], None
    if representative_data is not None:
        named = dict(zip(conversion.signature_of(model, lowered.traced).inputs, shapes, strict=True))
        representative_data = gather_inputs("representative_data", representative_data, named)
        for name, tensor, array in zip(named, lowered.traced.inputs, representative_data, strict=True):
            if "int" in tensor.dtype and np.any(array % 1):
                raise ValueError(f"`representative_data` must contain integers: the input '{name}' is {tensor.dtype}.")
        images = representative_data[0]
        if image_input:
            calibration_check.check_images(model, images, quantization=quantization, graph=lowered.traced)
    pixels = image_input and calibration_check.takes_pixels(lowered.traced, images)

    def described(data):
        if class_names is None:
            return metadata.write_description(data, pixels=pixels)
        return metadata.write_labels(data, class_names, pixels=pixels)

    data, graph = conversion.convert(
        lowered,
        quantization=quantization,
        representative_data=representative_data,
        prefer=prefer,
        max_bytes=max_bytes,
        input_type=input_type,
        output_type=output_type,
        finish=described,
    )
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
    """Bytes of the stored parameters at a precision; parameters outside kernels count as vectors."""
    sizes = {}
    for call in lowered.traced.calls:
        for weight in getattr(call.operation, "weights", ()):
            if weight.dtype.startswith("float") and len(weight.shape) > 1:
                sizes[id(weight)] = math.prod(weight.shape), precisions.of_layer(quantization, call.operation.name)
    vector_bytes = max(precision.vector_bytes for precision in precisions.of_file(quantization))
    in_kernels = sum(math.ceil(size * precision.kernel_bytes) for size, precision in sizes.values())
    return in_kernels + (parameters - sum(size for size, _ in sizes.values())) * vector_bytes
