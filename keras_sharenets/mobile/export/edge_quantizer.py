"""Files with kernels quantized by AI Edge Quantizer.

It receives the float file, in which every kernel is stored once, and a recipe for each operator. A check ensures that
its result does not store more kernel weights than before.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.graph.inference_graph import InferenceGraph, Operation
from keras_sharenets.mobile.graph.quantization import Range, measured_ranges
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.writer.flatbuffer import compacted
from keras_sharenets.mobile.writer.tensors import Signature, write_float_with_origins
from keras_sharenets.precisions import Quantization, needs_ranges, of_layer

# Kinds whose operators support 4-bit kernels; the others have 8 bits.
_FOUR_BITS = ("conv", "shared_conv", "dense")


def rounded_bits(quantization: Quantization, operation: Operation) -> tuple[int, int] | None:
    """Bits of an operation's kernel and of its input values; `None` if they stay in float."""
    quantizer = of_layer(quantization, operation.name).quantizer
    if quantizer is None or operation.kernel is None:
        return None
    bits, value_bits, _ = quantizer
    return (bits if operation.kind in _FOUR_BITS else 8), value_bits


def clipping_ranges(
    graph: InferenceGraph, quantization: Quantization, inputs: Sequence[np.ndarray] | None
) -> dict[int, Range]:
    """The ranges by value number to which a file clips: those of integer inputs and outputs of operations.

    The ranges of the file are the same, or wider where values must share a scale.
    """
    if inputs is None or not needs_ranges(quantization):
        return {}
    integers: set[int] = set()
    for operation in graph.operations:
        made = of_layer(quantization, operation.name).quantizer
        if made is not None and made[2]:
            integers |= {value.number for value in (*operation.inputs, operation.output)}
    return {number: limits for number, limits in measured_ranges(graph, inputs).items() if number in integers}


def write_quantized(
    graph: InferenceGraph, names: Signature, quantization: Quantization, inputs: Sequence[np.ndarray] | None
) -> bytes:
    """The bytes of a file that AI Edge Quantizer creates from the float file.

    Args:
        graph: `InferenceGraph` as for a float file.
        names: the `Signature`.
        quantization: precisions of `keras_sharenets.precisions.MIXED`.
        inputs: a float array `(n, ...)` for each input, for calibration if ranges are needed.

    Raises:
        ExportMismatchError: the file stores a kernel twice.
    """
    from ai_edge_quantizer import quantizer

    data, origins = write_float_with_origins(graph, names)
    recipe = _recipe(quantization, origins)
    working = quantizer.Quantizer(data, recipe)
    ranges = None
    if inputs is not None and needs_ranges(quantization):
        ranges = _ranges(data, names, recipe, inputs)
    with _quiet():
        made = working.quantize(ranges, enable_progress_report=False).quantized_model
    if made is None:
        raise ExportMismatchError("AI Edge Quantizer returned no file.")
    result = compacted(bytes(made))
    before, after = (file.stored_kernels(file.parse(each)) for each in (data, result))
    if after > before:
        raise ExportMismatchError(
            f"AI Edge Quantizer removed the sharing, and the file was not written: its kernels have {after:,} weights,"
            f" but those of the float file have {before:,}."
        )
    return result


def _ranges(data, names, recipe, inputs):
    """The range of every value over all examples. The package's default, a moving average, would clip values."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    examples = [
        {name: array[None].astype("float32") for name, array in zip(names.inputs, example, strict=True)}
        for example in zip(*inputs, strict=True)
    ]
    with _quiet():
        measuring = calibrator.Calibrator(data, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        measuring.calibrate({names.key: examples}, manager)
    return measuring.get_model_qsvs()


@contextlib.contextmanager
def _quiet():
    """Silences the package's progress bars and LiteRT's warning about the cost of keeping all values."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", UserWarning)
        yield


def _recipe(quantization, origins):
    """The recipe for AI Edge Quantizer, which identifies each operator by the name of its output."""
    by_bits: dict[tuple[int, int, bool], list[str]] = {}
    for name, operation in origins.items():
        made = of_layer(quantization, operation.name).quantizer
        bits = rounded_bits(quantization, operation)
        if made is not None and (bits is not None or made[2]):
            kernel_bits = 8 if bits is None else bits[0]
            by_bits.setdefault((kernel_bits, *made[1:]), []).append(re.escape(name))
    rules = [
        {
            "regex": f"^(?:{'|'.join(outputs)});?$",
            "operation": "*",
            "algorithm_key": "min_max_uniform_quantize",
            "op_config": _configuration(*key),
        }
        for key, outputs in by_bits.items()
    ]
    # An output has the name of its operator, but stays float32.
    return [*rules, {"regex": ".*", "operation": "OUTPUT", "algorithm_key": "no_quantize", "op_config": {}}]


def _configuration(kernel_bits, value_bits, ranges):
    def integers(bits, granularity):
        return {"num_bits": bits, "symmetric": True, "granularity": granularity, "dtype": "INT"}

    configuration: dict[str, Any] = {
        "weight_tensor_config": integers(kernel_bits, "CHANNELWISE"),
        "compute_precision": "INTEGER",
        "explicit_dequantize": False,
    }
    if ranges:
        configuration["activation_tensor_config"] = integers(value_bits, "TENSORWISE")
    return configuration
