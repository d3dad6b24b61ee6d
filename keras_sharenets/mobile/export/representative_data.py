"""The images that a file is calibrated and verified on: those that a user gives, as arrays, and synthetic ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sharenets._types import Shape

# Where a source of batches is left, which may be endless: a few hundred images are enough to measure ranges.
MOST_IMAGES = 1000
# Enough to see a wrong file, few enough to run one by one in a moment.
VERIFICATION_IMAGES = 64
SYNTHETIC_IMAGES = 16
# Calibration images that a graph is checked on before anything is quantized, and as many others.
_CHECKED = 8


def gather_inputs(name: str, data: Any, shapes: dict[str, Shape]) -> tuple[np.ndarray, ...]:
    """Examples for a network with any number of inputs, an array `(n, ...)` for each.

    Args:
        name: name of the argument, for messages.
        data: as [`gather_images`] takes it where there is one input. For several, a dict of arrays `(n, ...)` by the
            names of the inputs, or a tuple or list of such arrays in their order; or an iterable, or a function that
            gives one, of such dicts, tuples or lists, each of one example or of a batch.
        shapes: by the names of the inputs, the shape that one example has there.

    Raises:
        ValueError: as [`gather_images`]; or an input is missing, or has another number of examples than the first.

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
        raise ValueError(f"`{name}` (={data!r}) must hold an array for each of the inputs {_keys(shapes)}.")
    parts, count = [], 0
    for part in [data] if whole else data:
        parts.append(_example_batch(name, part, shapes))
        count += len(parts[-1][0])
        if count >= MOST_IMAGES and not isinstance(data, (dict, list, tuple)):
            break
    if not count:
        raise ValueError(f"`{name}` holds no examples.")
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _example_batch(name, part, shapes):
    """One example, or a batch of them, as an array for each input."""
    if isinstance(part, (list, tuple)) and part and isinstance(part[0], (dict, list, tuple)):
        part = part[0]  # Labels stand behind it.
    if isinstance(part, dict):
        if set(part) != set(shapes):
            raise ValueError(f"`{name}` must have the inputs {_keys(shapes)}, has {_keys(part)}.")
        part = [part[key] for key in shapes]
    if not isinstance(part, (list, tuple)) or len(part) != len(shapes):
        raise ValueError(f"`{name}` must give an array for each of the inputs {_keys(shapes)}, or a dict of them.")
    arrays = [_image_batch(f"{name}[{key!r}]", value, shapes[key]) for key, value in zip(shapes, part, strict=True)]
    if len({len(array) for array in arrays}) > 1:
        counts = ", ".join(str(len(array)) for array in arrays)
        raise ValueError(f"`{name}` must have as many examples for each input, has {counts} for {_keys(shapes)}.")
    return arrays


def gather_images(name: str, data: Any, shape: Shape) -> np.ndarray:
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
    if _is_array(data) or _is_pair(data, shape):
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


def _is_pair(part: Any, shape: Shape) -> bool:
    """Whether it is images with something beside them that is none: labels, and perhaps weights."""
    if not isinstance(part, (list, tuple)) or len(part) not in (2, 3) or _is_image(part[1], shape):
        return False
    return isinstance(part[0], dict) or _is_image(part[0], shape)


def _is_image(value: Any, shape: Shape) -> bool:
    if not _is_array(value) or len(value.shape) - len(shape) not in (0, 1):
        return False
    # What is no image may be a label by its rank.
    return len(shape) == 3 or tuple(value.shape[-len(shape) :]) == shape


def _keys(data: dict) -> str:
    return ", ".join(map(repr, data))


def _image_batch(name: str, part: Any, shape: Shape) -> np.ndarray:
    expected = ", ".join(map(str, shape))
    if isinstance(part, (tuple, list)) and (len(part) == 1 or _is_pair(part, shape)):
        part = part[0]
    if isinstance(part, dict):
        raise ValueError(
            f"`{name}` must give arrays ({expected}) or (n, {expected}), gave a dict with the keys {_keys(part)}: map"
            f" it to the entry that holds the images."
        )
    if isinstance(part, (tuple, list)):
        if part and all(_is_image(each, shape) for each in part):
            return np.concatenate([_image_batch(name, image, shape) for image in part])
        raise ValueError(
            f"`{name}` must give arrays ({expected}) or (n, {expected}), alone or with labels behind them as in"
            f" (images, labels), gave a {type(part).__name__} of {len(part)} entries that is neither."
        )
    values = np.asarray(part)
    if values.dtype.kind not in "uif":
        raise ValueError(f"`{name}` must hold numbers, holds {values.dtype}.")
    values = values[None] if values.ndim == len(shape) else values
    if values.ndim != len(shape) + 1 or values.shape[1:] != tuple(shape):
        kind = "images" if len(shape) == 3 else "examples"
        raise ValueError(f"`{name}` must hold {kind} of shape ({expected}), holds an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` holds numbers that are not finite.")
    return values


def verification_inputs(
    data: Sequence[np.ndarray] | None, shapes: Sequence[Shape], *, count: int = VERIFICATION_IMAGES
) -> tuple[tuple[np.ndarray, ...], str]:
    """The examples that an export is verified on, up to `count` evenly spread over `data`, and what to call them.

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
    """Up to `count` of the images, evenly spread from the first to the last."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def fresh_inputs(
    representative_data: tuple[np.ndarray, ...] | None, shapes: Sequence[Shape], *, count: int
) -> tuple[np.ndarray, ...]:
    """Seeded inputs that nothing was measured on, in the range of those that are given, or from 0 to 255.

    Integers where those are: a network that takes integers cuts off what is behind the point.
    """
    inputs = tuple(array.astype("float32") for array in synthetic_inputs(shapes, count=count, seed=1))
    return inputs if representative_data is None else tuple(map(_in_range_of, representative_data, inputs))


def _in_range_of(given, array):
    """Numbers from 0 to 255 moved to the range of others."""
    low, high = float(given.min()), float(given.max())
    moved = low + array * ((high - low) / 255)
    return moved if np.any(given % 1) else np.round(moved)


def checked_inputs(
    representative_data: tuple[np.ndarray, ...] | None, shapes: Sequence[Shape]
) -> tuple[np.ndarray, ...]:
    """Some of the given inputs and as many fresh ones, which a graph is checked on."""
    fresh = fresh_inputs(representative_data, shapes, count=_CHECKED)
    if representative_data is None:
        return fresh
    given = [spread(array, _CHECKED).astype("float32") for array in representative_data]
    return tuple(map(np.concatenate, zip(given, fresh, strict=True)))


def synthetic_inputs(shapes: Sequence[Shape], *, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Seeded examples for each input: [`synthetic_images`], and of other shapes numbers of the same range."""
    arrays = []
    for place, shape in enumerate(shapes):
        if len(shape) == 3:
            arrays.append(synthetic_images(shape, count=count, seed=seed + 100 * place))
        else:
            random = np.random.default_rng(seed + 100 * place)
            arrays.append(random.integers(0, 256, (count, *shape)).astype("uint8"))
    return tuple(arrays)


def synthetic_images(shape: tuple[int, int, int], *, count: int = SYNTHETIC_IMAGES, seed: int = 0) -> np.ndarray:
    """Seeded images for where no real ones are given: smooth blobs with noise, whole pixel values from 0 to 255.

    Smooth, because a network's scores hardly differ from one image of plain noise to the next.
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
