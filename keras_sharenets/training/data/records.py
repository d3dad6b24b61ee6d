"""TFRecord files as TensorFlow Datasets writes them, read at any place, without TensorFlow.

A record is its length (8 bytes, and 4 of a checksum), then a `tf.train.Example` in protocol buffers' encoding, then 4
bytes of a checksum. Files are mapped into memory: of a record, only what is asked for is read from the disk.
"""

import functools
import io
import mmap
import pathlib
import struct
import typing

import numpy as np
import PIL.Image

_LENGTH, _CHECKSUM = 8, 4


class Record(typing.NamedTuple):
    """Where one example lies."""

    path: str
    start: int
    length: int

    def __str__(self):
        return f"the record at byte {self.start} of {self.path}"


def find_records(path):
    """All records of a file, in order.

    Raises:
        ValueError: the file ends in the middle of a record.
    """
    size, start, records = pathlib.Path(path).stat().st_size, 0, []
    if not size:
        return records
    data = _mapped(str(path))
    while start < size:
        body = start + _LENGTH + _CHECKSUM
        length = struct.unpack_from("<Q", data, start)[0] if body <= size else size
        if body + length + _CHECKSUM > size:
            raise ValueError(f"{path} ends in the middle of a record")
        records.append(Record(str(path), body, length))
        start = body + length + _CHECKSUM
    return records


def read_feature(record, name):
    """One feature of an example: the bytes of its first string, or its first integer.

    Raises:
        ValueError: there is no such feature, or the example is damaged.
    """
    with memoryview(_mapped(record.path)) as data:
        try:
            for number, features in _fields(data[record.start : record.start + record.length]):
                for entry in (part for key, part in _fields(features) if number == key == 1):
                    key, value = (dict(_fields(entry)).get(number) for number in (1, 2))
                    if bytes(key) == name.encode():
                        return _first(value)
        except (IndexError, ValueError, TypeError) as error:
            raise ValueError(f"{record} is damaged: {error}") from error
    raise ValueError(f"{record} has no feature {name!r}.")


def read_record_picture(record, shape, name="image"):
    """The picture in a record, as `keras_sharenets.images.read_image` gives one, in its own size.

    Raises:
        ValueError: it cannot be read.
    """
    data = read_feature(record, name)
    try:
        with PIL.Image.open(io.BytesIO(data)) as file:
            picture = file.convert("L" if shape[-1] == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{record} is not an image that can be read: {error}") from error
    size = (shape[1] or picture.width, shape[0] or picture.height)
    if size != picture.size:
        picture = picture.resize(size, PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(size[1], size[0], shape[-1])


@functools.cache
def _mapped(path):
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _first(feature):
    """The first value of a `tf.train.Feature`: bytes (field 1) or integers (field 3), packed or not."""
    for kind, values in _fields(feature):
        for _, value in _fields(values):
            if kind == 1:
                return bytes(value)
            number = value if isinstance(value, int) else _varint(value, 0)[0]
            return number - (1 << 64) if number >> 63 else number
    raise ValueError("an empty feature")


def _fields(data):
    """`(number, value)` of the fields of a message: integers, or views of what has a length."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        if tag & 7 == 0:
            value, place = _varint(data, place)
        elif tag & 7 == 2:
            length, place = _varint(data, place)
            value, place = data[place : place + length], place + length
        else:
            raise ValueError(f"a field of the kind {tag & 7}")
        yield tag >> 3, value


def _varint(data, place):
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
