"""Reading TFLite files: contents of the flatbuffer, and inference in the LiteRT interpreter."""

from __future__ import annotations

import collections
import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_sharenets import _checks, files, notices
from keras_sharenets.heads import SIGMOID, SOFTMAX, Head, head_of_end

# A `schema.Model`. Its generated classes annotate every field as optional.
Model = Any

IDENTIFIER = b"TFL3"
# Class names are stored in a metadata buffer of the first name and, under the second, in a zip archive after the
# flatbuffer.
LABELS_BUFFER, LABELS_FILE = "labels", "labels.txt"
LARGEST_LABELS = 2**24
TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_FINAL = {"SOFTMAX": SOFTMAX, "LOGISTIC": SIGMOID}
_CASTS = ("DEQUANTIZE", "QUANTIZE")
# Bytes per number of the types that kernels have.
_WIDTHS = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int4": 0.5}


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a file; raises `ValueError` if it does not exist."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return path.read_bytes()


def parse(data: bytes) -> Model:
    """The root table of a TFLite file.

    Raises:
        ValueError: the bytes are not a TFLite file. Deeper damage is left to the interpreter to find.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ValueError(f"it has no TFLite identifier: bytes 4 to 8 are {bytes(data[4:8])!r}, not {IDENTIFIER!r}.")
    if struct.unpack_from("<I", data)[0] >= len(data):
        raise ValueError(f"it ends after {len(data)} bytes, before its own content begins.")
    return schema.Model.GetRootAs(data)


def parse_named(data: bytes, name: object) -> Model:
    """As `parse`; the error names the file."""
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{name} is not a TFLite file: {error}") from error


def operators(model: Model) -> list[tuple[str, list[int], list[int]]]:
    """The operators of the main subgraph in order, as `(name, input tensors, output tensors)`.

    Custom operators have their own names. Tensors are indices into `model.Subgraphs(0).Tensors`.
    """
    main, listed = model.Subgraphs(0), []
    for index in range(main.OperatorsLength()):
        operator = main.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Old files store the code in the narrow field, new ones in the wide one.
        name = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name == "CUSTOM":
            name = code.CustomCode().decode()
        listed.append((name, operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()))
    return listed


def operator_counts(model: Model) -> dict[str, int]:
    """Count of each operator in the main subgraph, the most frequent first."""
    return dict(collections.Counter(name for name, _, _ in operators(model)).most_common())


def tensor_shape(model: Model, index: int) -> tuple[int, ...]:
    """Shape of a tensor of the main subgraph."""
    return tuple(model.Subgraphs(0).Tensors(index).ShapeAsNumpy().tolist())


def tensor_types(model: Model) -> set[str]:
    """The types of all tensors of the main subgraph except its inputs and outputs."""
    main = model.Subgraphs(0)
    inside = set(range(main.TensorsLength())) - {*main.InputsAsNumpy().tolist(), *main.OutputsAsNumpy().tolist()}
    return {TYPES[main.Tensors(index).Type()] for index in inside}


def constant_bytes(model: Model) -> dict[str, int]:
    """Bytes of the constant tensors by type; a buffer that several tensors share is counted once."""
    buffers = {}
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            size = model.Buffers(tensor.Buffer()).DataLength()
            if size:
                buffers[tensor.Buffer()] = TYPES[tensor.Type()], size
    totals = collections.Counter()
    for dtype, size in buffers.values():
        totals[dtype] += size
    return dict(totals)


def repeated_bytes(model: Model) -> int:
    """Bytes of buffers that duplicate an earlier buffer."""
    seen, repeated = set(), 0
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            contents = buffer.DataAsNumpy().tobytes()
            repeated += len(contents) if contents in seen else 0
            seen.add(contents)
    return repeated


def kernel_bytes(model: Model) -> tuple[int, int]:
    """Bytes of the kernels as stored, and as they would be if each operator had its own.

    A kernel is a constant with at least two dimensions above 1, or a tensor computed from constants only, which counts
    at the precision of those constants.
    """
    main, stored, used, widths = model.Subgraphs(0), {}, 0, {}

    def size(index):
        shape = tensor_shape(model, index)
        return math.prod(shape) * widths[index] if _is_kernel(shape) else 0

    for _, inputs, outputs in operators(model):
        inputs = [index for index in inputs if index >= 0]
        for index in inputs:
            buffer = main.Tensors(index).Buffer()
            if model.Buffers(buffer).DataLength():
                widths[index] = _WIDTHS.get(TYPES[main.Tensors(index).Type()], 0)
                stored[buffer] = size(index)
        if widths.keys() >= set(inputs):
            widths.update(dict.fromkeys(outputs, max((widths[index] for index in inputs), default=0)))
        else:
            used += sum(size(index) for index in inputs if index in widths)
    return int(sum(stored.values())), int(used)


def stored_kernels(model: Model) -> int:
    """Total size, in numbers, of the constants with at least two dimensions above 1, each buffer counted once."""
    sizes = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            shape = tuple(tensor.ShapeAsNumpy().tolist()) if tensor.ShapeLength() else ()
            if model.Buffers(tensor.Buffer()).DataLength() and _is_kernel(shape):
                sizes[tensor.Buffer()] = math.prod(shape)
    return sum(sizes.values())


def _is_kernel(shape):
    return sum(side > 1 for side in shape) > 1


def score_tensors(model: Model) -> list[int | None]:
    """For each output the tensor with the scores before a final softmax or sigmoid; `None` if there is none."""
    producers = {output: (name, inputs) for name, inputs, outputs in operators(model) for output in outputs}
    found = []
    for output in model.Subgraphs(0).OutputsAsNumpy().tolist():
        name, inputs = producers.get(output, ("", []))
        while name in _CASTS and inputs[0] in producers:
            name, inputs = producers[inputs[0]]
        found.append(inputs[0] if name in _FINAL else None)
    return found


def final_activation(model: Model) -> str | None:
    """`SOFTMAX` or `SIGMOID` if the first output of a file is known to end in it, otherwise `None`."""
    producers = {output: (name, inputs) for name, inputs, outputs in operators(model) for output in outputs}

    def end(tensor):
        name, inputs = producers.get(tensor, ("", []))
        if name == "CONCATENATION":
            return SIGMOID if all(end(each) == SIGMOID for each in inputs) else None
        return end(inputs[0]) if name in (*_CASTS, "RESHAPE") else _FINAL.get(name)

    return end(model.Subgraphs(0).Outputs(0))


def head(model: Model) -> Head:
    """The meaning of a file's output, inferred from its last operators."""
    shape = tensor_shape(model, model.Subgraphs(0).Outputs(0))
    return head_of_end(final_activation(model), shape[-1] if shape else 1)


def read_head(path: str | os.PathLike) -> Head:
    """As `head`, for the path of a file; raises the same errors as `read_labels`."""
    return head(parse(read_bytes(path)))


def read_buffer(model: Model, name: str) -> bytes | None:
    """The content of the metadata buffer `name`, or `None`."""
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == name.encode():
            buffer = model.Buffers(entry.Buffer())
            return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
    return None


def read_labels(path_or_bytes: str | os.PathLike | bytes) -> tuple[str, ...] | None:
    """The class names inside a TFLite file.

    Args:
        path_or_bytes: path or bytes of the file. Files of other programs are supported if they contain `labels.txt`.

    Returns:
        A tuple of strings, or `None` if the file has no class names.

    Raises:
        ValueError: the file does not exist, is not a TFLite file, or is damaged.
    """
    given = isinstance(path_or_bytes, bytes)
    data, name = (path_or_bytes, "the file") if given else (read_bytes(path_or_bytes), path_or_bytes)
    try:
        text = read_buffer(parse(data), LABELS_BUFFER)
        text = _read_archive(data) if text is None else text
        return None if text is None else files.split_labels(text)
    # Exceptions raised by wrong offsets, damaged archives and text that is not UTF-8.
    except (IndexError, struct.error, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is a damaged TFLite file: {error}") from error


def _read_archive(data):
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if LABELS_FILE not in archive.namelist():
            return None
        # A gigabyte of names compresses to a megabyte, so the size is checked before anything is unpacked.
        size = archive.getinfo(LABELS_FILE).file_size
        if size > LARGEST_LABELS:
            raise ValueError(f"its {LABELS_FILE} has {size} bytes; class names have at most {LARGEST_LABELS}.")
        with archive.open(LABELS_FILE) as packed:
            return packed.read(LARGEST_LABELS)


def open_tflite(path: str | os.PathLike, *, num_threads: int = 1) -> Interpreter:
    """Opens a TFLite file, ready to run.

    Args:
        path: path of the file.
        num_threads: threads of the interpreter.

    Returns:
        An `ai_edge_litert.interpreter.Interpreter` with its tensors allocated.

    Raises:
        ValueError: the file does not exist, is not a TFLite file, is damaged, or needs operators that the runtime
            lacks. The message names the file and the reason.
    """
    return open_bytes(read_bytes(path), str(path), num_threads=num_threads)


def open_bytes(data: bytes, name: str, *, num_threads: int = 1, **options: Any) -> Interpreter:
    """As `open_tflite`, for the bytes of a file; messages call it `name`, and `options` are passed to LiteRT."""
    _checks.positive("num_threads", num_threads)
    parse_named(data, name)
    try:
        # Given bytes, LiteRT verifies the structure of the entire file before it follows any offset.
        with notices.opening():
            interpreter = Interpreter(model_content=bytes(data), num_threads=num_threads, **options)
            interpreter.allocate_tensors()
    # LiteRT raises only these two types.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name} is damaged, or needs operators that this runtime lacks: {str(error).strip()}"
        ) from error
    return interpreter


def predict_tflite(path: str | os.PathLike, images: np.ndarray) -> np.ndarray:
    """Runs a classifier on images, one by one.

    Args:
        path: path of the TFLite file, with one input of images and one output of class probabilities or scores.
        images: array `(n, height, width, channels)` of pixel values. If the file takes integers, the values are
            quantized with its parameters.

    Returns:
        A float32 array `(n, classes)`; integer outputs are dequantized.

    Raises:
        ValueError: the file cannot be used (see `open_tflite`), is not such a classifier, or takes another shape.
    """
    interpreter = open_tflite(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4 or inputs[0]["shape"][0] != 1:
        raise ValueError(f"{path} is not a classifier for one image at a time: it must have one input and one output.")
    images = np.asarray(images)
    expected = tuple(inputs[0]["shape"].tolist()[1:])
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"`images` must have the shape (n, {', '.join(map(str, expected))}), has {images.shape}.")
    if not np.isfinite(images).all():
        raise ValueError("`images` contains values that are not finite.")
    return run_examples(interpreter, (images,), [outputs[0]["index"]])[0]


def run_examples(interpreter: Interpreter, inputs: Sequence[np.ndarray], tensors: Sequence[int]) -> list[np.ndarray]:
    """Runs an interpreter on one example after the other and reads some of its tensors.

    Args:
        interpreter: interpreter with batch size 1 and allocated tensors.
        inputs: an array `(n, ...)` for each input; for images, pixel values `(n, height, width, channels)`.
        tensors: indices of tensors; only outputs unless the interpreter preserves all tensors.

    Returns:
        One float32 array `(n, ...)` for each of `tensors`, dequantized.
    """
    entries = interpreter.get_input_details()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    collected = [[] for _ in tensors]
    for example in zip(*inputs, strict=True):
        for values, entry in zip(example, entries, strict=True):
            interpreter.set_tensor(entry["index"], _quantized(values[None], entry))
        invoke(interpreter)
        for values, index in zip(collected, tensors, strict=True):
            values.append(_dequantized(interpreter.get_tensor(index), details[index])[0])
    shapes = [tuple(details[index]["shape"].tolist()[1:]) for index in tensors]
    return [np.asarray(values, np.float32).reshape(-1, *shape) for values, shape in zip(collected, shapes, strict=True)]


def invoke(interpreter: Interpreter) -> None:
    """Runs one inference; raises `ValueError` if an operator fails, as in a damaged file."""
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise ValueError(f"The file cannot be run: {str(error).strip()}") from error


def _quantized(values, detail):
    """Real numbers quantized for a tensor: `round(value / scale) + zero point`, clipped to the type's range."""
    dtype, (scale, zero_point) = detail["dtype"], detail["quantization"]
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = values.astype(np.float32) / scale if scale else values
    return np.clip(np.round(steps) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(values, detail):
    """The real numbers that a tensor's values represent."""
    scale, zero_point = detail["quantization"]
    if not scale or not np.issubdtype(detail["dtype"], np.integer):
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def describe_tflite(path: str | os.PathLike) -> dict[str, Any]:
    """Describes the contents of a TFLite file as plain data.

    Args:
        path: path of the TFLite file.

    Returns:
        A dict: `file_bytes`; `constant_bytes` by data type, every buffer once; `inputs` and `outputs`, each a list of
        dicts with `name`, `shape`, `dtype`, and `scale` and `zero_point` (`None` without quantization); `signatures`,
        each key with its input and output names; `labels`, a list of class names or `None`; `operators`, each name with
        its count.

    Raises:
        ValueError: the file cannot be used; see `open_tflite`.
    """
    interpreter, data = open_tflite(path), read_bytes(path)
    model, labels = parse(data), read_labels(data)
    return {
        "file_bytes": len(data),
        "constant_bytes": constant_bytes(model),
        "inputs": [_describe_tensor(detail) for detail in interpreter.get_input_details()],
        "outputs": [_describe_tensor(detail) for detail in interpreter.get_output_details()],
        "signatures": interpreter.get_signature_list(),
        "labels": None if labels is None else list(labels),
        "operators": operator_counts(model),
    }


def _describe_tensor(detail):
    scale, zero_point = detail["quantization"]
    return {
        "name": detail["name"],
        "shape": detail["shape"].tolist(),
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": float(scale) if scale else None,
        "zero_point": int(zero_point) if scale else None,
    }
