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


class _Once(schema.QuantizationParametersT):
    """Quantisation parameters whose vectors are written once, however many tensors have equal ones.

    The classes that are generated from the schema write every vector anew: scale and zero point of every channel of
    every use would outweigh the kernels of a network that shares them.
    """

    def __init__(self, scale, zero_point, axis, written):
        super().__init__()
        self.scale = np.atleast_1d(np.asarray(scale, "float32"))
        self.zeroPoint = np.broadcast_to(np.asarray(zero_point, "int64"), self.scale.shape)
        self.quantizedDimension = axis
        self._written = written

    def _vector(self, builder, array):
        key = array.dtype.str, array.tobytes()
        if key not in self._written:
            self._written[key] = builder.CreateNumpyVector(np.ascontiguousarray(array))
        return self._written[key]

    def Pack(self, builder):
        key = self.scale.tobytes(), self.zeroPoint.tobytes(), self.quantizedDimension
        if key not in self._written:
            scale, zero_point = self._vector(builder, self.scale), self._vector(builder, self.zeroPoint)
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, zero_point)
            schema.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
            self._written[key] = schema.QuantizationParametersEnd(builder)
        return self._written[key]


class FileWriter:
    """A file with one graph, put together tensor by tensor and operator by operator."""

    def __init__(self):
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]  # The first one is empty, for tensors that are computed.
        self._buffer_numbers = {}
        self._codes = {}
        self._written = {}

    def _buffer(self, array):
        data = np.ascontiguousarray(array).tobytes()
        if data not in self._buffer_numbers:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, "uint8")
            self._buffers.append(buffer)
            self._buffer_numbers[data] = len(self._buffers) - 1
        return self._buffer_numbers[data]

    def tensor(self, shape, dtype, constant=None, quantisation=None):
        """Adds a tensor and returns its number.

        Args:
            shape: tuple of ints.
            dtype: a key of `TYPES`.
            constant: array with its contents, or `None` if it is computed.
            quantisation: `(scale, zero_point, axis)`, vectors along an axis or single numbers, or `None`.
        """
        tensor = schema.TensorT()
        tensor.shape = np.asarray(shape, "int32")
        tensor.type = TYPES[dtype]
        tensor.buffer = 0 if constant is None else self._buffer(np.asarray(constant, dtype))
        tensor.quantization = None if quantisation is None else _Once(*quantisation, self._written)
        tensor.hasRank = True
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

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
            operator.builtinOptions = options
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
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


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
