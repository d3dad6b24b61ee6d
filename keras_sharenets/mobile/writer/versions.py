"""Versions of operators: the first one that has the types, shapes and options in use, as TensorFlow's converter writes.

A runtime that is too old refuses a version that it does not know, instead of computing something else. Delegates leave
such an operator to the CPU, so a version is never higher than needed either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ai_edge_litert import schema_py_generated

_TYPE: Any = schema_py_generated.TensorType
# The version for int8 of operators that have one for it.
_SECOND = """
    ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION DEQUANTIZE EXP GATHER GELU L2_NORMALIZATION LOG LOGISTIC MAXIMUM
    MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL PAD REDUCE_MAX REDUCE_MIN RELU RELU6 RSQRT SLICE SOFTMAX SUB TANH TRANSPOSE
"""
_INT8 = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4} | dict.fromkeys(_SECOND.split(), 2)
# For more than four axes, and if tensors with that many are broadcast.
_MORE_AXES = {"PAD": 4, "SLICE": 5, "TRANSPOSE": 4}
_BROADCAST = {"DIV": 2, "MAXIMUM": 3, "MINIMUM": 3, "SUB": 3}
# With the options that files have: centers of half a pixel, and a bias.
_ALWAYS = {"RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3, "TRANSPOSE_CONV": 3}
_GROUPED, _DILATED, _LARGE_PRODUCT, _SIX_AXES, _HALF_PRECISION = 6, 2, 3, 6, 3


def operator_version(name: str, inputs: Sequence[Any], output: Any, options: Any = None) -> int:
    """The version of an operator.

    Args:
        name: name in the schema, such as `"CONV_2D"`.
        inputs: its input tensors, `TensorT` of the schema; `None` for an omitted one.
        output: its first output tensor.
        options: its options object, or `None`.
    """
    first, is_int8, axes = inputs[0], inputs[0].type == _TYPE.INT8, len(inputs[0].shape)
    shapes = [list(tensor.shape) for tensor in inputs if tensor is not None]
    if name == "CONV_2D" and shapes[0][-1] != shapes[1][-1]:
        return _GROUPED
    if name == "DEPTHWISE_CONV_2D" and not is_int8 and (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return _DILATED
    if name == "DEQUANTIZE" and first.type == _TYPE.FLOAT16:
        return _HALF_PRECISION
    if name == "MUL" and is_int8 and _scale(first) * _scale(inputs[1]) >= _scale(output):
        return _LARGE_PRODUCT
    if name == "TRANSPOSE" and axes > 5:
        return _SIX_AXES
    if name in _MORE_AXES and axes > 4:
        return _MORE_AXES[name]
    if name in _BROADCAST and shapes[0] != shapes[1] and max(map(len, shapes)) > 4:
        return _BROADCAST[name]
    return _ALWAYS.get(name) or (_INT8.get(name, 1) if is_int8 else 1)


def _scale(tensor):
    return tensor.quantization.table.scale[0]
