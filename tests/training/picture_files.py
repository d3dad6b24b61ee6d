"""Pictures that tests write to files."""

import numpy as np

RANDOM = np.random.default_rng(0)


def random_picture(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
