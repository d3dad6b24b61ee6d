"""Helpers that write image files."""

import numpy as np

RANDOM = np.random.default_rng(0)


def random_image(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
