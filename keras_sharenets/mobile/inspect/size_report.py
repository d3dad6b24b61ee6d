"""What the bytes of a TFLite file are spent on."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import zipfile

import numpy as np

from keras_sharenets.mobile.inspect import arena, file

# What following a wrong offset, or an archive that is none, raises.
_DAMAGE = (IndexError, KeyError, NotImplementedError, struct.error, TypeError, ValueError, zipfile.BadZipFile)
# Numbers of fields in the TFLite schema, where a position in the file is needed and not only what stands there.
_NAME, _DESCRIPTION, _CUSTOM_CODE, _SIGNATURE_KEY, _BUFFER_DATA = 0, 3, 1, 2, 0
_TENSOR_NAME, _SUBGRAPH_NAME = 3, 4
# The ends of the range, scales and zero points: the field of each and the bytes of a number in it.
_QUANTIZATION_VECTORS = {0: 4, 1: 4, 2: 4, 3: 8}


@dataclasses.dataclass(frozen=True)
class SizeReport:
    """Every byte of a TFLite file, each in one place: the parts add up to the file.

    Attributes:
        path: the file, as it was given.
        file_bytes: its size.
        constants: dict from type and kind, as `"int8 kernels"`, to bytes; of equal contents the first. `kernels` have
            at least two sides above 1; `vectors` have one, such as biases and scales; `shapes` are integers that stand
            for nothing else, such as the shapes, orders and paddings that operators read; `unused` ones belong to no
            tensor.
        repeated_constants: bytes of constants whose contents another buffer has already.
        quantization_parameters: bytes of scales, zero points and ranges.
        names: bytes of the names of tensors, subgraphs, signatures and custom operators, and of the description.
        metadata: bytes of what does not matter to run the file: class names, metadata, an archive behind the rest.
        structure: the rest: tensors, operators and buffers as records with their shapes and options, and padding.
        arena_bytes: no part of the file: the memory that the values of one inference take on a device that gives them
            their places beforehand. An estimate, as LiteRT for Microcontrollers places them: it was what its own report
            says on one network of each family in each form. What that runtime keeps beside them comes on top.
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
        """All parts in words, as a dict to bytes; the sum is `file_bytes`."""
        rest = ("repeated_constants", "quantization_parameters", "names", "metadata", "structure")
        return self.constants | {name.replace("_", " "): getattr(self, name) for name in rest}


class _Map:
    """Says of every byte of a file what it belongs to. What is claimed first, stays."""

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
        """Claims the vector in a field of a table, with the length that stands before it and `end` bytes behind it."""
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
    """What the bytes of a TFLite file are spent on. The file need not be one of this library's.

    Args:
        path: the TFLite file.

    Returns:
        A `SizeReport`.

    Raises:
        ValueError: there is no such file, or it is no TFLite file, or it is damaged.
    """
    data = file.read_bytes(path)
    try:
        model = file.parse(data)
    except ValueError as error:
        raise ValueError(f"{path} is not a TFLite file: {error}") from error
    try:
        parts, constants = _parts(data, model)
        memory = arena.arena_bytes(model)
    except _DAMAGE as error:
        raise ValueError(f"{path} is no whole TFLite file: {error}") from error
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
    """Where the contents of a buffer begin, and their length."""
    # Contents that a flatbuffer is too small for lie behind it; 1 marks a place that was never filled in.
    if buffer.Offset() > 1:
        return buffer.Offset(), buffer.Size()
    place = buffer._tab.Offset(4 + 2 * _BUFFER_DATA)
    return (buffer._tab.Vector(place), buffer.DataLength()) if place else (0, 0)


def _claim_constants(claims, data, model, tensors):
    """Claims the contents of all buffers, and returns the names of the parts that they are."""
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
    """The type of a constant tensor and what such tensors are."""
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
    # A table begins with the distance back to its layout, the second entry of which is the table's size.
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
