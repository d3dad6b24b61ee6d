"""How training pictures are changed: crops, mirrors and colours, as a function of numbers drawn beforehand."""

import dataclasses
import math

import numpy as np

from keras_sharenets.training.data.crops import covering, resized

ATTEMPTS = 10  # Windows that are tried before one of the largest square is taken.
AREA, RATIO, SCALE = (0.08, 1.0), (3 / 4, 4 / 3), 0.25
# Principal directions of the colours of ImageNet, with their deviations, for pixels from 0 to 1 (AlexNet's figures).
DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
LUMA = np.array([0.299, 0.587, 0.114], "float32")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training pictures are changed. The words are those of a `Recipe`.

    Attributes:
        pad: int, pixels of padding on each side before a crop of the old size at a random place.
        flip: bool, whether every other picture, at random, is mirrored left to right.
        fill: tuple, the colour of the padding, one number a channel. The mean, which becomes 0 when normalised.
        border: `"mean"` for that colour, `"edge"` to repeat the border, `"reflect"` to mirror it.
        crop: `"shift"`, or `"area"` or `"scale"`, which pad nothing and take pictures of any size.
        size: `(height, width)` of those crops.
        jitter: float, how far brightness, contrast and saturation go; pictures have 3 channels.
        lighting: float, how far colours are shifted; pictures have 3 channels.
    """

    pad: int
    flip: bool
    fill: tuple
    border: str = "mean"
    crop: str = "shift"
    size: tuple | None = None
    jitter: float = 0.0
    lighting: float = 0.0


def draw_changes(augmentation, count, generator):
    """Draws from `generator` how `count` pictures are changed.

    Returns:
        A tuple of arrays with one entry a picture: `(count, 2)` corners of crops, or `(count, 10, 4)` numbers that
        make windows; the step of the columns, -1 for a mirrored picture; numbers for colours.
    """
    if augmentation.crop == "shift":
        sides = [generator.integers(0, 2 * augmentation.pad, count, endpoint=True) for _ in range(2)]
        places = np.stack(sides, axis=1)
    else:
        places = generator.random((count, ATTEMPTS, 4))
    steps = np.where(augmentation.flip & (generator.random(count) < 0.5), -1, 1)
    return places, steps, generator.random((count, 6)), generator.normal(size=(count, 3))


def augment(pictures, augmentation, changes):
    """Crops, mirrors and recolours.

    Args:
        pictures: uint8 array of shape `(pictures, height, width, channels)`; for the crops "area" and "scale" also a
            sequence of such pictures of many sizes.
        augmentation: `Augmentation`.
        changes: as `draw_changes` returns them, one entry a picture.

    Returns:
        A float32 array `(pictures, height, width, channels)`, values from 0 to 255 unless colours are changed.
    """
    places, steps, factors, shifts = changes
    crops = {"shift": _shifted, "area": _windows, "scale": _scaled}[augmentation.crop]
    size = pictures[0].shape[:2] if augmentation.crop == "shift" else augmentation.size
    changed = np.empty((len(pictures), *size, pictures[0].shape[-1]), "float32")
    # One slice a picture copies whole rows; indexing all pixels at once takes 10 times as long.
    for picture, crop, step in zip(changed, crops(pictures, augmentation, places), steps, strict=True):
        picture[:] = crop[:, ::step]
    for picture, numbers, shift in zip(changed, factors, shifts, strict=True):
        if augmentation.jitter:
            _jitter(picture, augmentation.jitter, numbers)
        if augmentation.lighting:
            picture += (255 * DIRECTIONS @ (augmentation.lighting * shift * DEVIATIONS)).astype("float32")
    return changed


def _shifted(images, augmentation, places):
    count, height, width, channels = images.shape
    pad = augmentation.pad
    if augmentation.border == "mean":
        padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), "float32")
        padded[:] = augmentation.fill
        padded[:, pad : pad + height, pad : pad + width] = images
    else:
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), augmentation.border)
    for source, (top, left) in zip(padded, places, strict=True):
        yield source[top : top + height, left : left + width]


def _windows(pictures, augmentation, places):
    for picture, numbers in zip(pictures, places, strict=True):
        yield resized(picture, augmentation.size, window(picture.shape[:2], numbers))


def window(sides, numbers):
    """A part of a picture with 8 to 100 % of its area and sides of 3:4 to 4:3.

    Args:
        sides: `(height, width)` of the picture.
        numbers: array `(attempts, 4)` from 0 to 1: area, ratio and place of windows, of which the first that fits wins.

    Returns:
        `(top, left, height, width)`; the largest square in the middle if none fits.
    """
    for area, ratio, down, right in numbers:
        area = (AREA[0] + (AREA[1] - AREA[0]) * area) * sides[0] * sides[1]
        ratio = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= sides[0] and 0 < width <= sides[1]:
            return int(down * (sides[0] - height + 1)), int(right * (sides[1] - width + 1)), height, width
    side = min(sides)
    return (sides[0] - side) // 2, (sides[1] - side) // 2, side, side


def _scaled(pictures, augmentation, places):
    height, width = augmentation.size
    for picture, numbers in zip(pictures, places, strict=True):
        larger, down, right, _ = numbers[0]
        covered = covering(picture, augmentation.size, 1 + SCALE * larger)
        top = int(down * (covered.shape[0] - height + 1))
        left = int(right * (covered.shape[1] - width + 1))
        yield covered[top : top + height, left : left + width]


def _jitter(picture, strength, numbers):
    """Blends a picture with black, with its mean grey and with itself in grey, in the order of the last 3 numbers."""
    for change in np.argsort(numbers[3:]):
        factor = np.float32(1 + strength * (2 * numbers[change] - 1))
        other = (0.0, (picture @ LUMA).mean(), (picture @ LUMA)[..., None])[change]
        picture[:] = factor * picture + (1 - factor) * other
