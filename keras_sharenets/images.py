"""Images from files, as the networks take them: arrays of pixel values from 0 to 255."""

import os
import pathlib

import numpy as np
import PIL.Image

from keras_sharenets._types import Shape

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def read_image(path: str | os.PathLike, shape: Shape) -> np.ndarray:
    """One image, resized to `shape` when it has another size.

    Args:
        path: file of any format that Pillow reads.
        shape: `(height, width, channels)` with 1 (gray) or 3 (RGB) channels; a height or width of `None` keeps the
            image's own.

    Returns:
        A uint8 array of that shape.

    Raises:
        ValueError: the file is missing, or is no image, or `shape` has neither 1 nor 3 channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"`shape` (={shape}) must have 1 or 3 channels.")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with PIL.Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that can be read: {error}") from error
    size = (width or image.width, height or image.height)
    if size != image.size:
        image = image.resize(size, PIL.Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(size[1], size[0], channels)


def find_images(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The image files anywhere below `folder`, by their suffix, sorted."""
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
