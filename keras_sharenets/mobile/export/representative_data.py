"""The images that a user gives to calibrate and to compare with: taken from whatever holds them, as one array."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

# Where a source of batches is left, which may be endless: a few hundred images are enough to measure ranges.
MOST_IMAGES = 1000


def gather_images(name: str, data: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Images from an array, or from whatever gives images or batches, as one array of numbers.

    Args:
        name: name of the argument, for messages.
        data: array `(n, height, width, channels)`; or an iterable of such arrays or of single images, such as a list, a
            generator, a `tf.data.Dataset` or a `keras.utils.PyDataset`; or a function without arguments that gives an
            iterable. Labels are left out where it gives `(images, labels)`, and `[images]` is what TFLite's converter
            takes. What is no list is read up to `MOST_IMAGES` images; a `UserWarning` says that there are more.
        shape: `(height, width, channels)` that each must have.

    Returns:
        An array `(n, height, width, channels)`.

    Raises:
        ValueError: there is nothing in it, or something that is no image of that shape and made of finite numbers.

    >>> pairs = [(np.zeros((2, 4, 4, 3)), np.zeros(2))] * 3
    >>> gather_images("images", pairs, (4, 4, 3)).shape
    (6, 4, 4, 3)
    """
    data = _called(name, data)
    if isinstance(data, dict):
        raise ValueError(f"`{name}` must hold images, is a dict with the keys {_keys(data)}: give one of its entries.")
    if _is_array(data) or _is_pair(data):
        data = [data]
    if isinstance(data, (str, bytes)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise ValueError(f"`{name}` (={data!r}) must be an array of images or an iterable of such arrays.")
    parts: list[np.ndarray] = []
    count = 0
    for place, part in enumerate(data):
        if not isinstance(data, (list, tuple)) and max(place, count) >= MOST_IMAGES:
            warnings.warn(
                f"`{name}` gives more than {MOST_IMAGES:,} images, or has no end: the first {count:,} are used.",
                stacklevel=3,
            )
            break
        parts.append(_image_batch(name, part, shape))
        count += len(parts[-1])
    if not count:
        raise ValueError(f"`{name}` holds no images.")
    return np.concatenate(parts)


def _called(name: str, data: Any) -> Any:
    """What a function gives; anything else as it is."""
    if not callable(data) or hasattr(data, "__iter__"):
        return data
    try:
        return data()
    except TypeError as error:
        raise ValueError(f"`{name}` (={data!r}) is a function that cannot be called by itself: {error}") from error


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") and hasattr(data, "shape")


def _is_pair(part: Any) -> bool:
    """Whether it is images with something beside them that is none: labels, and perhaps weights."""
    if not isinstance(part, (list, tuple)) or len(part) not in (2, 3) or _is_image(part[1]):
        return False
    return isinstance(part[0], dict) or _is_image(part[0])


def _is_image(value: Any) -> bool:
    return _is_array(value) and len(value.shape) in (3, 4)


def _keys(data: dict) -> str:
    return ", ".join(map(repr, data))


def _image_batch(name: str, part: Any, shape: tuple[int, int, int]) -> np.ndarray:
    expected = ", ".join(map(str, shape))
    if isinstance(part, (tuple, list)) and (len(part) == 1 or _is_pair(part)):
        part = part[0]
    if isinstance(part, dict):
        raise ValueError(
            f"`{name}` must give arrays ({expected}) or (n, {expected}), gave a dict with the keys {_keys(part)}: map"
            f" it to the entry that holds the images."
        )
    if isinstance(part, (tuple, list)):
        if part and all(map(_is_image, part)):
            return np.concatenate([_image_batch(name, image, shape) for image in part])
        raise ValueError(
            f"`{name}` must give arrays ({expected}) or (n, {expected}), alone or with labels behind them as in"
            f" (images, labels), gave a {type(part).__name__} of {len(part)} entries that is neither."
        )
    values = np.asarray(part)
    if values.dtype.kind not in "uif":
        raise ValueError(f"`{name}` must hold numbers, holds {values.dtype}.")
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1:] != tuple(shape):
        raise ValueError(f"`{name}` must hold images of shape ({expected}), holds an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` holds numbers that are not finite.")
    return values
