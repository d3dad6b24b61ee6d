"""Size breakdown of TFLite files."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import zipfile

import numpy as np

from keras_sharenets.mobile.inspect import arena, file

# Exceptions raised by missing tables, wrong offsets and damaged archives.
_DAMAGE = (
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    struct.error,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
# Field numbers in the TFLite schema, for fields whose position in the file is needed, not only the value.
_NAME, _DESCRIPTION, _CUSTOM_CODE, _SIGNATURE_KEY, _BUFFER_DATA = 0, 3, 1, 2, 0
_TENSOR_NAME, _SUBGRAPH_NAME = 3, 4
# Field number and bytes per number of the range limits, scales and zero points.
_QUANTIZATION_VECTORS = {0: 4, 1: 4, 2: 4, 3: 8}


@dataclasses.dataclass(frozen=True)
class SizeReport:
    """Size breakdown of a TFLite file: every byte belongs to exactly one part.

    Attributes:
        path: path of the file, as given.
        file_bytes: size of the file.
        constants: dict from type and kind, such as `"int8 kernels"`, to bytes; of equal constants only the first
            counts. `kernels` have at least two dimensions above 1, `vectors`, such as biases and scales, have one.
            `shapes` are integers without quantization, such as the shapes, permutations and paddings that operators
            read; `unused` constants belong to no tensor.
        repeated_constants: bytes of constants that duplicate another buffer.
        quantization_parameters: bytes of scales, zero points and ranges.
        names: bytes of the names of tensors, subgraphs, signatures and custom operators, and of the description.
        metadata: bytes that are not needed to run the file: class names, metadata, an appended archive.
        structure: the rest: records of tensors, operators and buffers with shapes and options, and padding.
        arena_bytes: estimated activation memory of one inference on a device that allocates it statically, as LiteRT
            for Microcontrollers does; not a part of the file. It equaled that runtime's own report for one network of
            each family in each form. Other memory of the runtime is not included.
    """

    path: str
    file_bytes: int
    constants: dict[str, int]
    repeated_constants: int
    quantization_parameters: int
    names: int
    metadata: int
    structure: int
    arena_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Dict from the name of each part to its bytes; the sum is `file_bytes`."""
        rest = ("repeated_constants", "quantization_parameters", "names", "metadata", "structure")
        return self.constants | {name.replace("_", " "): getattr(self, name) for name in rest}


class _Map:
    """Assigns every byte of a file to a part; the first claim of a byte wins."""

    def __init__(self, data):
        self._owners = np.zeros(len(data), "uint8")
        self._parts = ["structure"]

    def claim(self, part, start, length):
        if start < 0 or start + length > len(self._owners):
            raise ValueError(f"it refers to {length} bytes at {start}, and has {len(self._owners)}.")
        if part not in self._parts:
            self._parts.append(part)
        owners = self._owners[start : start + length]
        owners[owners == 0] = self._parts.index(part)

    def vector(self, part, table, field, item=1, end=0):
        """Claims the vector in a field of a table, including its length prefix and `end` bytes behind it."""
        place = table._tab.Offset(4 + 2 * field)
        if place:
            self.claim(part, table._tab.Vector(place) - 4, 4 + table._tab.VectorLen(place) * item + end)

    def text(self, part, table, field):
        # Text ends in a zero that its length does not count.
        self.vector(part, table, field, end=1)

    def totals(self):
        counts = np.bincount(self._owners, minlength=len(self._parts)).tolist()
        return dict(zip(self._parts, counts, strict=True))


def size_report(path: str | os.PathLike) -> SizeReport:
    """Reports the size breakdown of a TFLite file from any converter.

    Args:
        path: path of the TFLite file.

    Returns:
        A `SizeReport`.

    Raises:
        ValueError: the file does not exist, is not a TFLite file, or is damaged.
    """
    data = file.read_bytes(path)
    model = file.parse_named(data, path)
    try:
        parts, constants = _parts(data, model)
        memory = arena.arena_bytes(model)
    except _DAMAGE as error:
        raise ValueError(f"{path} is a damaged TFLite file: {error}") from error
    fields = ("repeated_constants", "quantization_parameters", "names", "metadata", "structure")
    return SizeReport(
        path=str(path),
        file_bytes=len(data),
        constants={name: parts[name] for name in constants if parts[name]},
        **{name: parts.get(name, 0) for name in fields},
        arena_bytes=memory,
    )


def _parts(data, model):
    """`({part: bytes}, names of the parts that are constants)`."""
    claims = _Map(data)
    _claim_metadata(claims, data, model)
    tensors = [tensor for part in _subgraphs(model) for tensor in map(part.Tensors, range(part.TensorsLength()))]
    constants = _claim_constants(claims, data, model, tensors)
    for tensor in tensors:
        claims.text("names", tensor, _TENSOR_NAME)
        _claim_quantization(claims, tensor.Quantization())
    _claim_names(claims, model)
    return claims.totals(), constants


def _subgraphs(model):
    return map(model.Subgraphs, range(model.SubgraphsLength()))


def _claim_metadata(claims, data, model):
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            start = min((entry.header_offset for entry in archive.infolist()), default=archive.start_dir)
        claims.claim("metadata", start, len(data) - start)
    for entry in map(model.Metadata, range(model.MetadataLength())):
        claims.text("metadata", entry, _NAME)
        claims.claim("metadata", *_contents(model.Buffers(entry.Buffer())))


def _contents(buffer):
    """Start and length of the contents of a buffer."""
    # Contents too large for a flatbuffer follow it; an offset of 1 is a placeholder that was never filled in.
    if buffer.Offset() > 1:
        return buffer.Offset(), buffer.Size()
    place = buffer._tab.Offset(4 + 2 * _BUFFER_DATA)
    return (buffer._tab.Vector(place), buffer.DataLength()) if place else (0, 0)


def _claim_constants(claims, data, model, tensors):
    """Claims the contents of all buffers, and returns the names of their parts."""
    kinds, seen, names = {}, {}, []
    for tensor in tensors:
        kinds.setdefault(tensor.Buffer(), _kind(tensor))
    for number in range(model.BuffersLength()):
        start, length = _contents(model.Buffers(number))
        contents, part = data[start : start + length], kinds.get(number, "unused")
        if seen.setdefault(contents, start) != start:
            part = "repeated_constants"
        elif length and part not in names:
            names.append(part)
        claims.claim(part, start, length)
    return names


def _kind(tensor):
    """Type and kind of a constant tensor."""
    dtype, scales = file.TYPES[tensor.Type()], tensor.Quantization()
    if dtype in ("int32", "int64") and (scales is None or not scales.ScaleLength()):
        return f"{dtype} shapes"
    sides = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
    return f"{dtype} kernels" if sum(side > 1 for side in sides) > 1 else f"{dtype} vectors"


def _claim_quantization(claims, table):
    if table is None:
        return
    for field, item in _QUANTIZATION_VECTORS.items():
        claims.vector("quantization_parameters", table, field, item)
    # A table begins with the offset of its vtable, whose second entry is the table's size.
    position, data = table._tab.Pos, table._tab.Bytes
    layout = position - struct.unpack_from("<i", data, position)[0]
    claims.claim("quantization_parameters", position, struct.unpack_from("<H", data, layout + 2)[0])


def _claim_names(claims, model):
    claims.text("names", model, _DESCRIPTION)
    for part in _subgraphs(model):
        claims.text("names", part, _SUBGRAPH_NAME)
    for code in map(model.OperatorCodes, range(model.OperatorCodesLength())):
        claims.text("names", code, _CUSTOM_CODE)
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        claims.text("names", signature, _SIGNATURE_KEY)
        for entry in map(signature.Inputs, range(signature.InputsLength())):
            claims.text("names", entry, _NAME)
        for entry in map(signature.Outputs, range(signature.OutputsLength())):
            claims.text("names", entry, _NAME)
