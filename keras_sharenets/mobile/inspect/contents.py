"""What is inside a TFLite file, read from its flatbuffer."""

import collections
import struct

from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_TYPES = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_ENDS = ("SOFTMAX", "LOGISTIC")
_CASTS = ("DEQUANTIZE", "QUANTIZE")


def read_graph(data):
    """The root table of a TFLite file.

    Args:
        data: bytes of the file.

    Returns:
        A `schema.Model`.

    Raises:
        ValueError: the bytes are no TFLite file. Damage further inside is not looked for: the interpreter does that.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ValueError(f"it has no TFLite identifier: bytes 4 to 8 are {bytes(data[4:8])!r}, not {IDENTIFIER!r}.")
    if struct.unpack_from("<I", data)[0] >= len(data):
        raise ValueError(f"it ends after {len(data)} bytes, before its own content begins.")
    return schema.Model.GetRootAs(data)


def operators(model):
    """The operators of the main graph in order, as `(name, input tensors, output tensors)`; custom ones by their name.

    Tensors are indices into `model.Subgraphs(0).Tensors`.
    """
    graph = model.Subgraphs(0)
    listed = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Old files keep the code in the narrow field, new ones in the wide one.
        name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name == "CUSTOM":
            name = code.CustomCode().decode()
        listed.append((name, operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()))
    return listed


def operator_counts(model):
    """How often each operator occurs in the main graph, the most frequent first."""
    return dict(collections.Counter(name for name, _, _ in operators(model)).most_common())


def tensor_shape(model, index):
    """Shape of a tensor of the main graph."""
    return tuple(model.Subgraphs(0).Tensors(index).ShapeAsNumpy().tolist())


def constant_bytes(model):
    """Bytes of the constant tensors, by type; a buffer that several tensors name is counted once."""
    buffers = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            size = model.Buffers(tensor.Buffer()).DataLength()
            if size:
                buffers[tensor.Buffer()] = (_TYPES[tensor.Type()].lower(), size)
    totals = collections.Counter()
    for kind, size in buffers.values():
        totals[kind] += size
    return dict(totals)


def repeated_bytes(model):
    """Bytes of buffers whose contents an earlier buffer has too."""
    seen, repeated = set(), 0
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            contents = buffer.DataAsNumpy().tobytes()
            repeated += len(contents) if contents in seen else 0
            seen.add(contents)
    return repeated


def tensor_types(model):
    """The types of all tensors of the main graph, as a set of str."""
    graph = model.Subgraphs(0)
    return {_TYPES[graph.Tensors(index).Type()].lower() for index in range(graph.TensorsLength())}


def score_tensor(model):
    """The tensor that holds the scores before a final softmax or sigmoid.

    Returns:
        Its index, or `None` if the graph does not end so.
    """
    producers = {output: (name, inputs) for name, inputs, outputs in operators(model) for output in outputs}
    name, inputs = producers[model.Subgraphs(0).Outputs(0)]
    while name in _CASTS and inputs[0] in producers:
        name, inputs = producers[inputs[0]]
    return inputs[0] if name in _ENDS else None
