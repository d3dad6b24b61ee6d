"""Images for calibration and verification: user-supplied ones, as arrays, and synthetic ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sharenets._types import Shape

# Maximum number of images from a possibly endless source: a few hundred are enough to measure ranges.
MOST_IMAGES = 1000
# Enough to detect a wrong file, few enough to run one by one quickly.
VERIFICATION_IMAGES = 64
SYNTHETIC_IMAGES = 16
# Number of calibration images, and of other images, on which a graph is checked before quantization.
_CHECKED = 8


def gather_inputs(name: str, data: Any, shapes: dict[str, Shape]) -> tuple[np.ndarray, ...]:
    """Collects examples for a network with any number of inputs, as an array `(n, ...)` for each.

    Args:
        name: name of the argument, for messages.
        data: for one input, as in [`gather_images`]. For several, a dict from input names to arrays `(n, ...)`, or a
            tuple or list of such arrays in the order of the inputs; or an iterable, or a function that returns one, of
            such dicts, tuples or lists, each with one example or a batch.
        shapes: shape of one example by input name.

    Raises:
        ValueError: as [`gather_images`]; or an input is missing, or the inputs have different numbers of examples.

    >>> data = {"left": np.zeros((2, 4, 4, 3)), "right": np.zeros((2, 5))}
    >>> [array.shape for array in gather_inputs("data", data, {"left": (4, 4, 3), "right": (5,)})]
    [(2, 4, 4, 3), (2, 5)]
    """
    if len(shapes) == 1:
        return (gather_images(name, data, *shapes.values()),)
    data = _called(name, data)
    whole = isinstance(data, dict)
    if isinstance(data, (list, tuple)) and len(data) == len(shapes):
        pairs = zip(data, shapes.values(), strict=True)
        whole = all(_is_array(part) and len(part.shape) > len(shape) for part, shape in pairs)
    if not whole and not hasattr(data, "__iter__"):
        raise ValueError(f"`{name}` (={data!r}) must contain an array for each of the inputs {_keys(shapes)}.")
    parts, count = [], 0
    for part in [data] if whole else data:
        parts.append(_example_batch(name, part, shapes))
        count += len(parts[-1][0])
        if count >= MOST_IMAGES and not isinstance(data, (dict, list, tuple)):
            break
    if not count:
        raise ValueError(f"`{name}` contains no examples.")
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _example_batch(name, part, shapes):
    """One example or a batch as an array for each input."""
    if isinstance(part, (list, tuple)) and part and isinstance(part[0], (dict, list, tuple)):
        part = part[0]  # Labels follow it.
    if isinstance(part, dict):
        if set(part) != set(shapes):
            raise ValueError(f"`{name}` must have the inputs {_keys(shapes)}, but has {_keys(part)}.")
        part = [part[key] for key in shapes]
    if not isinstance(part, (list, tuple)) or len(part) != len(shapes):
        raise ValueError(f"`{name}` must provide an array for each of the inputs {_keys(shapes)}, or a dict of them.")
    arrays = [_image_batch(f"{name}[{key!r}]", value, shapes[key]) for key, value in zip(shapes, part, strict=True)]
    if len({len(array) for array in arrays}) > 1:
        counts = ", ".join(str(len(array)) for array in arrays)
        raise ValueError(
            f"`{name}` must have the same number of examples for each input, but has {counts} for {_keys(shapes)}."
        )
    return arrays


def gather_images(name: str, data: Any, shape: Shape) -> np.ndarray:
    """Collects images from an array or from any source of images or batches into one array.

    Args:
        name: name of the argument, for messages.
        data: array `(n, height, width, channels)`; or an iterable of such arrays or of single images, such as a list, a
            generator, a `tf.data.Dataset` or a `keras.utils.PyDataset`; or a function without arguments that returns an
            iterable. Labels in `(images, labels)` are dropped, and `[images]`, the format of TFLite's converter, is
            accepted. Sources other than lists are read up to `MOST_IMAGES` images, with a `UserWarning` if there are
            more.
        shape: required `(height, width, channels)`.

    Returns:
        An array `(n, height, width, channels)`.

    Raises:
        ValueError: the source is empty, or an element is not an image of that shape with finite values.

    >>> pairs = [(np.zeros((2, 4, 4, 3)), np.zeros(2))] * 3
    >>> gather_images("images", pairs, (4, 4, 3)).shape
    (6, 4, 4, 3)
    """
    data = _called(name, data)
    if isinstance(data, dict):
        raise ValueError(
            f"`{name}` must contain images, but is a dict with the keys {_keys(data)}: pass one of its entries."
        )
    if _is_array(data) or _is_pair(data, shape):
        data = [data]
    if isinstance(data, (str, bytes)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        folder = isinstance(data, (str, os.PathLike))
        advice = ": `keras.utils.image_dataset_from_directory` reads a folder" if folder else ""
        raise ValueError(f"`{name}` (={data!r}) must be an array of images or an iterable of such arrays{advice}.")
    parts: list[np.ndarray] = []
    count = 0
    for place, part in enumerate(data):
        if not isinstance(data, (list, tuple)) and max(place, count) >= MOST_IMAGES:
            warnings.warn(
                f"`{name}` has more than {MOST_IMAGES:,} images, or is endless: the first {count:,} are used.",
                stacklevel=3,
            )
            break
        parts.append(_image_batch(name, part, shape))
        count += len(parts[-1])
    if not count:
        raise ValueError(f"`{name}` contains no images.")
    return np.concatenate(parts)


def _called(name: str, data: Any) -> Any:
    """The result of a function; other data unchanged."""
    if not callable(data) or hasattr(data, "__iter__"):
        return data
    try:
        return data()
    except TypeError as error:
        raise ValueError(
            f"`{name}` (={data!r}) is a function that cannot be called without arguments: {error}"
        ) from error


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") and hasattr(data, "shape")


def _is_pair(part: Any, shape: Shape) -> bool:
    """Whether it consists of images with labels, and possibly weights."""
    if not isinstance(part, (list, tuple)) or len(part) not in (2, 3) or _is_image(part[1], shape):
        return False
    return isinstance(part[0], dict) or _is_image(part[0], shape)


def _is_image(value: Any, shape: Shape) -> bool:
    if not _is_array(value) or len(value.shape) - len(shape) not in (0, 1):
        return False
    # For other inputs, the rank alone does not exclude labels.
    return len(shape) == 3 or tuple(value.shape[-len(shape) :]) == shape


def _keys(data: dict) -> str:
    return ", ".join(map(repr, data))


def _image_batch(name: str, part: Any, shape: Shape) -> np.ndarray:
    expected = ", ".join(map(str, shape))
    if isinstance(part, (tuple, list)) and (len(part) == 1 or _is_pair(part, shape)):
        part = part[0]
    if isinstance(part, dict):
        raise ValueError(
            f"`{name}` must provide arrays ({expected}) or (n, {expected}), but provided a dict with the keys"
            f" {_keys(part)}: map it to the entry that contains the images."
        )
    if isinstance(part, (tuple, list)):
        if part and all(_is_image(each, shape) for each in part):
            return np.concatenate([_image_batch(name, image, shape) for image in part])
        raise ValueError(
            f"`{name}` must provide arrays ({expected}) or (n, {expected}), alone or followed by labels as in (images,"
            f" labels), but provided a {type(part).__name__} of {len(part)} entries that is neither."
        )
    values = np.asarray(part)
    if values.dtype.kind not in "uif":
        raise ValueError(f"`{name}` must contain numbers, but contains {values.dtype}.")
    values = values[None] if values.ndim == len(shape) else values
    if values.ndim != len(shape) + 1 or values.shape[1:] != tuple(shape):
        kind = "images" if len(shape) == 3 else "examples"
        raise ValueError(
            f"`{name}` must contain {kind} of shape ({expected}), but contains an array of shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` contains values that are not finite.")
    return values


def verification_inputs(
    data: Sequence[np.ndarray] | None, shapes: Sequence[Shape], *, count: int = VERIFICATION_IMAGES
) -> tuple[tuple[np.ndarray, ...], str]:
    """The examples for verifying an export, up to `count` evenly spaced ones of `data`, and their description.

    Returns:
        `(inputs, description)`, an array `(n, ...)` for each input; synthetic ones if `data` is `None`.
    """
    kind = "image" if all(len(shape) == 3 for shape in shapes) else "example"
    if data is None:
        inputs = synthetic_inputs(shapes, count=SYNTHETIC_IMAGES)
        return inputs, f"{len(inputs[0])} synthetic {kind}s"
    inputs = tuple(spread(array, count) for array in data)
    return inputs, f"{len(inputs[0])} given {kind}{'s' if len(inputs[0]) > 1 else ''}"


def spread(images: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the images, evenly spaced from the first to the last."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def fresh_inputs(
    representative_data: tuple[np.ndarray, ...] | None, shapes: Sequence[Shape], *, count: int
) -> tuple[np.ndarray, ...]:
    """Seeded inputs that are not used for calibration, in the range of the given ones, or from 0 to 255.

    They are integers if the given ones are, because a network that takes integers truncates fractions.
    """
    inputs = tuple(array.astype("float32") for array in synthetic_inputs(shapes, count=count, seed=1))
    return inputs if representative_data is None else tuple(map(_in_range_of, representative_data, inputs))


def _in_range_of(given, array):
    """Numbers from 0 to 255 rescaled to the range of given ones."""
    low, high = float(given.min()), float(given.max())
    moved = low + array * ((high - low) / 255)
    return moved if np.any(given % 1) else np.round(moved)


def checked_inputs(
    representative_data: tuple[np.ndarray, ...] | None, shapes: Sequence[Shape]
) -> tuple[np.ndarray, ...]:
    """The inputs on which a graph is checked: some of the given ones and fresh ones."""
    fresh = fresh_inputs(representative_data, shapes, count=_CHECKED)
    if representative_data is None:
        return fresh
    given = [spread(array, _CHECKED).astype("float32") for array in representative_data]
    return tuple(map(np.concatenate, zip(given, fresh, strict=True)))


def synthetic_inputs(shapes: Sequence[Shape], *, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Seeded examples for each input: [`synthetic_images`], or numbers of the same range for other shapes."""
    arrays = []
    for place, shape in enumerate(shapes):
        if len(shape) == 3:
            arrays.append(synthetic_images(shape, count=count, seed=seed + 100 * place))
        else:
            random = np.random.default_rng(seed + 100 * place)
            arrays.append(random.integers(0, 256, (count, *shape)).astype("uint8"))
    return tuple(arrays)


def synthetic_images(shape: tuple[int, int, int], *, count: int = SYNTHETIC_IMAGES, seed: int = 0) -> np.ndarray:
    """Seeded images to use if no real ones are given: smooth blobs with noise, integers from 0 to 255.

    They are smooth because the scores of a network hardly differ between images of pure noise.
    """
    height, width, channels = shape
    random = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    images = []
    for _ in range(count):
        row_waves, column_waves, phases = random.uniform(-2, 2, (3, channels))
        waves = np.sin(2 * np.pi * (row_waves * rows + column_waves * columns + phases))
        noise = random.normal(0, 16, shape)
        images.append(np.clip(127.5 + 100 * waves + noise, 0, 255).round())
    return np.stack(images).astype(np.uint8)
