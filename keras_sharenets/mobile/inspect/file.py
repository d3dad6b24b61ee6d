"""TFLite files: what is in them, read from the flatbuffer, and what they compute, run in the LiteRT interpreter."""

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

# A `schema.Model`. Its generated classes declare everything as possibly missing.
Model = Any

IDENTIFIER = b"TFL3"
# Class names are in a metadata buffer of the first name, and in a zip archive behind the flatbuffer under the second.
LABELS_BUFFER, LABELS_FILE = "labels", "labels.txt"
LARGEST_LABELS = 2**24
TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_FINAL = {"SOFTMAX": SOFTMAX, "LOGISTIC": SIGMOID}
_CASTS = ("DEQUANTIZE", "QUANTIZE")
# Bytes of a number of the types that kernels have.
_WIDTHS = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int4": 0.5}


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a file; a `ValueError` if there is none."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return path.read_bytes()


def parse(data: bytes) -> Model:
    """The root table of a TFLite file.

    Raises:
        ValueError: the bytes are no TFLite file. Damage further inside is not looked for: the interpreter does that.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ValueError(f"it has no TFLite identifier: bytes 4 to 8 are {bytes(data[4:8])!r}, not {IDENTIFIER!r}.")
    if struct.unpack_from("<I", data)[0] >= len(data):
        raise ValueError(f"it ends after {len(data)} bytes, before its own content begins.")
    return schema.Model.GetRootAs(data)


def operators(model: Model) -> list[tuple[str, list[int], list[int]]]:
    """The operators of the main subgraph in order, as `(name, input tensors, output tensors)`; custom ones by name.

    Tensors are indices into `model.Subgraphs(0).Tensors`.
    """
    main, listed = model.Subgraphs(0), []
    for index in range(main.OperatorsLength()):
        operator = main.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Old files keep the code in the narrow field, new ones in the wide one.
        name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name == "CUSTOM":
            name = code.CustomCode().decode()
        listed.append((name, operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()))
    return listed


def operator_counts(model: Model) -> dict[str, int]:
    """How often each operator occurs in the main subgraph, the most frequent first."""
    return dict(collections.Counter(name for name, _, _ in operators(model)).most_common())


def tensor_shape(model: Model, index: int) -> tuple[int, ...]:
    """Shape of a tensor of the main subgraph."""
    return tuple(model.Subgraphs(0).Tensors(index).ShapeAsNumpy().tolist())


def tensor_types(model: Model) -> set[str]:
    """The types of all tensors of the main subgraph but its inputs and outputs."""
    main = model.Subgraphs(0)
    inside = set(range(main.TensorsLength())) - {*main.InputsAsNumpy().tolist(), *main.OutputsAsNumpy().tolist()}
    return {TYPES[main.Tensors(index).Type()] for index in inside}


def constant_bytes(model: Model) -> dict[str, int]:
    """Bytes of the constant tensors, by type; a buffer that several tensors name is counted once."""
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
    """Bytes of buffers whose contents an earlier buffer has too."""
    seen, repeated = set(), 0
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            contents = buffer.DataAsNumpy().tobytes()
            repeated += len(contents) if contents in seen else 0
            seen.add(contents)
    return repeated


def kernel_bytes(model: Model) -> tuple[int, int]:
    """Bytes of the kernels as they are stored, and as they would be if each operator had its own.

    A kernel is a constant with at least two sides above 1, or what operators make of constants alone.
    """
    main, stored, used, constant = model.Subgraphs(0), {}, 0, set()

    def size(index):
        shape = tensor_shape(model, index)
        return math.prod(shape) * _WIDTHS.get(TYPES[main.Tensors(index).Type()], 0) if _is_kernel(shape) else 0

    for _, inputs, outputs in operators(model):
        inputs = [index for index in inputs if index >= 0]
        for index in inputs:
            buffer = main.Tensors(index).Buffer()
            if model.Buffers(buffer).DataLength():
                constant.add(index)
                stored[buffer] = size(index)
        if constant.issuperset(inputs):
            constant.update(outputs)
        else:
            used += sum(size(index) for index in inputs if index in constant)
    return int(sum(stored.values())), int(used)


def stored_kernels(model: Model) -> int:
    """How many numbers the constants with at least two sides above 1 have, each buffer counted once."""
    sizes = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            shape = tuple(tensor.ShapeAsNumpy().tolist()) if tensor.ShapeLength() else ()
            if model.Buffers(tensor.Buffer()).DataLength() and _is_kernel(shape):
                sizes[tensor.Buffer()] = math.prod(shape)
    return sum(sizes.values())


def _is_kernel(shape):
    return sum(side > 1 for side in shape) > 1


def score_tensor(model: Model) -> int | None:
    """As [`score_tensors`], of the first output."""
    return score_tensors(model)[0]


def score_tensors(model: Model) -> list[int | None]:
    """For each output the tensor with the scores before a final softmax or sigmoid; `None` without such an end."""
    producers = {output: (name, inputs) for name, inputs, outputs in operators(model) for output in outputs}
    found = []
    for output in model.Subgraphs(0).OutputsAsNumpy().tolist():
        name, inputs = producers[output]
        while name in _CASTS and inputs[0] in producers:
            name, inputs = producers[inputs[0]]
        found.append(inputs[0] if name in _FINAL else None)
    return found


def head(model: Model) -> Head:
    """What the output of a file means, told from its last operators."""
    producers = {output: (name, inputs) for name, inputs, outputs in operators(model) for output in outputs}

    def end(tensor):
        name, inputs = producers.get(tensor, ("", []))
        if name == "CONCATENATION":
            return SIGMOID if all(end(each) == SIGMOID for each in inputs) else None
        return end(inputs[0]) if name in (*_CASTS, "RESHAPE") else _FINAL.get(name)

    output = model.Subgraphs(0).Outputs(0)
    shape = tensor_shape(model, output)
    return head_of_end(end(output), shape[-1] if shape else 1)


def read_head(path: str | os.PathLike) -> Head:
    """As `head`, of a file by its path; errors as `read_labels`."""
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
        path_or_bytes: path or bytes of the file. Files of other programs are read too if they carry `labels.txt`.

    Returns:
        A tuple of strings, or `None` if there are none.

    Raises:
        ValueError: there is no such file, or it is no TFLite file, or it is damaged.
    """
    given = isinstance(path_or_bytes, bytes)
    data, name = (path_or_bytes, "the file") if given else (read_bytes(path_or_bytes), path_or_bytes)
    try:
        text = read_buffer(parse(data), LABELS_BUFFER)
        text = _read_archive(data) if text is None else text
        return None if text is None else files.split_labels(text)
    # What following a wrong offset, a damaged archive or text that is not UTF-8 raise.
    except (IndexError, struct.error, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is no whole TFLite file: {error}") from error


def _read_archive(data):
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if LABELS_FILE not in archive.namelist():
            return None
        # Packed, a gigabyte of names takes a megabyte: nothing is unpacked before its size is known.
        size = archive.getinfo(LABELS_FILE).file_size
        if size > LARGEST_LABELS:
            raise ValueError(f"its {LABELS_FILE} has {size} bytes; class names have at most {LARGEST_LABELS}.")
        with archive.open(LABELS_FILE) as packed:
            return packed.read(LARGEST_LABELS)


def open_tflite(path: str | os.PathLike, *, num_threads: int = 1) -> Interpreter:
    """Opens a TFLite file, ready to run.

    Args:
        path: the file.
        num_threads: threads of the interpreter.

    Returns:
        An `ai_edge_litert.interpreter.Interpreter` with its tensors allocated.

    Raises:
        ValueError: there is no such file, or it is no TFLite file, or it is damaged, or it needs operators that the
            runtime lacks. The message names the file and says which.
    """
    return open_bytes(read_bytes(path), str(path), num_threads=num_threads)


def open_bytes(data: bytes, name: str, *, num_threads: int = 1, **options: Any) -> Interpreter:
    """As `open_tflite`, for the bytes of a file; `name` stands for them in messages, `options` go to LiteRT."""
    _checks.positive("num_threads", num_threads)
    try:
        parse(data)
    except ValueError as error:
        raise ValueError(f"{name} is not a TFLite file: {error}") from error
    try:
        # From bytes, LiteRT verifies the structure of the whole file before it follows any offset in it.
        with notices.opening():
            interpreter = Interpreter(model_content=bytes(data), num_threads=num_threads, **options)
            interpreter.allocate_tensors()
    # The two types that LiteRT raises, whatever is wrong.
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is damaged, or needs what this runtime lacks: {str(error).strip()}") from error
    return interpreter


def predict_tflite(path: str | os.PathLike, images: np.ndarray) -> np.ndarray:
    """Runs a classifier on images, one by one.

    Args:
        path: the TFLite file: one input of images, one output of class probabilities or scores.
        images: array `(n, height, width, channels)` of pixel values. Where the file takes integers, the values are
            quantized as it says.

    Returns:
        A float32 array `(n, classes)`; integer outputs come back as the numbers that they stand for.

    Raises:
        ValueError: the file cannot be used (see `open_tflite`), is no such classifier, or takes another shape.
    """
    interpreter = open_tflite(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4 or inputs[0]["shape"][0] != 1:
        raise ValueError(f"{path} is no classifier for one image at a time: it must have one input and one output.")
    images = np.asarray(images)
    expected = tuple(inputs[0]["shape"].tolist()[1:])
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"`images` must have the shape (n, {', '.join(map(str, expected))}), has {images.shape}.")
    return run_images(interpreter, images, [outputs[0]["index"]])[0]


def run_images(interpreter: Interpreter, images: np.ndarray, tensors: Sequence[int]) -> list[np.ndarray]:
    """As [`run_examples`], of a file with one input."""
    return run_examples(interpreter, (images,), tensors)


def run_examples(interpreter: Interpreter, inputs: Sequence[np.ndarray], tensors: Sequence[int]) -> list[np.ndarray]:
    """Runs an interpreter on each example in turn and reads some of its tensors.

    Args:
        interpreter: with inputs of batch 1, and its tensors allocated.
        inputs: an array `(n, ...)` for each input, `(n, height, width, channels)` of pixel values for images.
        tensors: indices of tensors; other ones than outputs only if the interpreter preserves all.

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
    """One inference; a `ValueError` where an operator turns out not to work, as in a file with damage inside."""
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise ValueError(f"The file cannot be run: {str(error).strip()}") from error


def _quantized(values, detail):
    """Real numbers as the tensor takes them: `round(value / scale) + zero point`, within the type's range."""
    dtype, (scale, zero_point) = detail["dtype"], detail["quantization"]
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = values.astype(np.float32) / scale if scale else values
    return np.clip(np.round(steps) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantized(values, detail):
    """The real numbers that the tensor's values stand for."""
    scale, zero_point = detail["quantization"]
    if not scale or not np.issubdtype(detail["dtype"], np.integer):
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def describe_tflite(path: str | os.PathLike) -> dict[str, Any]:
    """What a TFLite file holds, as plain data.

    Args:
        path: the TFLite file.

    Returns:
        A dict: `file_bytes`; `constant_bytes`, by type of number, every buffer once; `inputs` and `outputs`, each a
        list of dicts with `name`, `shape`, `dtype`, and `scale` and `zero_point` (`None` without quantization);
        `signatures`, each key with its input and output names; `labels`, a list of class names or `None`; `operators`,
        each name with its count.

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
