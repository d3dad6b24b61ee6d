"""From a trained network to an ONNX file, through the TFLite file of float32 that is known to work."""

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
from keras_sharenets.analysis.graph import in_full_precision, trace
from keras_sharenets.extras import ONNX_PACKAGES, require
from keras_sharenets.mobile.export import conversion, reference, verification
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.export.representative_data import gather_inputs, verification_inputs
from keras_sharenets.mobile.export.tflite import export_tflite

# The newest that ONNX Runtime and tf2onnx both have had for years.
_OPSET = 18
# As for float32 TFLite files; where such a file is further from Keras and right, so many times what that differs by.
_TOLERANCE, _FACTOR = 1e-4, 2
# What a first side that any number of images may have is called.
_IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class ONNXReport:
    """What `export_onnx` wrote, and how it was verified.

    Attributes:
        path: the file.
        file_bytes: its size.
        stored_parameters: as in `keras_sharenets.profile`: trainable parameters of the network, shared ones once.
        file_weight_bytes: what the constants in the file take.
        largest_difference: the largest difference between an output of the file, in ONNX Runtime, and of Keras.
        verified_on: number and kind of the images compared.
        any_number_of_images: whether the file takes several images at a time; else it takes one.
        opset: version of the operators.
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
    """Writes a network as an ONNX file of float32, after running it in ONNX Runtime and comparing it with Keras.

    The network is exported by `export_tflite`, with all its checks, and tf2onnx translates that file. Images have the
    shape `(n, height, width, channels)` and raw pixel values, as there, and inputs and outputs the same names. What the
    network stores once is in the file once. The first side is free wherever ONNX Runtime computes the same then.

    Args:
        model: as in `export_tflite`.
        path: file to write; a file of that name is replaced.
        representative_data: as in `export_tflite`: what the file is compared on.
        class_names: sequence of strings, one a class, or `None`. They are in the file's metadata, under `class_names`,
            as a list in JSON.

    Returns:
        An `ONNXReport`.

    Raises:
        ModuleNotFoundError: tf2onnx or ONNX Runtime is missing: pip install 'keras_sharenets[onnx]'.
        ValueError, RuntimeError, ExportMismatchError: as `export_tflite`.
        ExportMismatchError: the file does not compute what Keras computes, or holds an operator that tf2onnx does not
            translate; it is not written.
    """
    onnx, runtime, tf2onnx = _packages()
    _checks.tensorflow_backend("Export", "load and export it there")
    shapes, _ = verification.check_model(model)
    model = in_full_precision(model)
    if pathlib.Path(path).is_dir():
        raise ValueError(f"`path` (={str(path)!r}) is a folder, and must be a file.")
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
            raise ExportMismatchError(f"tf2onnx does not translate this network: {error}") from error
    if class_names is not None:
        program.metadata_props.add(key="class_names", value=json.dumps(list(class_names)))
    inputs, verified_on = verification_inputs(given, shapes)
    if len(inputs[0]) == 1:  # Several are run together.
        inputs = tuple(np.repeat(array, 2, axis=0) for array in inputs)
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
    # Written so that a difference that is no number fails.
    if not difference <= limit:
        raise ExportMismatchError(
            f"The ONNX file does not compute what Keras computes on {verified_on}, and was not written: largest"
            f" difference of the outputs {difference:.2g} (at most {limit:.2g} is right)."
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
    """tf2onnx tells what it does, and that the interpreter it asks is an old one."""
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
    """The largest difference between an output in ONNX Runtime, so many images at a time, and those of Keras."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # What it refuses it says in an error too.
    try:
        session = runtime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names, batches = [end.name for end in session.get_inputs()], []
        for start in range(0, len(inputs[0]), batch):
            parts = (array[start : start + batch].astype("float32") for array in inputs)
            batches.append(session.run(None, dict(zip(names, parts, strict=True))))
    except Exception as error:
        if batch > 1:  # It may still take one image.
            return math.inf
        raise ExportMismatchError(f"ONNX Runtime does not run the file, which was not written: {error}") from error
    outputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    if any(output.shape != right.shape for output, right in zip(outputs, expected, strict=True)):
        return math.inf
    return max(float(np.abs(output - right).max()) for output, right in zip(outputs, expected, strict=True))
