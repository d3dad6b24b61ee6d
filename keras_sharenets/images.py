"""Images from files as the networks expect them: arrays of pixel values from 0 to 255.

Training, calibration and prediction all read images with this module. The served model, which must decode images with
TensorFlow operations, is tested to agree (`mobile/export/decoding.py`).
"""

from __future__ import annotations

import collections
import io
import os
import pathlib
from typing import BinaryIO

import numpy as np
import PIL.Image

from keras_sharenets._types import Shape

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
# Files created by file managers and network drives, in lower case. Names that begin with a dot are ignored as well.
# fmt: off
JUNK_NAMES = frozenset((
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle",
    "#recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found",
))
# fmt: on
_Turn = PIL.Image.Transpose
# The operation that makes an image upright, for each EXIF orientation.
TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
_EXIF_ORIENTATION, _TIFF_BITS, _TIFF_PHOTOMETRIC = 0x0112, 258, 262


def with_unknown_sides(shape: Shape) -> Shape:
    """The shape of images for a given one: `(0, 0, channels)` stands for images of any size.

    >>> with_unknown_sides((0, 0, 3)), with_unknown_sides((32, 48, 1))
    ((None, None, 3), (32, 48, 1))
    """
    return (None, None, shape[-1]) if tuple(shape[:2]) == (0, 0) else tuple(shape)


def read_image(path: str | os.PathLike, shape: Shape) -> np.ndarray:
    """Reads an image, rotates it according to its EXIF data, and resizes it to `shape` if its size differs.

    For an animation, the first frame is read. Transparency is ignored, and the underlying color is kept. 16-bit values
    are scaled to 8 bits by `255 / 65535` (12-bit values by `255 / 4095`) and rounded. 32-bit values raise an error,
    since their white level is unknown.

    Args:
        path: file in any format that Pillow reads.
        shape: `(height, width, channels)` with 1 (gray) or 3 (RGB) channels; a height or width of `None` keeps that of
            the image.

    Returns:
        A uint8 array of that shape.

    Raises:
        ValueError: the file is missing, is not an image, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`; or
            `shape` does not have 1 or 3 channels.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    return _read(path, shape, path)


def decode_image(data: bytes, shape: Shape, *, name: object = "`data`") -> np.ndarray:
    """Like `read_image`, for the content of a file; `name` is used in messages."""
    return _read(io.BytesIO(data), shape, name)


def _read(file: str | os.PathLike | BinaryIO, shape: Shape, name: object) -> np.ndarray:
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"`shape` (={shape}) must have 1 or 3 channels.")
    try:
        with PIL.Image.open(file) as opened:
            _check_size(opened)
            image = _to_8_bits(opened)
            image.load()
            image.info.pop("transparency", None)  # Pillow would warn that it is dropped.
            mode = "L" if channels == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)  # `convert` always copies.
            turn = TURNS.get(_orientation(opened.info.get("exif", b"")))
    # For damaged files, Pillow raises many kinds of errors: OSError, SyntaxError, struct.error, KeyError ...
    except Exception as error:
        raise ValueError(f"{name} is not an image that can be read: {str(error) or type(error).__name__}") from error
    image = image if turn is None else image.transpose(turn)
    size = (width or image.width, height or image.height)
    if size != image.size:
        image = image.resize(size, PIL.Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(size[1], size[0], channels)


def _check_size(image: PIL.Image.Image) -> None:
    """Raises a `ValueError` for a small file that would fill the memory, before it is decoded."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"its {image.width} x {image.height} pixels exceed {limit:,} (`PIL.Image.MAX_IMAGE_PIXELS`): resize it"
        )


def _to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scales gray images of more than 8 bits, which Pillow would clip, and converts LAB to RGB."""
    # Pillow reads a 16-bit PGM file as 32-bit values, scaled to 0..65535.
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):
        if image.mode in ("I", "F"):
            raise ValueError(f"its pixels have 32 bits (mode {image.mode!r}): save it with 8 or 16 bits")
        # Pillow converts LAB only to RGB.
        return image.convert("RGB") if image.mode == "LAB" else image
    tags = getattr(image, "tag_v2", {})
    top = 2 ** tags.get(_TIFF_BITS, (16,))[0] - 1
    values = (np.asarray(image).astype(np.uint32) * 255 + top // 2) // top
    # Among TIFF files whose lowest value is white, Pillow inverts only those with 8 bits.
    return PIL.Image.fromarray((255 - values if tags.get(_TIFF_PHOTOMETRIC) == 0 else values).astype(np.uint8))


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data; 1 (upright) if the data are missing or damaged."""
    found = PIL.Image.Exif()
    try:
        found.load(exif)
        return found.get(_EXIF_ORIENTATION, 1)
    except Exception:  # The image itself may be intact.
        return 1


def is_junk(name: str) -> bool:
    """Whether a file or folder name is hidden or created by a file manager, and thus never data."""
    return name.startswith(".") or name.lower() in JUNK_NAMES


def subfolders(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The folders in `folder`, including links, sorted, without those of `is_junk`."""
    with os.scandir(folder) as entries:  # Finds the folders among a million files without a call per file.
        names = sorted(entry.name for entry in entries if entry.is_dir() and not is_junk(entry.name))
    return [pathlib.Path(folder, name) for name in names]


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Up to `count` evenly spaced indices from 0 to `total - 1`, including both ends.

    >>> evenly_spaced(10, count=4)
    array([0, 3, 6, 9])
    """
    return np.linspace(0, total - 1, min(count, total)).astype(int)


def find_images(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The image files below `folder`, recognized by suffix, sorted; links to folders are followed."""
    return list_images(folder)[0]


def list_images(folder: str | os.PathLike) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """The image files below `folder`, sorted, and the number of skipped files by reason."""
    images, left_out, waiting = [], collections.Counter(), [pathlib.Path(folder)]
    # A link may point to a parent folder, or to images that are already listed.
    visited = set(map(str, waiting[0].resolve().parents))
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in visited:
            continue
        visited.add(real)
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = place / entry.name
                if is_junk(entry.name):
                    left_out["hidden or left behind by a file manager"] += 1
                elif entry.is_dir():
                    waiting.append(path)
                elif not entry.is_file():
                    left_out["broken links"] += 1
                elif path.suffix.lower() not in SUFFIXES:
                    left_out[f"files of another kind: {path.suffix.lower() or 'no suffix'}"] += 1
                else:
                    images.append(path)
    return sorted(images), left_out
