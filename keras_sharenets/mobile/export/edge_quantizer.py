"""Files whose kernels AI Edge Quantizer has made integers of.

It gets the float file, in which every kernel is stored once, and is told what to do with each operator. What it leaves
is checked: it has as many numbers in kernels as before.
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

# The kinds whose kernels there are operators for with 4 bits; others take 8.
_FOUR_BITS = ("conv", "shared_conv", "dense")


def rounded_bits(quantization: Quantization, operation: Operation) -> tuple[int, int] | None:
    """Bits of an operation's kernel, and of the values that it meets; `None` where they stay in float."""
    quantizer = of_layer(quantization, operation.name).quantizer
    if quantizer is None or operation.kernel is None:
        return None
    bits, value_bits, _ = quantizer
    return (bits if operation.kind in _FOUR_BITS else 8), value_bits


def clipping_ranges(
    graph: InferenceGraph, quantization: Quantization, inputs: Sequence[np.ndarray] | None
) -> dict[int, Range]:
    """The ranges, by the numbers of values, that a file clips at: of what operations read and give in integers.

    Those of the file are as wide, or wider where values have to have one scale.
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
    """The bytes of a file that AI Edge Quantizer has made from the float file.

    Args:
        graph: `InferenceGraph` as for a float file.
        names: the `Signature`.
        quantization: some of `keras_sharenets.precisions.MIXED`.
        inputs: a float array `(n, ...)` for each input, to measure ranges on where those are needed.

    Raises:
        ExportMismatchError: a kernel is in that file twice.
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
        raise ExportMismatchError("AI Edge Quantizer gave no file.")
    result = compacted(bytes(made))
    before, after = (file.stored_kernels(file.parse(each)) for each in (data, result))
    if after > before:
        raise ExportMismatchError(
            f"AI Edge Quantizer took sharing away, and the file was not written: its kernels have {after:,} numbers,"
            f" those of the float file {before:,}."
        )
    return result


def _ranges(data, names, recipe, inputs):
    """The range of every value over all examples. By itself the package takes a moving average, and clips the rest."""
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
    """The package draws bars, and LiteRT says what it costs to keep all values."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", UserWarning)
        yield


def _recipe(quantization, origins):
    """What AI Edge Quantizer is told to do with each operator, which it knows by the name of its output."""
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
    # An output has the name of the operator that gives it, and is float32 all the same.
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
