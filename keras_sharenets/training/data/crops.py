"""Parts of pictures: what a network of a fixed size sees of a picture of another size when it is tested."""

import numpy as np
import PIL.Image

# Ten views: the corners and the centre, then all of them mirrored.
CENTER = 4
TEN = tuple(range(10))
_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))
MARGIN = 8 / 7  # 256 pixels for a crop of 224, 64 for one of 56.


def resized(picture, size, box=None):
    """A picture, or the part of it in `box`, in another size.

    Args:
        picture: uint8 array `(height, width, channels)` with 1 or 3 channels.
        size: `(height, width)`.
        box: `(top, left, height, width)` within the picture; `None` for all of it.

    Returns:
        A uint8 array `(*size, channels)`.
    """
    height, width, channels = picture.shape
    top, left, *part = (0, 0, height, width) if box is None else box
    if box is None and (height, width) == tuple(size):
        return picture
    source = PIL.Image.fromarray(picture if channels == 3 else picture[..., 0])
    corners = (left, top, left + part[1], top + part[0])
    result = source.resize(size[::-1], PIL.Image.Resampling.BILINEAR, box=corners)
    return np.asarray(result, np.uint8).reshape(*size, channels)


def covering(picture, size, factor):
    """A picture in the smallest size that covers `factor` times `size` with its old ratio of sides."""
    height, width, _ = picture.shape
    ratio = factor * max(size[0] / height, size[1] / width)
    sides = (max(round(height * ratio), size[0]), max(round(width * ratio), size[1]))
    return resized(picture, sides)


def crop_views(pictures, size, view):
    """One view of each picture: resized so that its short side is 8/7 of the crop's, then cropped.

    Args:
        pictures: uint8 array `(n, height, width, channels)`, or a sequence of such pictures of many sizes.
        size: `(height, width)` of the crop.
        view: int, 0 to 3 for the corners, `CENTER`, and the same mirrored from 5 on.

    Returns:
        A float32 array `(n, *size, channels)`.
    """
    down, right = _PLACES[view % len(_PLACES)]
    views = []
    for picture in pictures:
        covered = covering(picture, size, MARGIN)
        top, left = round(down * (covered.shape[0] - size[0])), round(right * (covered.shape[1] - size[1]))
        views.append(covered[top : top + size[0], left : left + size[1]][:, :: 1 if view <= CENTER else -1])
    return np.stack(views).astype("float32")
