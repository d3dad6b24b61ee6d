"""The description of a classifier in the standard form of TFLite metadata, which task libraries of phones read.

The standard is the flatbuffer schema "TFLite metadata", version 1. It has no generated Python code in the packages that
this one needs, so the few tables are written here by the numbers of their fields.
"""

import flatbuffers

BUFFER = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_MIN_PARSER_VERSION = "1.0.0"
# Members of the schema's unions and enumerations.
_IMAGE_PROPERTIES, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2
_COLOR_SPACES = {1: 2, 3: 1}


def classifier_metadata(input_shape, labels_file):
    """Says that the input is a picture of pixel values from 0 to 255 and the output has one entry a class.

    Args:
        input_shape: `(1, height, width, channels)`.
        labels_file: name of the file with the class names.

    Returns:
        Bytes of a flatbuffer.
    """
    builder = flatbuffers.Builder(1024)
    model = {
        0: builder.CreateString("classifier"),
        3: _vector(builder, [_classifier(builder, input_shape[-1], labels_file)]),
        7: builder.CreateString(_MIN_PARSER_VERSION),
    }
    builder.Finish(_table(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


def _classifier(builder, channels, labels_file):
    properties = _table(builder, {}, {0: _COLOR_SPACES.get(channels, 0)})
    content = _table(builder, {1: properties}, {0: _IMAGE_PROPERTIES})
    # Pixel values go in as they are: (value - 0) / 1.
    normalization = _table(builder, {0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
    unit = _table(builder, {1: normalization}, {0: _NORMALIZATION})
    stats = _table(builder, {0: _floats(builder, [255.0]), 1: _floats(builder, [0.0])})
    images = {0: builder.CreateString("images"), 3: content, 4: _vector(builder, [unit]), 5: stats}
    labels = _table(builder, {0: builder.CreateString(labels_file)}, {2: _AXIS_LABELS})
    classes = {0: builder.CreateString("classes"), 6: _vector(builder, [labels])}
    tensors = {2: [_table(builder, images)], 3: [_table(builder, classes)]}
    return _table(builder, {field: _vector(builder, tables) for field, tables in tensors.items()})


def _table(builder, offsets, numbers=None):
    """A table from its fields: offsets of parts already built, and numbers of one byte."""
    numbers = numbers or {}
    builder.StartObject(1 + max([*offsets, *numbers]))
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
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
