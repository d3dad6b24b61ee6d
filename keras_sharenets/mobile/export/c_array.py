"""TFLite files as C source for microcontrollers, which have no file system and link only the operators they need."""

from __future__ import annotations

import os
import pathlib
import re

from keras_sharenets import files
from keras_sharenets.mobile.inspect import file

# Operators whose methods in a resolver are not their names in camel case.
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
    "ethos-u": "EthosU",
}
# The operators of tflite-micro 0.dev20261023, and the one that Vela writes.
_AVAILABLE = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
    GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE ethos-u
"""
_FLOAT_ONLY = ("EXP", "LOG", "SQRT")
# Words of C and C++ that cannot name an array.
_WORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double else
    enum explicit export extern false float for friend goto if inline int long main mutable namespace new not nullptr
    operator or private protected public register restrict return short signed sizeof static struct switch template this
    throw true try typedef typeid typename typeof union unsigned using virtual void volatile while xor
"""
# Numbers per line.
_LINE = 20
_SOURCE = """\
// {size} bytes of {source}. The array is constant: a linker places it in flash.
#include "{name}.h"

#ifdef __cplusplus
#define ALIGNED alignas(16)
#else
#define ALIGNED _Alignas(16)
#endif

ALIGNED const unsigned char {name}[] = {{
{numbers}
}};
const unsigned int {name}_size = {size};
"""
_HEADER = """\
#ifndef {guard}_H_
#define {guard}_H_

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}[];
extern const unsigned int {name}_size;

#ifdef __cplusplus
}}
#endif

#endif  // {guard}_H_
"""
_OPERATORS = """\
#ifndef {guard}_OPERATORS_H_
#define {guard}_OPERATORS_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Registers only the operators of {name}: the others are not linked.
constexpr int {name}_operator_count = {count};

inline TfLiteStatus {name}_add_operators(tflite::MicroMutableOpResolver<{name}_operator_count>& resolver) {{
{calls}
  return kTfLiteOk;
}}

#endif  // {guard}_OPERATORS_H_
"""


def write_c_array(path: str | os.PathLike, output: str | os.PathLike) -> list[str]:
    """Writes a TFLite file as C source, with the operators that it needs in LiteRT for Microcontrollers.

    Args:
        path: path of the TFLite file. Microcontrollers expect int8 inputs and outputs: export with `input_type="int8",
            output_type="int8"`.
        output: output path; the ending `.c` may be omitted. Its last part names the array; characters that are not
            allowed in a C name are replaced by `_`.

    Returns:
        The paths of the written files: `OUTPUT.c`, the array, aligned to 16 bytes; `OUTPUT.h`, its declaration for C
        and C++; and `OUTPUT_operators.h`, with a function `NAME_add_operators` that fills a
        `MicroMutableOpResolver<NAME_operator_count>`.

    Raises:
        ValueError: the file does not exist, is not a TFLite file, has float16 weights or dynamic quantization, which
            that interpreter does not support, or needs an operator that it does not have; or `output` cannot be
            written, or ends in a word of C.
    """
    data, output = file.read_bytes(path), pathlib.Path(output)
    model = file.parse_named(data, path)
    if "float16" in file.constant_bytes(model):
        raise ValueError(f"{path} has float16 weights, which LiteRT for Microcontrollers cannot convert: use int8.")
    if _mixes_types(model):
        raise ValueError(
            f"{path} has integer weights for float values (dynamic quantization), which LiteRT for Microcontrollers"
            " does not support: use int8."
        )
    if output.suffix == ".c":
        output = output.with_suffix("")
    name = re.sub(r"\W|^(?=\d)", "_", output.name, flags=re.ASCII)
    if name in _WORDS.split():
        raise ValueError(
            f"`output` (={str(output)!r}) must not end in a word of C or C++ (={name}): it names the array."
        )
    files.check_writable(output.with_name(f"{output.name}.c"), "output")
    operators = sorted(file.operator_counts(model))
    missing = _missing(model)
    if missing:
        raise ValueError(
            f"{path} needs operators that LiteRT for Microcontrollers does not have: {', '.join(missing)}. Replace the"
            " layers that use them, such as a GELU or mish activation."
        )
    numbers = [", ".join(map(str, data[start : start + _LINE])) for start in range(0, len(data), _LINE)]
    fields = {
        "name": name,
        "guard": name.upper(),
        "source": pathlib.Path(path).name,
        "size": len(data),
        "numbers": ",\n".join(f"    {line}" for line in numbers),
        "count": len(operators),
        "calls": "\n".join(f"  TF_LITE_ENSURE_STATUS(resolver.Add{_method(each)}());" for each in operators),
    }
    written = []
    for ending, text in ((".c", _SOURCE), (".h", _HEADER), ("_operators.h", _OPERATORS)):
        target = output.with_name(output.name + ending)
        # The include directive needs the file name of the header.
        content = text.format(**fields).replace(f'"{name}.h"', f'"{output.name}.h"')
        files.write_bytes(target, content.encode())
        written.append(str(target))
    return written


def _missing(model: file.Model) -> list[str]:
    """The operators of a file that are not available in LiteRT for Microcontrollers."""
    found, available, tensors = set(), set(_AVAILABLE.split()), model.Subgraphs(0).Tensors
    for name, inputs, _ in file.operators(model):
        if name not in available:
            found.add(name)
        elif name in _FLOAT_ONLY and file.TYPES[tensors(inputs[0]).Type()] != "float32":
            found.add(f"{name} of integers")
    return sorted(found)


def _mixes_types(model: file.Model) -> bool:
    """Whether an operator reads float values and integer weights."""
    tensors = model.Subgraphs(0).Tensors
    for _, inputs, _ in file.operators(model):
        read = [tensors(index) for index in inputs if index >= 0]
        kinds = {(file.TYPES[each.Type()], bool(model.Buffers(each.Buffer()).DataLength())) for each in read}
        if ("float32", False) in kinds and kinds & {("int8", True), ("int4", True)}:
            return True
    return False


def _method(operator: str) -> str:
    """Name of an operator in the methods of a resolver.

    >>> [_method(name) for name in ("DEPTHWISE_CONV_2D", "RELU6", "REDUCE_MAX", "PADV2")]
    ['DepthwiseConv2D', 'Relu6', 'ReduceMax', 'PadV2']
    """
    return _METHODS.get(operator) or "".join(part.capitalize() for part in operator.split("_")).replace("2d", "2D")
