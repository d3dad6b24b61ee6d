"""The served model decodes image files as `decode_image` does, in all formats and modes, or rejects them."""

import contextlib
import functools
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from harness import slow_after

from keras_sharenets.cli.export import representative_images
from keras_sharenets.cli.predict import read_images
from keras_sharenets.images import decode_image
from keras_sharenets.mobile.export.decoding import decode
from keras_sharenets.training.data.sources import load

RANDOM = np.random.default_rng(0)
BLOCKS = RANDOM.integers(0, 256, (6, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
COLORS = PIL.Image.fromarray(BLOCKS)
GRAY = PIL.Image.fromarray(BLOCKS[..., 0])
DEEP = PIL.Image.fromarray(RANDOM.integers(0, 65536, (6, 8), np.uint16).repeat(4, 0).repeat(4, 1))
PALETTE = COLORS.quantize(32)


def translucent(image):
    image = image.copy()
    image.putalpha(PIL.Image.fromarray(RANDOM.integers(0, 256, image.size[::-1], np.uint8)))
    return image


def exif(orientation, order="<"):
    data = PIL.Image.Exif()
    data.endian = order
    data[0x010F] = "a maker before it"
    data[0x0112] = orientation
    return data.tobytes()


def png(depth, color, rows):
    """A PNG file that Pillow cannot write: `rows` are bytes of pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    width = len(rows[0]) // (channels * depth // 8)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def png_16_bit(color, channels):
    return png(16, color, [RANDOM.bytes(2 * 8 * channels) for _ in range(6)])


def with_sides(data, sides):
    """The file with `sides` in its header replaced by 40,000 pixels."""
    order = "<" if sides[0] == 32 else ">"
    depth, size = sides[: len(sides) % 2], "I" if len(sides) == 8 else "H"
    return data.replace(sides, depth + struct.pack(f"{order}{size}{size}", 40_000, 40_000))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "JPEG": encoded(COLORS, "JPEG"),
    "JPEG, 4:4:4": encoded(COLORS, "JPEG", subsampling=0),
    "JPEG, progressive": encoded(COLORS, "JPEG", progressive=True),
    "JPEG, gray": encoded(GRAY, "JPEG"),
    "JPEG, CMYK": encoded(COLORS.convert("CMYK"), "JPEG"),
    "PNG, RGB": encoded(COLORS, "PNG"),
    "PNG, RGBA": encoded(translucent(COLORS), "PNG"),
    "PNG, RGB with one transparent color": encoded(COLORS, "PNG", transparency=tuple(map(int, BLOCKS[0, 0]))),
    "PNG, gray": encoded(GRAY, "PNG"),
    "PNG, gray and alpha": encoded(translucent(GRAY), "PNG"),
    "PNG, 1 bit": encoded(COLORS.convert("1"), "PNG"),
    "PNG, palette": encoded(PALETTE, "PNG"),
    "PNG, palette of 4 bits": encoded(COLORS.quantize(8), "PNG", bits=4),
    "PNG, palette with a transparent color": encoded(PALETTE, "PNG", transparency=3),
    "PNG, palette with alpha": encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 8))),
    "PNG, gray of 16 bits": encoded(DEEP, "PNG"),
    "PNG, RGB of 16 bits": png_16_bit(2, 3),
    "PNG, gray and alpha of 16 bits": png_16_bit(4, 2),
    "PNG, RGBA of 16 bits": png_16_bit(6, 4),
    "WebP": encoded(COLORS, "WEBP"),
    "WebP, lossless": encoded(COLORS, "WEBP", lossless=True),
    "WebP, alpha": encoded(translucent(COLORS), "WEBP", lossless=True, exact=True),
    "BMP": encoded(COLORS, "BMP"),
    "BMP, 32 bits": encoded(translucent(COLORS), "BMP"),
    "BMP, palette": encoded(PALETTE, "BMP"),
    "BMP, gray": encoded(GRAY, "BMP"),
    "GIF": encoded(PALETTE, "GIF"),
    "GIF, gray": encoded(GRAY, "GIF"),
    "GIF, frames": encoded(PALETTE, "GIF", save_all=True, append_images=[COLORS.rotate(180).quantize(32)], loop=0),
    **{f"{kind}, orientation {o} {order}": encoded(COLORS, kind, exif=exif(o, order), **options)
       for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}))
       for o, order in zip(range(1, 9), "<><><><>", strict=True)},
    "JPEG, damaged EXIF": encoded(COLORS, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
}  # fmt: skip
REFUSED = {
    "TIFF": (encoded(COLORS, "TIFF"), "TIFF"),
    "PGM": (encoded(GRAY, "PPM"), "PGM"),
    "GIF, transparent": (encoded(PALETTE, "GIF", transparency=3), "GIF file whose first frame is transparent"),
    "BMP, 1 bit": (encoded(COLORS.convert("1"), "BMP"), "BMP file .* other than 8, 24 or 32 bits"),
    "WebP, animation": (encoded(COLORS, "WEBP", save_all=True, append_images=[COLORS.rotate(180)]), "WebP animation"),
    "text": (b"no image", "a file of an unknown kind"),
    "nothing": (b"", "a file of an unknown kind"),
    "JPEG, bomb": (
        with_sides(encoded(COLORS, "JPEG"), b"\x08" + struct.pack(">HH", 24, 32)),
        "more than 89,478,485 pixels",
    ),
    "PNG, bomb": (with_sides(encoded(COLORS, "PNG"), struct.pack(">II", 32, 24)), "more than 89,478,485 pixels"),
    "GIF, bomb": (with_sides(encoded(PALETTE, "GIF"), struct.pack("<HH", 32, 24)), "more than 89,478,485 pixels"),
    "BMP, bomb": (with_sides(encoded(COLORS, "BMP"), struct.pack("<II", 32, 24)), "more than 89,478,485 pixels"),
}


@pytest.fixture(scope="module")
def served():
    """The decoding graph of a SavedModel, for the size of the files and for gray images of another size."""
    specification = [tf.TensorSpec((), tf.string)]
    shapes = ((24, 32, 3), (7, 9, 1))
    return {
        shape: tf.function(functools.partial(decode, shape=shape), input_signature=specification, autograph=False)
        for shape in shapes
    }


@pytest.mark.parametrize("name", FILES)
def test_decoding_matches_decode_image(served, name):
    data = FILES[name]
    for shape, read in served.items():
        found, expected = read(data).numpy(), decode_image(data, shape).astype(int)
        assert np.ptp(expected) > 20
        # Pillow rounds after resizing each axis, TensorFlow only once.
        np.testing.assert_allclose(found, expected, atol=1, err_msg=str(shape))


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_files_are_rejected(served, name):
    data, message = REFUSED[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"`encoded` must be files of.*{message}"):
        served[24, 32, 3](data)


@pytest.mark.parametrize(
    "name", ["JPEG", "JPEG, progressive", "PNG, RGB", "PNG, gray of 16 bits", "WebP", "BMP", "GIF"]
)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_files_are_rejected_by_both(served, name, share):
    data = FILES[name][: int(share * len(FILES[name]))]
    with pytest.raises(ValueError, match="is not an image that can be read"):
        decode_image(data, (24, 32, 3))
    message = rf"with index\] \[0\] \[is\] \[a {name.partition(',')[0]} file that is truncated"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served[24, 32, 3](data)


# Whether a corrupted file is readable depends on the format: PNG has checksums, the pixels of BMP have none.
@pytest.mark.parametrize("name", slow_after(2, ["PNG, RGB", "GIF", "JPEG", "JPEG, progressive", "WebP", "BMP"]))
def test_corrupted_files_are_decoded_or_rejected_by_index(served, name):
    random, refusals = np.random.default_rng(0), []
    for first, share in ((1, 0.1), (1, 0.5), (8, 0.9)):
        data = np.frombuffer(FILES[name], np.uint8).copy()
        places = np.arange(first, int(share * len(data)), 7)
        data[places] = random.integers(0, 256, len(places))
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            served[24, 32, 3](data.tobytes())
            continue
        with pytest.raises(tf.errors.InvalidArgumentError) as refusal:
            served[24, 32, 3](data.tobytes())
        refusals.append(str(refusal.value))
    assert all("with index] [0] [is] [" in refusal for refusal in refusals)
    assert refusals or name == "BMP"


def test_end_of_a_thumbnail_is_not_the_end_of_the_image(served):
    data = encoded(COLORS, "JPEG", exif=exif(1) + encoded(GRAY, "JPEG"))
    served[24, 32, 3](data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a JPEG file that is truncated or damaged"):
        served[24, 32, 3](data[:-200])


def test_training_calibration_and_prediction_decode_alike(tmp_path):
    """All of them equal `decode_image`, with which the served model is compared."""
    suffixes = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "WebP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
    for folder in ("ant", "bee"):
        (tmp_path / folder).mkdir()
        for number, (name, data) in enumerate(FILES.items()):
            (tmp_path / folder / f"{number:02}{suffixes[name.partition(',')[0]]}").write_bytes(data)
    paths = sorted((tmp_path / "ant").iterdir())
    for shape in ((24, 32, 3), (7, 9, 1)):
        expected = np.stack([decode_image(data, shape) for data in FILES.values()])
        dataset = load(tmp_path, input_shape=shape)
        images = {path: image for part in (dataset.train, dataset.test) for path, image in read_all(part)}
        np.testing.assert_array_equal([images[path] for path in paths], expected)
        np.testing.assert_array_equal(representative_images(str(tmp_path / "ant"), shape, 100), expected)
        np.testing.assert_array_equal(read_images(paths, shape), expected)


def read_all(part):
    return zip(part.paths, part.pixels(np.arange(len(part))), strict=True)
