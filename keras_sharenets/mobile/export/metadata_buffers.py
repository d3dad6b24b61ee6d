"""Named buffers of metadata in a TFLite file."""

import struct

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.mobile.inspect import contents as graph

_ALIGNMENT = 16
# Entries of the root table in the order of the TFLite schema.
_VERSION, _BUFFERS, _METADATA, _ENTRIES = 0, 4, 6, 10


def read_buffer(model, name):
    """The content of the metadata buffer `name` of a `schema.Model`, or `None`."""
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == name.encode():
            buffer = model.Buffers(entry.Buffer())
            return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
    return None


def add_buffers(data, contents):
    """A TFLite file with metadata buffers added and everything else untouched.

    The parts of a flatbuffer refer to each other by distance, so the old file goes in whole, as the last part. In front
    of it come the new buffers and a new root table, which refers to the old parts where they lie. In contrast to
    unpacking and packing again, this keeps the alignment of the weights and what a newer converter may have written.

    Args:
        data: bytes of a TFLite file.
        contents: dict of names and bytes.

    Returns:
        The bytes of the new file.
    """
    builder = flatbuffers.Builder(2 * len(data))
    builder.Prep(_ALIGNMENT, len(data))
    # Offsets of a builder count from the end; the length that stands before a byte vector is not part of the old file.
    whole = builder.CreateByteVector(data) - 4
    root = flatbuffers.table.Table(data, struct.unpack_from("<I", data)[0])
    fields = {}
    for entry in range(_ENTRIES):
        place = root.Offset(4 + 2 * entry)
        if place and entry != _VERSION:
            fields[entry] = root.Indirect(root.Pos + place)
    buffers = [whole - position for position in _elements(root, fields[_BUFFERS])]
    metadata = [whole - position for position in _elements(root, fields.get(_METADATA))]
    for name, content in contents.items():
        metadata.append(_metadata(builder, name, len(buffers)))
        buffers.append(_buffer(builder, content))
    offsets = {entry: whole - position for entry, position in fields.items()}
    offsets |= {_BUFFERS: _vector(builder, buffers), _METADATA: _vector(builder, metadata)}
    builder.StartObject(_ENTRIES)
    builder.PrependUint32Slot(_VERSION, schema.Model.GetRootAs(data).Version(), 0)
    for entry, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(entry, offset, 0)
    builder.Finish(builder.EndObject(), graph.IDENTIFIER)
    return bytes(builder.Output())


def _elements(table, vector):
    """Positions of the tables in a vector of them."""
    if vector is None:
        return []
    count = struct.unpack_from("<I", table.Bytes, vector)[0]
    return [table.Indirect(vector + 4 + 4 * index) for index in range(count)]


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _metadata(builder, name, buffer):
    text = builder.CreateString(name)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, text)
    schema.MetadataAddBuffer(builder, buffer)
    return schema.MetadataEnd(builder)


def _buffer(builder, content):
    builder.Prep(_ALIGNMENT, len(content))
    data = builder.CreateByteVector(content)
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)
