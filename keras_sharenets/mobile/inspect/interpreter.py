"""Running and describing TFLite files."""

import pathlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_sharenets import _checks
from keras_sharenets.mobile.export import metadata
from keras_sharenets.mobile.inspect import contents as graph


def open_tflite(path, num_threads=1):
    """Opens a TFLite file, ready to run.

    Args:
        path: the file.
        num_threads: int, threads of the interpreter.

    Returns:
        An `ai_edge_litert.interpreter.Interpreter` with its tensors allocated.

    Raises:
        ValueError: there is no such file, or it is no TFLite file, or it is damaged, or it needs operators that the
            runtime lacks. The message names the file and says which.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return open_bytes(path.read_bytes(), path, num_threads=num_threads)


def open_bytes(data, name, *, num_threads=1, **options):
    """As `open_tflite`, for the bytes of a file; `name` stands for them in messages, `options` go to LiteRT."""
    _checks.positive("num_threads", num_threads)
    try:
        graph.read_graph(data)
    except ValueError as error:
        raise ValueError(f"{name} is not a TFLite file: {error}") from error
    try:
        # From bytes, LiteRT verifies the structure of the whole file before it follows any offset in it.
        interpreter = Interpreter(model_content=bytes(data), num_threads=num_threads, **options)
        interpreter.allocate_tensors()
    # The two types that LiteRT raises, whatever is wrong.
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is damaged, or needs what this runtime lacks: {str(error).strip()}") from error
    return interpreter


def predict_tflite(path, images):
    """Runs a classifier on pictures, one by one.

    Args:
        path: the TFLite file: one input of pictures, one output of class probabilities or scores.
        images: array `(n, height, width, channels)` of pixel values. Where the file takes integers, the values are
            quantised as it says.

    Returns:
        A float32 array `(n, classes)`; integer outputs come back as the numbers that they stand for.

    Raises:
        ValueError: the file cannot be used (see `open_tflite`), is no such classifier, or takes another shape.
    """
    interpreter = open_tflite(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]["shape"]) != 4 or inputs[0]["shape"][0] != 1:
        raise ValueError(f"{path} is no classifier for one picture at a time: it must have one input and one output.")
    images = np.asarray(images)
    expected = tuple(inputs[0]["shape"].tolist()[1:])
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"`images` must have the shape (n, {', '.join(map(str, expected))}), has {images.shape}.")
    return run_pictures(interpreter, images, [outputs[0]["index"]])[0]


def run_pictures(interpreter, images, tensors):
    """Runs an interpreter on each picture in turn and reads some of its tensors.

    Args:
        interpreter: with one input, of batch 1, and its tensors allocated.
        images: array `(n, height, width, channels)` of pixel values.
        tensors: indices of tensors; other ones than outputs only if the interpreter preserves all.

    Returns:
        One float32 array `(n, ...)` for each of `tensors`, dequantised.
    """
    entry = interpreter.get_input_details()[0]
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    collected = [[] for _ in tensors]
    for image in images:
        interpreter.set_tensor(entry["index"], _quantised(image[None], entry))
        invoke(interpreter)
        for values, index in zip(collected, tensors, strict=True):
            values.append(_dequantised(interpreter.get_tensor(index), details[index])[0])
    shapes = [tuple(details[index]["shape"].tolist()[1:]) for index in tensors]
    return [np.asarray(values, np.float32).reshape(-1, *shape) for values, shape in zip(collected, shapes, strict=True)]


def invoke(interpreter):
    """One inference; a `ValueError` where an operator turns out not to work, as in a file with damage inside."""
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise ValueError(f"The file cannot be run: {str(error).strip()}") from error


def _quantised(values, detail):
    """Real numbers as the tensor takes them: `round(value / scale) + zero point`, within the type's range."""
    dtype, (scale, zero_point) = detail["dtype"], detail["quantization"]
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = values.astype(np.float32) / scale if scale else values
    return np.clip(np.round(steps) + zero_point, limits.min, limits.max).astype(dtype)


def _dequantised(values, detail):
    """The real numbers that the tensor's values stand for."""
    scale, zero_point = detail["quantization"]
    if not scale or not np.issubdtype(detail["dtype"], np.integer):
        return values.astype(np.float32)
    return (values.astype(np.float32) - zero_point) * np.float32(scale)


def describe_tflite(path):
    """What a TFLite file holds, as plain data.

    Args:
        path: the TFLite file.

    Returns:
        A dict: `file_bytes`; `constant_bytes`, by type of number, every buffer once; `inputs` and `outputs`, each a
        list of dicts with `name`, `shape`, `dtype`, and `scale` and `zero_point` (`None` without quantisation);
        `signatures`, each key with its input and output names; `labels`, a list of class names or `None`; `operators`,
        each name with its count.

    Raises:
        ValueError: the file cannot be used; see `open_tflite`.
    """
    interpreter = open_tflite(path)
    data = pathlib.Path(path).read_bytes()
    model = graph.read_graph(data)
    labels = metadata.read_labels(data)
    return {
        "file_bytes": len(data),
        "constant_bytes": graph.constant_bytes(model),
        "inputs": [_describe_tensor(detail) for detail in interpreter.get_input_details()],
        "outputs": [_describe_tensor(detail) for detail in interpreter.get_output_details()],
        "signatures": interpreter.get_signature_list(),
        "labels": None if labels is None else list(labels),
        "operators": graph.operator_counts(model),
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
