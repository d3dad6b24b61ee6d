"""TensorFlow graph that decodes image files in a SavedModel with the same results as `keras_sharenets.images`.

A server has no Pillow, so the graph detects the file type itself. It corrects the differences between TensorFlow's
decoders and Pillow (16-bit grayscale PNG files, BMP palettes, EXIF orientation). For differences that it cannot
correct, it raises an error that names the kind of file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

_LUMA = (0.299, 0.587, 0.114)
_ORIENTATION_TAG, _SHORT = 0x0112, 3
_UNKNOWN = "a file of an unknown kind"
# Magic bytes of each kind of file (a dot is any byte), and whether the graph can decode it.
_KINDS = (
    ("JPEG", b"\xff\xd8\xff", True),
    ("PNG", b"\x89PNG\r\n\x1a\n", True),
    ("WebP", b"RIFF....WEBP", True),
    ("BMP", b"BM", True),
    ("GIF", b"GIF8", True),
    ("TIFF", b"II*\0", False),
    ("TIFF", b"MM\0*", False),
    ("HEIC or AVIF", b"....ftyp", False),
    ("PGM", b"P5", False),
    ("PPM", b"P6", False),
)
READ = tuple(name for name, _, read in _KINDS if read)


@tf.autograph.experimental.do_not_convert
def decode(data: tf.Tensor, shape: tuple[int, int, int], index: tf.Tensor | int = 0) -> tf.Tensor:
    """Decodes an image file of a kind in `READ`, turns it upright, and resizes it to `shape`.

    The graph fails, with the index and kind of the file, for other kinds; for images with more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS` at the time when the graph was built; for BMP files with compression or with other than
    8, 24 or 32 bits; for GIF files whose first frame is transparent or does not fill the image; for WebP animations;
    and for truncated or damaged files that TensorFlow's decoders reject. A server with an older TensorFlow rejects WebP
    with the same message.

    Args:
        data: string tensor with one file.
        shape: `(height, width, channels)` of the image, with 1 or 3 channels.
        index: scalar, index of the file in its batch, for messages.

    Returns:
        A float32 tensor of that shape with integers from 0 to 255.
    """
    content = _Bytes(data, index)
    kind = _kind(content)
    decoders = (_decode_jpeg, _decode_png, _decode_webp, _decode_bmp, _decode_gif)
    branches = [lambda decoder=decoder: decoder(content) for decoder in decoders]
    image = _upright(content, *tf.switch_case(kind, branches))
    if shape[-1] == 1:
        image = tf.round(tf.reduce_sum(image * _LUMA, axis=-1, keepdims=True))
    image = tf.image.resize(image, shape[:2], antialias=True)
    return tf.ensure_shape(tf.clip_by_value(tf.round(image), 0, 255), shape)


class _Bytes:
    """The bytes of a file as numbers. Positions beyond the end read as the last byte, 0."""

    def __init__(self, data: tf.Tensor, index: tf.Tensor | int) -> None:
        self.data, self.index = data, index
        self.values = tf.concat([tf.io.decode_raw(data, tf.uint8), [0]], 0)
        self.size = tf.size(self.values, tf.int64)

    def number(self, place: tf.Tensor | int, count: int, little: tf.Tensor | bool = False) -> Any:
        """The unsigned integer in `count` bytes, big-endian unless `little`, at one position or several."""
        place, greatest_last = tf.convert_to_tensor(place, tf.int64), 256 ** np.arange(count)
        found = _numbers(self.values, place, tf.where(little, greatest_last, greatest_last[::-1]))
        return tf.ensure_shape(found, place.shape)

    def has(self, place: tf.Tensor | int, text: bytes) -> Any:
        """Whether `text` occurs at a position; a dot matches any byte."""
        return _stands(self.values, tf.convert_to_tensor(place, tf.int64), tf.constant(np.frombuffer(text, np.uint8)))


# Separate functions, so that the graph, which reads at dozens of positions, contains them once.
_ANY: Any = None  # An unknown number of axes.
_VALUES, _PLACES = tf.TensorSpec([None], tf.uint8), tf.TensorSpec(_ANY, tf.int64)


@tf.function(autograph=False, input_signature=[_VALUES, _PLACES, tf.TensorSpec([None], tf.int64)])
def _numbers(values: tf.Tensor, place: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    places = tf.expand_dims(place, -1) + tf.range(tf.size(weights, tf.int64))
    found = tf.gather(values, tf.clip_by_value(places, 0, tf.size(values, tf.int64) - 1))
    return tf.reduce_sum(tf.cast(found, tf.int64) * weights, axis=-1)


@tf.function(autograph=False, input_signature=[_VALUES, tf.TensorSpec((), tf.int64), _VALUES])
def _stands(values: tf.Tensor, place: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    places = place + tf.range(tf.size(wanted, tf.int64))
    found = tf.gather(values, tf.clip_by_value(places, 0, tf.size(values, tf.int64) - 1))
    return tf.reduce_all((found == wanted) | (wanted == ord(".")))


def _checked(content: _Bytes, value: tf.Tensor, condition: tf.Tensor, what: str | tf.Tensor) -> tf.Tensor:
    """The value, with a control dependency that makes the graph fail if the condition is false."""
    message = [
        "`encoded` must be files of",
        ", ".join(READ),
        "that can be decoded; the one with index",
        content.index,
        "is",
        what,
    ]
    check = tf.debugging.Assert(condition, message)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(value)


def _kind(content: _Bytes) -> tf.Tensor:
    """The index of the kind of the file in `READ`."""
    matches = tf.stack([content.has(0, start) for _, start, _ in _KINDS])
    found = tf.where(tf.reduce_any(matches), tf.argmax(matches), len(_KINDS))
    names = [name for name, _, _ in _KINDS] + [_UNKNOWN]
    return _checked(content, tf.cast(found, tf.int32), found < len(READ), tf.gather(names, found))


def _decoded(content: _Bytes, data: tf.Tensor, kind: str, decoder: Callable[..., Any], **options: Any) -> Any:
    """Runs a TensorFlow decoder with its options; if it fails, the error names the file.

    The error of a decoder itself does not say which file of the batch failed. Inside a `tf.data.Dataset`, an error can
    be skipped, which leaves the next element, an empty one.
    """

    @tf.autograph.experimental.do_not_convert
    def decode_one(file):
        return decoder(file, **options), True

    decoded: Any = tf.data.Dataset.from_tensors(data).map(decode_one)
    specification, _ = decoded.element_spec
    nothing = tf.zeros([side or 0 for side in specification.shape], specification.dtype), False
    decoded = decoded.ignore_errors().concatenate(tf.data.Dataset.from_tensors(nothing))
    result, sound = decoded.take(1).get_single_element()
    return _checked(content, result, sound, f"a {kind} file that is truncated or damaged")


def _of_size(content: _Bytes, data: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The file, after a check before decoding that its image is not too large for the memory."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is None:
        return data
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return _checked(content, data, pixels <= limit, f"an image of more than {limit:,} pixels")


# One decoder for each of `READ`; it returns a float32 image with 3 channels and the start of its EXIF data, or 0


def _decode_jpeg(content: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    sides = _decoded(content, content.data, "JPEG", tf.image.extract_jpeg_shape)
    data = _of_size(content, content.data, sides[0], sides[1])
    # Only this operation supports the exact inverse transform, which Pillow uses.
    image = _decoded(content, data, "JPEG", tf.io.decode_jpeg, channels=3, dct_method="INTEGER_ACCURATE")

    def segment(place):
        marker = content.number(place + 1, 1)
        found = (marker == 0xE1) & content.has(place + 4, b"Exif\0\0")
        last = (marker == 0xDA) | (content.number(place, 1) != 0xFF)
        return found, place + 10, tf.where(last, content.size, place + 2 + content.number(place + 2, 2))

    return tf.cast(image, tf.float32), _find(content, 2, segment)


def _decode_png(content: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    data = _of_size(content, content.data, content.number(20, 4), content.number(16, 4))

    def deep_gray():
        image = _decoded(content, data, "PNG", tf.io.decode_png, channels=1, dtype=tf.uint16)
        return tf.repeat(tf.round(tf.cast(image, tf.float32) / 257), 3, axis=-1)

    def other():
        return tf.cast(_decoded(content, data, "PNG", tf.io.decode_png, channels=3), tf.float32)

    def chunk(place):
        return content.has(place + 4, b"eXIf"), place + 8, place + 12 + content.number(place, 4)

    # 16-bit grayscale without transparency. For 16-bit colors, Pillow also takes the upper 8 bits.
    return tf.cond(content.has(24, b"\x10\0"), deep_gray, other), _find(content, 8, chunk)


def _decode_webp(content: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    extended, flags = content.has(12, b"VP8X"), content.number(20, 1)
    data = _checked(content, content.data, ~extended | (flags // 2 % 2 == 0), "a WebP animation")
    # Width and height in lossless and lossy files; extended files store them minus 1.
    packed = content.number(21, 4, little=True)
    lossless, lossy = (
        (packed % 2**14 + 1, packed // 2**14 % 2**14 + 1),
        (content.number(26, 2, True), content.number(28, 2, True)),
    )
    is_lossless = content.has(12, b"VP8L")
    width, height = (tf.where(is_lossless, one, other % 2**14) for one, other in zip(lossless, lossy, strict=True))
    canvas = [content.number(place, 3, little=True) + 1 for place in (24, 27)]
    data = _of_size(content, data, tf.where(extended, canvas[1], height), tf.where(extended, canvas[0], width))
    # The fourth channel is transparency.
    image = _decoded(content, data, "WebP", tf.io.decode_image, expand_animations=False)[..., :3]

    def chunk(place):
        length = content.number(place + 4, 4, little=True)
        return content.has(place, b"EXIF"), place + 8, place + 8 + length + length % 2

    return tf.cast(image, tf.float32), _find(content, 12, chunk)


def _decode_bmp(content: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    header, bits = content.number(14, 4, little=True), content.number(28, 2, little=True)
    known = (header >= 40) & (content.number(30, 4, little=True) == 0) & tf.reduce_any([bits == n for n in (8, 24, 32)])
    data = _checked(content, content.data, known, "a BMP file with compression, or of other than 8, 24 or 32 bits")
    height, width = content.number(22, 4, little=True), content.number(18, 4, little=True)
    height = tf.minimum(height, 2**32 - height)  # A negative height means that the first row is the top.
    data = _of_size(content, data, height, width)
    image = tf.cast(_decoded(content, data, "BMP", tf.io.decode_bmp), tf.int64)

    def palette():
        places = 14 + header + 4 * image[..., 0]
        return tf.stack([content.number(places + channel, 1) for channel in (2, 1, 0)], -1)

    colors = tf.cond(bits == 8, palette, lambda: image[..., :3])
    return tf.cast(colors, tf.float32), tf.constant(0, tf.int64)


def _decode_gif(content: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    flags = content.number(10, 1)
    table = tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), 0)

    # Extensions, each a sequence of length-prefixed blocks, precede the first frame.
    def step(place, inside, transparent):
        length = content.number(place, 1)
        control = ~inside & content.has(place, b"\x21\xf9")
        transparent |= control & (content.number(place + 3, 1) % 2 == 1)
        return tf.where(inside, place + length + 1, place + 2), ~inside | (length != 0), transparent

    def goes_on(place, inside, transparent):
        return (place < content.size) & (inside | (content.number(place, 1) == 0x21))

    place, _, transparent = tf.while_loop(goes_on, step, (13 + table, tf.constant(False), tf.constant(False)))
    sides = [content.number(start, 2, little=True) for start in (6, 8)]
    frame = [content.number(place + start, 2, little=True) for start in (1, 3, 5, 7)]
    whole = tf.reduce_all([frame[0] == 0, frame[1] == 0, frame[2] == sides[0], frame[3] == sides[1]])
    sound = whole & ~transparent
    data = _checked(
        content, content.data, sound, "a GIF file whose first frame is transparent or does not fill the image"
    )
    data = _of_size(content, data, sides[1], sides[0])
    image = _decoded(content, data, "GIF", tf.io.decode_image, channels=3, expand_animations=False)
    return tf.cast(image, tf.float32), tf.constant(0, tf.int64)


# Orientation


def _find(
    content: _Bytes, first: int, part: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
) -> tf.Tensor:
    """Start of the EXIF data; 0 if there are none.

    Args:
        content: the file.
        first: start of its first part.
        part: function of the start of a part that returns whether it is EXIF data, their start, and the start of the
            next part.
    """

    def step(place, _):
        found, start, following = part(place)
        return following, tf.where(found, start, 0)

    begin = (tf.constant(first, tf.int64), tf.constant(0, tf.int64))
    return tf.while_loop(lambda place, start: (start == 0) & (place < content.size), step, begin)[1]


def _orientation(content: _Bytes, start: tf.Tensor) -> Any:
    """The orientation in the EXIF data that begin at `start`: 1, upright, if they are missing or damaged."""
    start = tf.where(content.has(start, b"Exif\0\0"), start + 6, start)
    little = content.number(start, 1) == ord("I")
    directory = start + content.number(start + 4, 4, little)
    entries = directory + 2 + 12 * tf.range(tf.minimum(content.number(directory, 2, little), 1000))
    right = (content.number(entries, 2, little) == _ORIENTATION_TAG) & (
        content.number(entries + 2, 2, little) == _SHORT
    )
    places = tf.boolean_mask(entries, right & (entries + 12 <= content.size))
    there = (start > 0) & (content.number(start + 2, 2, little) == 42) & (tf.size(places) > 0)
    found = tf.cond(there, lambda: content.number(places[0] + 8, 2, little), lambda: tf.constant(1, tf.int64))
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _upright(content: _Bytes, image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """The image rotated and flipped according to its EXIF data: 5 to 8 are transposed, 2, 3 and 3, 4 are flipped."""
    index = _orientation(content, exif) - 1
    image = tf.cond(index >= 4, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond((index % 4 == 1) | (index % 4 == 2), lambda: image[:, ::-1], lambda: image)
    return tf.cond(index % 4 >= 2, lambda: image[::-1], lambda: image)
