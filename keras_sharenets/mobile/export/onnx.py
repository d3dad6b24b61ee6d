"""Export of a trained network to ONNX, by way of the verified float32 TFLite file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import math
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks, files
from keras_sharenets.analysis.copying import in_full_precision
from keras_sharenets.analysis.graph import trace
from keras_sharenets.extras import ONNX_PACKAGES, require
from keras_sharenets.mobile.export import conversion, reference, verification
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.export.representative_data import (
    fresh_inputs,
    gather_inputs,
    verification_inputs,
)
from keras_sharenets.mobile.export.tflite import export_tflite

# The newest opset that both ONNX Runtime and tf2onnx have supported for years.
_OPSET = 18
# As for float32 TFLite files. If a correct TFLite file differs more from Keras, `_FACTOR` times its difference.
_TOLERANCE, _FACTOR = 1e-4, 2
# Name of a free first dimension.
_IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class ONNXReport:
    """Result of `export_onnx` and of the verification.

    Attributes:
        path: path of the file.
        file_bytes: size of the file.
        stored_parameters: as in `keras_sharenets.profile`: trainable parameters of the network, shared ones once.
        file_weight_bytes: size of the constants in the file.
        largest_difference: largest difference between the outputs in ONNX Runtime and in Keras.
        verified_on: number and kind of the compared images.
        any_number_of_images: whether the batch size is free; otherwise it is 1.
        opset: version of the operator set.
    """

    path: str
    file_bytes: int
    stored_parameters: int
    file_weight_bytes: int
    largest_difference: float
    verified_on: str
    any_number_of_images: bool
    opset: int = _OPSET


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    representative_data: Iterable[Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> ONNXReport:
    """Exports a network to a float32 ONNX file and verifies it against Keras in ONNX Runtime.

    `export_tflite` exports the network, with all its checks, and tf2onnx translates that file. As in `export_tflite`,
    images have the shape `(n, height, width, channels)` and raw pixel values; inputs and outputs have the same names.
    What the network stores once is stored in the file once. The batch dimension is free if ONNX Runtime computes the
    same results with a free one.

    Args:
        model: as in `export_tflite`.
        path: output file; an existing file is replaced.
        representative_data: as in `export_tflite`; the verification uses it.
        class_names: sequence of strings, one per class, or `None`. The file's metadata holds them as a JSON list under
            `class_names`.

    Returns:
        An `ONNXReport`.

    Raises:
        ModuleNotFoundError: tf2onnx or ONNX Runtime is missing: pip install 'keras_sharenets[onnx]'.
        ValueError, RuntimeError, ExportMismatchError: as `export_tflite`.
        ExportMismatchError: the file does not compute what Keras computes, or contains an operator that tf2onnx cannot
            translate; it is not written.
    """
    onnx, runtime, tf2onnx = _packages()
    _checks.tensorflow_backend("Export", "load and export it there")
    shapes, _ = verification.check_model(model)
    model = in_full_precision(model)
    files.check_writable(path)
    given = None
    if representative_data is not None:
        names = conversion.signature_of(model, trace(model)).inputs
        given = gather_inputs("representative_data", representative_data, dict(zip(names, shapes, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "net.tflite"
        data = given[0] if given is not None and len(given) == 1 else given
        written = export_tflite(model, source, representative_data=data, class_names=class_names)
        try:
            with _quiet():
                program, _ = tf2onnx.convert.from_tflite(str(source), opset=_OPSET)
        except Exception as error:
            raise ExportMismatchError(f"tf2onnx cannot translate this network: {error}") from error
    if class_names is not None:
        program.metadata_props.add(key="class_names", value=json.dumps(list(class_names)))
    inputs, verified_on = verification_inputs(given, shapes)
    if len(inputs[0]) == 1:
        # A batch of different examples is run: equal ones would hide that an operator mixes them.
        other = fresh_inputs(given, shapes, count=1)
        inputs = tuple(map(np.concatenate, zip(inputs, other, strict=True)))
    expected = reference.run_model(model, inputs)
    scale = max(1.0, *(float(np.abs(result).max()) for result in expected))
    limit = max(_TOLERANCE * scale, _FACTOR * written.largest_difference)
    opened = onnx.ModelProto.FromString(program.SerializeToString())
    for end in (*opened.graph.input, *opened.graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = _IMAGES
    difference = _difference(runtime, opened, inputs, expected, len(inputs[0]))
    any_number = difference <= limit
    if not any_number:
        opened, difference = program, _difference(runtime, program, inputs, expected, 1)
    # Written so that NaN fails.
    if not difference <= limit:
        raise ExportMismatchError(
            f"The ONNX file does not compute what Keras computes on {verified_on}, and was not written: largest"
            f" output difference {difference:.2g} (limit {limit:.2g})."
        )
    contents = opened.SerializeToString()
    files.write_bytes(path, contents)
    constants = sum(onnx.numpy_helper.to_array(constant).nbytes for constant in opened.graph.initializer)
    return ONNXReport(
        path=str(path),
        file_bytes=len(contents),
        stored_parameters=written.stored_parameters,
        file_weight_bytes=constants,
        largest_difference=difference,
        verified_on=verified_on,
        any_number_of_images=any_number,
    )


def _packages():
    require(*ONNX_PACKAGES)
    return [importlib.import_module(name) for name in ONNX_PACKAGES]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences tf2onnx, which logs its progress and warns that it uses a deprecated interpreter."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(runtime, program, inputs, expected, batch):
    """Largest difference between the outputs in ONNX Runtime, in batches of `batch` images, and those of Keras."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # Failures also raise an error.
    try:
        session = runtime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names, batches = [end.name for end in session.get_inputs()], []
        for start in range(0, len(inputs[0]), batch):
            parts = (array[start : start + batch].astype("float32") for array in inputs)
            batches.append(session.run(None, dict(zip(names, parts, strict=True))))
    except Exception as error:
        if batch > 1:  # A single image may still work.
            return math.inf
        raise ExportMismatchError(f"ONNX Runtime cannot run the file, which was not written: {error}") from error
    outputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    if any(output.shape != right.shape for output, right in zip(outputs, expected, strict=True)):
        return math.inf
    return max(float(np.abs(output - right).max()) for output, right in zip(outputs, expected, strict=True))
