"""Class names and standard metadata in TFLite files.

A buffer describes input and output in the standard flatbuffer schema "TFLite metadata", version 1, without which the
task libraries of phones reject float images. The dependencies of this package do not include generated Python code for
that schema, so its few tables are written by field number.

Class names are stored twice, because readers look in two places: in a metadata buffer of the flatbuffer, which needs no
unpacking, and in the file `labels.txt` in a zip archive after the flatbuffer, which `unzip` and the metadata libraries
of Android and iOS open. The metadata links that file to the output.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.heads import THRESHOLD
from keras_sharenets.mobile.inspect import file

_ALIGNMENT = 16
# Field numbers of the root table in the TFLite schema.
_VERSION, _BUFFERS, _METADATA, _ENTRIES = 0, 4, 6, 10

_STANDARD_BUFFER, _STANDARD_IDENTIFIER, _MIN_PARSER_VERSION = "TFLITE_METADATA", b"M001", "1.0.0"
# Members of the metadata schema's unions and enumerations.
_FEATURE, _IMAGE, _NORMALIZATION, _SCORE_THRESHOLDING, _AXIS_LABELS, _VALUE_LABELS = 1, 2, 1, 3, 2, 3
_COLOR_SPACES = {1: 2, 3: 1}
# The language of the class names is unknown: this is the default of task libraries.
_LOCALE = "en"


def write_labels(model_bytes: bytes, class_names: Sequence[str], *, pixels: bool = True) -> bytes:
    """Adds class names to a TFLite file.

    Args:
        model_bytes: bytes of a TFLite file with one input and one output.
        class_names: strings, one for each entry of the output; two for a single sigmoid.
        pixels: whether the network takes pixel values from 0 to 255.

    Returns:
        The bytes of the new file, which contains the original file unchanged.

    Raises:
        ValueError: the bytes are not a TFLite file, it already contains class names, or the names do not fit its
            output.
    """
    names = file.head(file.parse(model_bytes)).check_names(class_names)
    text = "".join(f"{name}\n" for name in names).encode()
    if file.read_labels(model_bytes) is not None:
        raise ValueError("`model_bytes` already contains class names.")
    contents = {file.LABELS_BUFFER: text, _STANDARD_BUFFER: _standard_description(model_bytes, pixels, names)}
    written = io.BytesIO(add_buffers(model_bytes, contents))
    with zipfile.ZipFile(written, "a") as archive:
        # A fixed date, so that the same network gives the same file.
        archive.writestr(zipfile.ZipInfo(file.LABELS_FILE), text)
    return written.getvalue()


def write_description(model_bytes: bytes, *, pixels: bool = True) -> bytes:
    """Adds the standard metadata to a TFLite file without class names, if it maps one image to one vector."""
    model = file.parse(model_bytes)
    main = model.Subgraphs(0)
    ends = [main.InputsAsNumpy().tolist(), main.OutputsAsNumpy().tolist()]
    if [[len(file.tensor_shape(model, each)) for each in end] for end in ends] != [[4], [2]]:
        return model_bytes
    return add_buffers(model_bytes, {_STANDARD_BUFFER: _standard_description(model_bytes, pixels)})


def add_buffers(data: bytes, contents: dict[str, bytes]) -> bytes:
    """Adds or replaces named metadata buffers of a TFLite file.

    The parts of a flatbuffer use relative offsets, so the old file is embedded unchanged as the last part. The new
    buffers and a new root table, which refers to the old parts, precede it. In contrast to unpacking and repacking,
    this keeps the alignment of the weights and any fields of newer converters.
    """
    builder = flatbuffers.Builder(2 * len(data))
    builder.Prep(_ALIGNMENT, len(data))
    # Offsets of a builder count from the end; the length prefix of a byte vector is not part of the old file.
    whole = builder.CreateByteVector(data) - 4
    root = flatbuffers.table.Table(data, struct.unpack_from("<I", data)[0])
    fields = {}
    for entry in range(_ENTRIES):
        place = root.Offset(4 + 2 * entry)
        if place and entry != _VERSION:
            fields[entry] = root.Indirect(root.Pos + place)
    buffers = [whole - position for position in _elements(root, fields[_BUFFERS])]
    metadata = [whole - position for position in _elements(root, fields.get(_METADATA))]
    model = schema.Model.GetRootAs(data)
    known = {entry.Name(): entry.Buffer() for entry in map(model.Metadata, range(model.MetadataLength()))}
    for name, content in contents.items():
        number = known.get(name.encode(), len(buffers))
        if number == len(buffers):
            metadata.append(_metadata(builder, name, number))
            buffers.append(0)
        buffers[number] = _buffer(builder, content)
    offsets = {entry: whole - position for entry, position in fields.items()}
    offsets |= {_BUFFERS: _vector(builder, buffers), _METADATA: _vector(builder, metadata)}
    builder.StartObject(_ENTRIES)
    builder.PrependUint32Slot(_VERSION, schema.Model.GetRootAs(data).Version(), 0)
    for entry, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(entry, offset, 0)
    builder.Finish(builder.EndObject(), file.IDENTIFIER)
    return bytes(builder.Output())


def _elements(table, vector):
    """Positions of the tables in a vector of them."""
    if vector is None:
        return []
    count = struct.unpack_from("<I", table.Bytes, vector)[0]
    return [table.Indirect(vector + 4 + 4 * index) for index in range(count)]


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


def _standard_description(model_bytes, pixels, names=None):
    """Describes the input as an image, if known of pixel values from 0 to 255, and the meaning of the output."""
    model = file.parse(model_bytes)
    channels = file.tensor_shape(model, model.Subgraphs(0).Inputs(0))[-1]
    builder = flatbuffers.Builder(1024)
    tensors = {2: _images(builder, channels, pixels), 3: _classes(builder, model, names)}
    graph = _table(builder, {field: _vector(builder, [tensor]) for field, tensor in tensors.items()})
    described = {
        0: builder.CreateString("classifier"),
        3: _vector(builder, [graph]),
        7: builder.CreateString(_MIN_PARSER_VERSION),
    }
    builder.Finish(_table(builder, described), _STANDARD_IDENTIFIER)
    return bytes(builder.Output())


def _images(builder, channels, pixels):
    properties = _table(builder, {}, {0: _COLOR_SPACES.get(channels, 0)})
    fields = {0: builder.CreateString("images"), 3: _table(builder, {1: properties}, {0: _IMAGE})}
    if pixels:
        # Pixel values are not changed: (value - 0) / 1.
        normalization = _table(builder, {0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
        unit = _table(builder, {1: normalization}, {0: _NORMALIZATION})
        fields |= {4: _vector(builder, [unit]), 5: _range(builder, 0.0, 255.0)}
    return _table(builder, fields)


def _classes(builder, model, names):
    head = file.head(model)
    fields = {0: builder.CreateString("classes"), 3: _table(builder, {1: _table(builder, {})}, {0: _FEATURE})}
    if file.final_activation(model) is not None:
        fields[5] = _range(builder, 0.0, 1.0)
    if names is not None:
        # A single sigmoid does not have one entry per class: the labels belong to its values 0 and 1.
        kind = _VALUE_LABELS if head.kind == "binary" else _AXIS_LABELS
        texts = {0: builder.CreateString(file.LABELS_FILE), 3: builder.CreateString(_LOCALE)}
        fields[6] = _vector(builder, [_table(builder, texts, {2: kind})])
    if head.kind in ("binary", "multilabel"):
        second, first = ("the second class", "the first") if names is None else (repr(names[1]), repr(names[0]))
        binary = f"{second} if above {THRESHOLD}, else {first}" if head.kind == "binary" else None
        fields[1] = builder.CreateString(binary or f"independent classes: present if above {THRESHOLD}")
        threshold = _table(builder, {}, floats={0: THRESHOLD})
        fields[4] = _vector(builder, [_table(builder, {1: threshold}, {0: _SCORE_THRESHOLDING})])
    return _table(builder, fields)


def _range(builder, low, high):
    """The statistics of a tensor: its maximum and minimum."""
    return _table(builder, {0: _floats(builder, [high]), 1: _floats(builder, [low])})


def _table(builder, offsets, numbers=None, floats=None):
    """A table from its fields: offsets of existing parts, one-byte numbers, and float32 numbers."""
    numbers, floats = numbers or {}, floats or {}
    builder.StartObject(1 + max([-1, *offsets, *numbers, *floats]))
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, number in floats.items():
        builder.PrependFloat32Slot(field, number, 0)
    for field, number in numbers.items():
        builder.PrependUint8Slot(field, number, 0)
    return builder.EndObject()


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, values):
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()
