"""Writes the bytes of a TFLite file: every distinct constant and every distinct quantisation vector once, no names."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
}


class _Builder(flatbuffers.Builder):
    """Writes equal vectors of numbers once, however many tables point to them.

    Scale and zero point of every channel of every use, and the shapes of all values, would else outweigh the kernels of
    a network that shares them.
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
    """A constant, at a multiple of 16 bytes: the schema asks for it, the classes generated from it do not see to it."""

    def Pack(self, builder):
        builder.StartVector(1, len(self.data), 16)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Once:
    """A table that is written once, however many others point to an equal one."""

    def __init__(self, table):
        self._table = table

    def key(self):
        """The same for equal tables."""
        contents = [(name, _plain(value)) for name, value in sorted(vars(self._table).items())]
        return type(self._table).__name__, repr(contents)

    def Pack(self, builder):
        key = self.key()
        if key not in builder.written:
            builder.written[key] = self._table.Pack(builder)
        return builder.written[key]


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


class FileWriter:
    """A file with one graph, put together tensor by tensor and operator by operator."""

    def __init__(self):
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]  # The first one is empty, for tensors that are computed.
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

    def tensor(self, shape, dtype, constant=None, quantisation=None):
        """Adds a tensor, unless it is a constant that is there already, and returns its number.

        Args:
            shape: tuple of ints.
            dtype: a key of `TYPES`.
            constant: array with its contents, or `None` if it is computed.
            quantisation: `(scale, zero_point, axis)`, vectors along an axis or single numbers, or `None`.
        """
        buffer = 0 if constant is None else self._buffer(np.asarray(constant, dtype))
        parameters = None if quantisation is None else _Once(_quantisation(*quantisation))
        key = tuple(shape), dtype, buffer, None if parameters is None else parameters.key()
        if constant is not None and key in self._constants:
            return self._constants[key]
        tensor = schema.TensorT()
        tensor.shape = np.asarray(shape, "int32")
        tensor.type = TYPES[dtype]
        tensor.buffer, tensor.quantization, tensor.hasRank = buffer, parameters, True
        self._graph.tensors.append(tensor)
        number = self._constants[key] = len(self._graph.tensors) - 1
        return number

    def operator(self, name, version, inputs, outputs, options=None):
        """Adds an operator.

        Args:
            name: str as in the schema, for example `"CONV_2D"`.
            version: int, the first version that has what is used.
            inputs, outputs: numbers of tensors; -1 for an input that is left out.
            options: an object of the schema such as `Conv2DOptionsT`, or `None`.
        """
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((name, version), len(self._codes))
        operator.inputs, operator.outputs = np.asarray(inputs, "int32"), np.asarray(outputs, "int32")
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
            operator.builtinOptions = _Once(options)
        self._graph.operators.append(operator)

    def finish(self, signature, inputs, outputs):
        """The bytes of the file.

        Args:
            signature: str, its name.
            inputs, outputs: dicts from the names of the signature to numbers of tensors.
        """
        self._graph.inputs = np.asarray(list(inputs.values()), "int32")
        self._graph.outputs = np.asarray(list(outputs.values()), "int32")
        model = schema.ModelT()
        model.version = 3
        model.subgraphs, model.buffers = [self._graph], self._buffers
        model.operatorCodes = [_code(name, version) for name, version in self._codes]
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = signature, 0
        definition.inputs = [_named(name, number) for name, number in inputs.items()]
        definition.outputs = [_named(name, number) for name, number in outputs.items()]
        model.signatureDefs = [definition]
        builder = _Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _quantisation(scale, zero_point, axis):
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
