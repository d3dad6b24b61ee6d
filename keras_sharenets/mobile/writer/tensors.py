"""Writing an inference graph as a float or integer TFLite file, with the representation of values and constants."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import Constant, InferenceGraph, Operation, Value
from keras_sharenets.mobile.graph.quantization import QuantizedGraph, affine_quantization, integers_of
from keras_sharenets.mobile.writer.flatbuffer import FileWriter
from keras_sharenets.mobile.writer.kinds import rotated_groups, two_ranges, write_operation
from keras_sharenets.mobile.writer.operators import Tensors

# Kinds that require batch size 1: delegates do not support slices of a free batch, stacked groups use the batch axis,
# and the output shape of a transposed convolution is a constant.
_ONE_IMAGE = ("slice", "stack", "crop", "conv_transpose", "converted")
# Relative difference up to which the scales of all filters count as one.
_SAME = 1e-6
# What an activation clips to.
_LIMITS = {None: (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}


@dataclasses.dataclass(frozen=True)
class Signature:
    """The names of a file's function, inputs and outputs, in the order of the graph's inputs and outputs."""

    key: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_float(graph: InferenceGraph, names: Signature, *, stored_type: str = "float32") -> bytes:
    """The bytes of a file that computes in float32.

    Args:
        graph: `InferenceGraph` without scales next to kernels (`scales.prepare_float`).
        names: the `Signature`.
        stored_type: `"float32"`, or `"float16"` for half-precision constants.
    """
    return _write(FloatTensors(stored_type), graph, names)[0]


def write_float_with_origins(graph: InferenceGraph, names: Signature) -> tuple[bytes, dict[str, Operation]]:
    """As [`write_float`], and the operation of each operator: `{name of the operator's output: operation}`."""
    return _write(FloatTensors("float32"), graph, names)


def write_int8(
    quantized: QuantizedGraph, names: Signature, *, input_type: str = "int8", output_type: str = "int8"
) -> bytes:
    """The bytes of a file with int8 values and kernels, and 32-bit biases.

    Args:
        quantized: `QuantizedGraph`.
        names: the `Signature`.
        input_type, output_type: `"int8"`, or `"uint8"` or `"float32"`, which add a conversion operator. The integers of
            `"uint8"` are 128 larger, but represent the same numbers.
    """
    tensors = Int8Tensors(quantized, input_type, output_type)
    return _write(tensors, quantized.graph, names)[0]


def _write(tensors, graph, names):
    # A program may resize the input to any batch size. The shapes do not declare it with -1, because LiteRT.js rejects
    # such files.
    tensors.any_number_of_images = not any(
        operation.kind in _ONE_IMAGE or rotated_groups(operation) or two_ranges(operation)
        for operation in graph.operations
    )
    inputs = {}
    for name, value in zip(names.inputs, graph.inputs, strict=True):
        tensors.writer.layer = name
        inputs[name] = tensors.input(value)
    origins = []
    for operation in graph.operations:
        write_operation(tensors, operation)
        origins += [operation] * (tensors.writer.operators - len(origins))
    outputs = {name: tensors.output(value) for name, value in zip(names.outputs, graph.outputs, strict=True)}
    data = tensors.writer.finish(names.key, inputs, outputs)
    return data, dict(zip(tensors.writer.operator_names(), origins, strict=False))


class FloatTensors(Tensors):
    """A file that computes in float32, with constants in float32 or float16."""

    def __init__(self, stored_type: str) -> None:
        super().__init__(FileWriter())
        self._stored_type = stored_type
        self._constants = {}

    def like(self, value: Value, shape: tuple[int, ...], *, name: str | None = None) -> int:
        return self.writer.tensor(shape, "float32", name=name)

    def kernel(self, operation: Operation, kernel: Constant, array: np.ndarray, axis: int) -> int:
        return self._constant((kernel, axis), array, "/k")

    def constant(self, value: Value, array: np.ndarray) -> int:
        return self._constant((array.shape, array.tobytes()), array, "/c")

    def real(self, value: Value) -> int:
        return self.value(value)

    def give_real(self, value: Value, tensor: int) -> None:
        self.bind(value, tensor)

    def real_constant(self, array: np.ndarray) -> int:
        if array.dtype == "float32" and array.ndim > 1:
            return self._constant((array.shape, array.tobytes()), array, "/c")
        return self.writer.tensor(array.shape, array.dtype.name, constant=array, suffix="/c")

    def scale(self, operation: Operation, scale: np.ndarray) -> int:
        return self._constant((operation, "scale"), scale[None, None, None], "/s")

    def zeros(self, operation: Operation, filters: int) -> int:
        return self._constant(("zeros", filters), np.zeros(filters, "float32"), "/b")

    def _bias(self, operation, numbers):
        return self._constant((operation, "bias"), numbers, "/b")

    def _constant(self, key, array, suffix):
        """A constant; a float16 constant is widened by a separate operator, which delegates eliminate."""
        if key not in self._constants:
            stored_type = self._stored_type if _survives(array, self._stored_type) else "float32"
            number = self.writer.tensor(array.shape, stored_type, constant=array, suffix=suffix)
            if stored_type != "float32":
                wide = self.writer.tensor(array.shape, "float32", name="w")
                self.writer.operator("DEQUANTIZE", [number], [wide])
                number = wide
            self._constants[key] = number
        return self._constants[key]


def _survives(array, dtype):
    """Whether numbers stay finite in a type, and do not all become 0, as the epsilon of a normalization would."""
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    return np.isfinite(stored).all() and (stored.any() or not array.any())


class UnquantizableError(ValueError):
    """Numbers of a layer that integers cannot represent. A runtime could abort the process on such a file."""


def _checked_scales(operation, scales):
    """Returns `scales` if runtimes can compute with them; otherwise raises an error."""
    least, most = scales.min(), scales.max()
    if not np.finfo("float32").tiny <= least <= most < np.inf:
        raise UnquantizableError(
            f"Layer '{operation.name}' cannot be written in int8: its quantization steps would be {least:.3g} to "
            f"{most:.3g}. Train the network further, or export it in float."
        )
    return scales


class Int8Tensors(Tensors):
    """An integer file with 8-bit values and kernels, and 32-bit biases."""

    def __init__(self, quantized: QuantizedGraph, input_type: str, output_type: str) -> None:
        super().__init__(FileWriter())
        self._quantized = quantized
        self._input_type, self._output_type = input_type, output_type
        self._filter_scales = {}
        self._reals = {}  # Tensors of operators that compute in float, by value number.
        self._whole = integers_of(quantized.graph)

    def input(self, value: Value) -> int:
        if self._input_type == "int8":
            return super().input(value)
        end, inside = self._end(value, self._input_type), self.value(value)
        self.writer.operator("QUANTIZE", [end], [inside])
        return end

    def output(self, value: Value) -> int:
        if self._output_type == "int8":
            return super().output(value)
        if self._output_type == "float32" and value.number in self._reals:
            return self._reals[value.number]  # Not rounded.
        inside, end = self.value(value), self._end(value, self._output_type)
        self.writer.operator("DEQUANTIZE" if self._output_type == "float32" else "QUANTIZE", [inside], [end])
        return end

    def _end(self, value, dtype):
        """An input or output tensor of a type, with the numbers of a value."""
        quantization = self._quantized.values[value.number]
        parameters = None if dtype == "float32" else (quantization.scale, quantization.zero_point + 128, 0)
        return self.writer.tensor(value.shape, dtype, quantization=parameters)

    def like(self, value: Value, shape: tuple[int, ...], *, name: str | None = None) -> int:
        quantization = self._quantized.values[value.number]
        parameters = quantization.scale, quantization.zero_point, 0
        return self.writer.tensor(shape, "int8", quantization=parameters, name=name)

    def is_clipped(self, value: Value, activation: str | None) -> bool:
        quantization = self._quantized.values[value.number]
        low, high = quantization.integers(np.array(_LIMITS[activation], "float32"))
        return bool(low == -128 and high == 127)

    def kernel(self, operation: Operation, kernel: Constant, array: np.ndarray, axis: int) -> int:
        stored = self._quantized.kernels[kernel].scale
        scales = stored.reshape([-1 if place == axis else 1 for place in range(array.ndim)])
        integers = np.clip(np.round(array / scales), -127, 127)
        used = stored if operation.scale is None else stored * operation.scale
        return self._constant(operation, integers, used, axis, "/k")

    def value(self, value: Value) -> int:
        if value.number in self._reals and value.number not in self._values:
            self._check_whole(value)
            real, inside = self._reals[value.number], super().value(value)
            self.writer.operator("QUANTIZE", [real], [inside])
        return super().value(value)

    def real(self, value: Value) -> int:
        if value.number not in self._reals:
            self._check_whole(value)
            inside, real = self.value(value), self.writer.tensor(value.shape, "float32", name="t")
            self.writer.operator("DEQUANTIZE", [inside], [real])
            self._reals[value.number] = real
        return self._reals[value.number]

    def _check_whole(self, value: Value) -> None:
        """Raises an error for integers, such as indices, that 8 bits would round."""
        if value.number in self._whole and self._quantized.values[value.number].scale != 1:
            name, _ = self._whole[value.number]
            raise UnquantizableError(
                f"Layer '{name}' cannot be written in int8: it reads or returns integers, such as indices, that need"
                ' more than 8 bits. Export the network in float, or, for an output, set `output_type="float32"`.'
            )

    def give_real(self, value: Value, tensor: int) -> None:
        self._reals[value.number] = tensor

    def real_constant(self, array: np.ndarray) -> int:
        return self.writer.tensor(array.shape, array.dtype.name, constant=array, suffix="/c")

    def constant(self, value: Value, array: np.ndarray) -> int:
        quantization = self._quantized.values[value.number]
        integers, parameters = quantization.integers(array), (quantization.scale, quantization.zero_point, 0)
        return self.writer.tensor(array.shape, "int8", constant=integers, quantization=parameters, suffix="/c")

    def scale(self, operation: Operation, scale: np.ndarray) -> int:
        integers, quantization = affine_quantization(scale, operation.bias, self._input_scale(operation))
        return self._constant(operation, integers[None, None, None], quantization.scale, 3, "/s")

    def _bias(self, operation, numbers):
        scales = (self._filter_scales[operation].astype("float64") * self._input_scale(operation)).astype("float32")
        integers = np.round(numbers / _checked_scales(operation, scales).astype("float64"))
        if np.abs(integers).max() >= 2**31:
            raise UnquantizableError(
                f"Layer '{operation.name}' cannot be written in int8: its bias (up to {np.abs(numbers).max():.3g}) "
                "needs more than 31 bits at the scale of its kernel. Train the network further, or export it in float."
            )
        quantization = scales, 0, 0
        return self.writer.tensor(integers.shape, "int32", constant=integers, quantization=quantization, suffix="/b")

    def _input_scale(self, operation):
        return self._quantized.values[operation.inputs[0].number].scale

    def _constant(self, operation, integers, scales, axis, suffix):
        scales = _checked_scales(operation, np.atleast_1d(scales.astype("float32")))
        if np.ptp(scales) <= _SAME * scales.max():
            scales = scales[:1]  # One number means the same, and takes less.
        self._filter_scales[operation] = scales
        quantization = scales, 0, axis
        return self.writer.tensor(integers.shape, "int8", constant=integers, quantization=quantization, suffix=suffix)
