"""Serialization of TFLite files: distinct constants and quantization vectors are stored once, with short names."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

from keras_sharenets.mobile.writer.versions import operator_version

# Letters in layer names: of names that are kept, the target for shortened ones, and the maximum. A string takes a
# multiple of 4 bytes, including its final zero.
_KEPT, _FITTING, _LONGEST = 8, 7, 9

# Its generated classes annotate lists where they accept arrays.
schema: Any = schema_py_generated


class _Builder(flatbuffers.Builder):
    """Writes equal vectors of numbers once, however many tables refer to them.

    Otherwise the scales and zero points of all channels of all uses, and the shapes of all values, would take more
    bytes than the kernels of a sharing network.
    """

    def __init__(self):
        super().__init__(1024)
        self.written = {}

    def CreateNumpyVector(self, x):
        key = x.dtype.str, x.tobytes()
        if key not in self.written:
            self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]


class _Data(schema.BufferT):
    """A constant, aligned to 16 bytes as the schema requires; the generated classes do not align it."""

    def Pack(self, builder):
        builder.StartVector(1, len(self.data), 16)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Once:
    """A table that is written once, even if several equal ones are referenced."""

    def __init__(self, table):
        self.table = table

    def key(self):
        """Key that is the same for equal tables."""
        contents = [(name, _plain(value)) for name, value in sorted(vars(self.table).items())]
        return type(self.table).__name__, repr(contents)

    def Pack(self, builder):
        key = self.key()
        if key not in builder.written:
            builder.written[key] = self.table.Pack(builder)
        return builder.written[key]


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


class FileWriter:
    """A file with one graph, built tensor by tensor and operator by operator."""

    def __init__(self) -> None:
        self._graph = _empty_graph()
        self._graph.name = "main"  # As in TensorFlow's files: OpenCV requires it.
        self._inner_graphs = []
        self._names = []  # Tensor names, each with the separator before its number.
        self.layer = ""
        self._buffers = [schema.BufferT()]  # The first one is empty, for computed tensors.
        self._buffer_numbers = {}
        self._constants = {}
        self._codes = {}

    def _buffer(self, array):
        data = np.ascontiguousarray(array).tobytes()
        if data not in self._buffer_numbers:
            buffer = _Data()
            buffer.data = data
            self._buffers.append(buffer)
            self._buffer_numbers[data] = len(self._buffers) - 1
        return self._buffer_numbers[data]

    def tensor(
        self,
        shape: tuple[int, ...],
        dtype: str,
        *,
        constant: np.ndarray | None = None,
        quantization: tuple[Any, Any, int] | None = None,
        suffix: str = "",
        name: str | None = None,
        signature: np.ndarray | None = None,
    ) -> int:
        """Adds a tensor, unless it is an existing constant, and returns its number.

        It is named after the current layer (`self.layer`), with a number to make it unique. Tensors that are not
        outputs of a layer have one letter and a number: `d` for shapes, permutations and paddings, `t` for values
        between two operators of a layer, and `w` for widened half-precision constants.

        Args:
            shape: shape of the tensor.
            dtype: name of a NumPy type, such as `"float32"` or `"int8"`.
            constant: array with its contents, or `None` if it is computed.
            quantization: `(scale, zero_point, axis)`, vectors along an axis or single numbers, or `None`.
            suffix: suffix of the layer's name.
            name: such a letter, instead of the layer's name.
            signature: the shape with -1 for dimensions that are only known at run time, or `None`.
        """
        buffer = 0 if constant is None else self._buffer(np.asarray(constant, dtype))
        parameters = None if quantization is None else _Once(_quantization_parameters(*quantization))
        key = tuple(shape), dtype, buffer, None if parameters is None else parameters.key()
        if constant is not None and key in self._constants:
            return self._constants[key]
        tensor = schema.TensorT()
        tensor.shape = np.asarray(shape, "int32")
        tensor.shapeSignature = signature
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.buffer, tensor.quantization, tensor.hasRank = buffer, parameters, True
        self._graph.tensors.append(tensor)
        self._names.append((short_name(self.layer) + suffix, "_") if name is None else (name, ""))
        number = self._constants[key] = len(self._graph.tensors) - 1
        return number

    def operator(
        self, name: str, inputs: list[int], outputs: list[int], options: Any = None, version: int | None = None
    ) -> None:
        """Adds an operator.

        Args:
            name: name in the schema, such as `"CONV_2D"`.
            inputs, outputs: tensor numbers; -1 for an omitted input.
            options: an options object of the schema, such as `Conv2DOptionsT`, or `None`.
            version: its version; by default [`operator_version`].
        """
        if version is None:
            read = [None if number < 0 else self._graph.tensors[number] for number in inputs]
            version = operator_version(name, read, self._graph.tensors[outputs[0]], options)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((name, version), len(self._codes))
        operator.inputs, operator.outputs = np.asarray(inputs, "int32"), np.asarray(outputs, "int32")
        if options is not None:
            kind = type(options).__name__[:-1]
            if hasattr(schema.BuiltinOptions, kind):
                operator.builtinOptionsType, operator.builtinOptions = (
                    getattr(schema.BuiltinOptions, kind),
                    _Once(options),
                )
            else:
                operator.builtinOptions2Type = getattr(schema.BuiltinOptions2, kind)
                operator.builtinOptions2 = _Once(options)
        self._graph.operators.append(operator)

    @property
    def operators(self) -> int:
        """The current number of operators."""
        return len(self._graph.operators)

    def operator_names(self) -> list[str]:
        """The name of the first output of each operator; available once the file is finished."""
        return [self._graph.tensors[operator.outputs[0]].name for operator in self._graph.operators]

    def inner_graph(self, fill: Callable[[], tuple[list[int], list[int]]]) -> int:
        """Adds a subgraph for control-flow operators, and returns its number.

        Args:
            fill: function that adds its tensors and operators, and returns the numbers of its inputs and outputs.
        """
        outside = self._graph, self._names, self._constants
        self._graph, self._names, self._constants = _empty_graph(), [], {}
        inputs, outputs = fill()
        self._graph.inputs, self._graph.outputs = np.asarray(inputs, "int32"), np.asarray(outputs, "int32")
        for tensor, name in zip(self._graph.tensors, _unique_names(self._names, {}), strict=True):
            tensor.name = name
        self._inner_graphs.append(self._graph)
        self._graph, self._names, self._constants = outside
        return len(self._inner_graphs)

    def finish(self, signature: str, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """Returns the bytes of the file.

        Args:
            signature: name of the signature.
            inputs, outputs: tensor numbers by name in the signature.
        """
        self._graph.inputs = np.asarray(list(inputs.values()), "int32")
        self._graph.outputs = np.asarray(list(outputs.values()), "int32")
        given = {number: name for names in (inputs, outputs) for name, number in names.items()}
        for number, name in enumerate(_unique_names(self._names, given)):
            self._graph.tensors[number].name = name
        model = schema.ModelT()
        model.version = 3
        model.subgraphs, model.buffers = [self._graph, *self._inner_graphs], self._buffers
        model.operatorCodes = [_code(name, version) for name, version in self._codes]
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = signature, 0
        definition.inputs = [_named(name, number) for name, number in inputs.items()]
        definition.outputs = [_named(name, number) for name, number in outputs.items()]
        model.signatureDefs = [definition]
        builder = _Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def compacted(data: bytes) -> bytes:
    """Deduplicates equal constants and tables in a file of another writer; nothing else changes."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    kept, numbers = [schema.BufferT()], {b"": 0}
    moved = []
    for buffer in model.buffers:
        content = b"" if buffer.data is None else bytes(buffer.data)
        if buffer.size:  # Stored after the tables.
            content = data[buffer.offset : buffer.offset + buffer.size]
        if content not in numbers:
            numbers[content] = len(kept)
            kept.append(_Data())
            kept[-1].data = content
        moved.append(numbers[content])
    model.buffers = kept
    for entry in model.metadata or ():
        entry.buffer = moved[entry.buffer]
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = moved[tensor.buffer]
            tensor.quantization = None if tensor.quantization is None else _Once(tensor.quantization)
        for operator in graph.operators:
            for field in ("builtinOptions", "builtinOptions2"):
                options = getattr(operator, field)
                setattr(operator, field, None if options is None else _Once(options))
    builder = _Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _empty_graph():
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    return graph


def short_name(layer: str) -> str:
    """A short form of a layer's name for its tensors: programs need names, but names take bytes.

    A name of up to 8 letters is kept. A longer one is reduced to the first letter and the number of each part, with
    more letters of the last part if there is room.

    >>> [short_name(layer) for layer in ("stem", "stage1_module2_convolution", "conv2d_12", "predictions")]
    ['stem', 's1m2con', 'conv212', 'predict']
    """
    if len(layer) <= _KEPT:
        return layer
    # A separate number belongs to the preceding word.
    parts = re.split(r"_(?!\d)|/", layer)
    words = [part.rstrip(f"{string.digits}_") for part in parts]
    numbers = [part[len(word) :].replace("_", "") for part, word in zip(parts, words, strict=True)]
    *places, last = words
    before = "".join(word[:1] + number for word, number in zip(places, numbers, strict=False))
    most = 3 if places else _KEPT
    return (before + last[: max(1, min(most, _FITTING - len(before + numbers[-1])))] + numbers[-1])[-_LONGEST:]


def _unique_names(names, given):
    """Unique names: tensors in `given` have the given name; others get a numeric suffix if the name is taken."""
    taken, counts, unique = set(given.values()), {}, []
    for number, (name, between) in enumerate(names):
        result = given.get(number)
        while result is None or (result in taken and number not in given):
            counts[name] = counts.get(name, 0) + 1
            result = name if name and counts[name] == 1 else f"{name}{between}{counts[name]}"
        taken.add(result)
        unique.append(result)
    return unique


def _quantization_parameters(scale, zero_point, axis):
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.atleast_1d(np.asarray(scale, "float32"))
    parameters.zeroPoint = np.full(parameters.scale.shape, zero_point, "int64")
    parameters.quantizedDimension = axis
    return parameters


def _code(name, version):
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    return code


def _named(name, number):
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, number
    return entry
