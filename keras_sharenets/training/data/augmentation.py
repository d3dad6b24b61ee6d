"""Augmentation of training images, and test-time crops, for networks with a fixed input size.

Training images are cropped, flipped and color-jittered as a function of random numbers that are sampled in advance;
held-out images are cropped at fixed positions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image

from keras_sharenets.training.data.dataset import Images

ATTEMPTS = 10  # Random windows to try before falling back to the largest centered square.
AREA, RATIO, SCALE = (0.08, 1.0), (3 / 4, 4 / 3), 0.25
# Principal components of ImageNet colors and their standard deviations, for pixels from 0 to 1 (values of AlexNet).
DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
LUMA = np.array([0.299, 0.587, 0.114], "float32")
# Ten views: the corners and the center, then the same five flipped.
CENTER = 4
TEN = tuple(range(10))
_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))
MARGIN = 8 / 7  # 256 pixels for a crop of 224, 64 for one of 56.

Size = tuple[int, int]  # `(height, width)`.


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images. The terms are those of a `Recipe`.

    Attributes:
        pad: padding in pixels on each side before a random crop of the original size.
        flip: whether to flip images horizontally with a probability of 0.5.
        fill: color of the padding, one number per channel: the mean, which is 0 after normalization.
        border: `"mean"` to pad with that color, `"edge"` to repeat the border, `"reflect"` to mirror it.
        crop: `"shift"`; or `"area"` or `"scale"`, which do not pad and accept images of any size.
        size: `(height, width)` of the crops "area" and "scale"; not used for "shift".
        jitter: strength of brightness, contrast and saturation jitter; needs 3 channels.
        lighting: strength of the PCA color shift; needs 3 channels.
    """

    pad: int
    flip: bool
    fill: tuple[float, ...]
    border: str = "mean"
    crop: str = "shift"
    size: Size = (0, 0)
    jitter: float = 0.0
    lighting: float = 0.0


def draw_changes(augmentation: Augmentation, count: int, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draws the random changes of `count` images from `generator`.

    Returns:
        A tuple of arrays with one entry per image: `(count, 2)` corners of crops, or `(count, 10, 4)` numbers that
        determine windows; the column step, -1 for a flipped image; and two arrays of numbers for colors.
    """
    if augmentation.crop == "shift":
        sides = [generator.integers(0, 2 * augmentation.pad, count, endpoint=True) for _ in range(2)]
        places = np.stack(sides, axis=1)
    else:
        places = generator.random((count, ATTEMPTS, 4))
    steps = np.where(augmentation.flip & (generator.random(count) < 0.5), -1, 1)
    # The last three numbers for colors are not used: without them, every seed would give other batches.
    return places, steps, generator.random((count, 6)), generator.normal(size=(count, 3))


def augment(images: Images, augmentation: Augmentation, changes: Sequence[np.ndarray]) -> np.ndarray:
    """Crops, flips and color-jitters images.

    Args:
        images: a uint8 array; for the crops "area" and "scale" also a sequence of images of varying size.
        augmentation: the augmentation.
        changes: changes from `draw_changes`, one entry per image.

    Returns:
        A float32 array `(images, height, width, channels)`, values from 0 to 255 unless colors are changed.
    """
    places, steps, factors, shifts = changes
    crops = {"shift": _shifted, "area": _windows, "scale": _scaled}[augmentation.crop]
    size = images[0].shape[:2] if augmentation.crop == "shift" else augmentation.size
    changed = np.empty((len(images), *size, images[0].shape[-1]), "float32")
    # Slicing each image copies complete rows; indexing all pixels at once takes 10 times as long.
    for image, crop, step in zip(changed, crops(images, augmentation, places), steps, strict=True):
        image[:] = crop[:, ::step]
    for image, numbers, shift in zip(changed, factors, shifts, strict=True):
        if augmentation.jitter:
            _jitter(image, augmentation.jitter, numbers)
        if augmentation.lighting:
            image += (255 * DIRECTIONS @ (augmentation.lighting * shift * DEVIATIONS)).astype("float32")
    return changed


def augment_on_device(images: Any, augmentation: Augmentation, changes: Sequence[Any]) -> Any:
    """JAX version of `augment` for the crop "shift", for compilation.

    Args:
        images: uint8 JAX array `(images, height, width, channels)`.
        augmentation: the augmentation; its crop is "shift".
        changes: changes from `draw_changes` as JAX arrays. The last two are used only if colors are changed.

    Returns:
        A float32 array of the same shape, equal to that of `augment` except for the rounding of changed colors.
    """
    import jax
    import jax.numpy as jnp

    places, steps, factors, shifts = changes
    pad = ((0, 0), *[(augmentation.pad, augmentation.pad)] * 2, (0, 0))
    if augmentation.border == "mean":
        inside = jnp.pad(jnp.ones((*images.shape[:3], 1), bool), pad)
        padded = jnp.where(inside, jnp.pad(images, pad).astype("float32"), jnp.asarray(augmentation.fill, "float32"))
    else:
        padded = jnp.pad(images, pad, augmentation.border).astype("float32")

    def crop(image: Any, place: Any) -> Any:
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), images.shape[1:])

    changed = jax.vmap(crop)(padded, places)
    changed = jnp.where(steps[:, None, None, None] < 0, changed[:, :, ::-1], changed)
    if augmentation.jitter:
        changed = jax.vmap(lambda image, numbers: _jittered(image, augmentation.jitter, numbers))(changed, factors)
    if augmentation.lighting:
        directions = 255 * augmentation.lighting * DIRECTIONS * DEVIATIONS
        changed = changed + (shifts[:, None, :] * directions.astype("float32")).sum(-1)[:, None, None]
    return changed


def _jittered(image: Any, strength: float, numbers: Any) -> Any:
    """JAX version of `_jitter`."""
    for change, number in enumerate(numbers[:3]):
        gray = (image * LUMA).sum(-1, keepdims=True)
        factor = 1 + strength * (2 * number - 1)
        image = factor * image + (1 - factor) * (0.0, gray.mean(), gray)[change]
    return image


def _shifted(images: np.ndarray, augmentation: Augmentation, places: np.ndarray) -> Iterator[np.ndarray]:
    count, height, width, channels = images.shape
    pad = augmentation.pad
    if augmentation.border == "mean":
        padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), "float32")
        padded[:] = augmentation.fill
        padded[:, pad : pad + height, pad : pad + width] = images
    else:
        mode: Any = augmentation.border
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode)
    for source, (top, left) in zip(padded, places, strict=True):
        yield source[top : top + height, left : left + width]


def _windows(images: Images, augmentation: Augmentation, places: np.ndarray) -> Iterator[np.ndarray]:
    for image, numbers in zip(images, places, strict=True):
        yield resized(image, augmentation.size, window(image.shape[:2], numbers))


def window(sides: Size, numbers: np.ndarray) -> tuple[int, int, int, int]:
    """A random window with 8 to 100 % of the area of an image and an aspect ratio of 3:4 to 4:3.

    Args:
        sides: `(height, width)` of the image.
        numbers: array `(attempts, 4)` from 0 to 1: area, aspect ratio and position of candidate windows.

    Returns:
        `(top, left, height, width)` of the first window that fits, or the largest centered square if none fits.
    """
    for area, ratio, down, right in numbers:
        area = (AREA[0] + (AREA[1] - AREA[0]) * area) * sides[0] * sides[1]
        ratio = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= sides[0] and 0 < width <= sides[1]:
            return int(down * (sides[0] - height + 1)), int(right * (sides[1] - width + 1)), height, width
    side = min(sides)
    return (sides[0] - side) // 2, (sides[1] - side) // 2, side, side


def _scaled(images: Images, augmentation: Augmentation, places: np.ndarray) -> Iterator[np.ndarray]:
    height, width = augmentation.size
    for image, numbers in zip(images, places, strict=True):
        larger, down, right, _ = numbers[0]
        covered = covering(image, augmentation.size, 1 + SCALE * larger)
        top = int(down * (covered.shape[0] - height + 1))
        left = int(right * (covered.shape[1] - width + 1))
        yield covered[top : top + height, left : left + width]


def _jitter(image: np.ndarray, strength: float, numbers: np.ndarray) -> None:
    """Blends an image with black, its mean gray and its grayscale version.

    Papers do this in random order. As values are not clipped, every order gives the same image.
    """
    for change, number in enumerate(numbers[:3]):
        factor = np.float32(1 + strength * (2 * number - 1))
        other = (0.0, (image @ LUMA).mean(), (image @ LUMA)[..., None])[change]
        image[:] = factor * image + (1 - factor) * other


def crop_views(images: Images, size: Size, view: int) -> np.ndarray:
    """One view of each image: resized to cover 8/7 of the crop, then cropped.

    Args:
        images: a uint8 array, or a sequence of images of varying size.
        size: `(height, width)` of the crop.
        view: 0 to 3 for the corners, `CENTER`, and 5 to 9 for the same views flipped.

    Returns:
        A float32 array `(images, *size, channels)`.
    """
    down, right = _PLACES[view % len(_PLACES)]
    views = []
    for image in images:
        covered = covering(image, size, MARGIN)
        top, left = round(down * (covered.shape[0] - size[0])), round(right * (covered.shape[1] - size[1]))
        views.append(covered[top : top + size[0], left : left + size[1]][:, :: 1 if view <= CENTER else -1])
    return np.stack(views).astype("float32")


def covering(image: np.ndarray, size: Size, factor: float) -> np.ndarray:
    """An image resized to the smallest size that covers `factor` times `size` and keeps the aspect ratio."""
    height, width, _ = image.shape
    ratio = factor * max(size[0] / height, size[1] / width)
    sides = (max(round(height * ratio), size[0]), max(round(width * ratio), size[1]))
    return resized(image, sides)


def resized(image: np.ndarray, size: Size, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Resizes an image, or the part of it in `box`.

    Args:
        image: uint8 array `(height, width, channels)` with 1 or 3 channels.
        size: target `(height, width)`.
        box: `(top, left, height, width)` within the image; `None` for the whole image.

    Returns:
        A uint8 array `(*size, channels)`.
    """
    height, width, channels = image.shape
    if box is None and (height, width) == tuple(size):
        return image
    top, left, *part = (0, 0, height, width) if box is None else box
    source = PIL.Image.fromarray(image if channels == 3 else image[..., 0])
    corners = (left, top, left + part[1], top + part[0])
    result = source.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR, box=corners)
    return np.asarray(result, np.uint8).reshape(*size, channels)
