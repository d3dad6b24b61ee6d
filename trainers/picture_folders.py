"""A folder of pictures as a data set: one folder per class."""

import pathlib

import numpy as np

from keras_sharenets import _checks
from keras_sharenets.pictures import SUFFIXES, find_pictures, read_picture
from trainers.dataset import Files, make_dataset, stratified_split

TEST_NAMES = ("test", "val", "valid", "validation")
LAYOUT = f"Expected is one folder of pictures per class, or train/ and {'/ or '.join(TEST_NAMES)}/ with such folders."


def load_folder(folder, input_shape=None, seed=0):
    """The pictures below `folder`, decoded when they are asked for.

    `train/` is the training split where one of `test/`, `val/`, `valid/` and `validation/` is beside it, the first of
    them the test split. Otherwise the folders are the classes, and 20 % of each, chosen by `seed`, the test split. The
    data set is called after its folder.

    Args:
        folder: path.
        input_shape: `(height, width, channels)` to which pictures are resized, channels 1 (grey) or 3 (RGB); by default
            that of the first picture as RGB, and all must have it.
        seed: int.

    Returns:
        A `Dataset`. Every picture has been read once.

    Raises:
        ValueError: no class folders, fewer than 2 classes, a class without pictures, other classes in the test split
            than in the training split, or a broken picture. The message names the folder or the file.
    """
    folder = pathlib.Path(folder)
    held_out = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if held_out is not None and (folder / "train").is_dir():
        class_names, train, test, split = (
            *_read_splits(folder / "train", held_out),
            f"{held_out.name}/ is the test split",
        )
    else:
        class_names, train, test = _split(folder, seed)
        split = f"20 % of each class are the test split (seed {seed})"
    shape = _shape(train[0][0], input_shape)
    sources = [
        Files(tuple(paths), np.asarray(labels, np.int64), shape, bool(input_shape)) for paths, labels in (train, test)
    ]
    size = f"{'resized to ' if input_shape else ''}{shape[0]}x{shape[1]} {'RGB' if shape[2] == 3 else 'grey'} pixels"
    name = folder.resolve().name
    return make_dataset(name, f"pictures of the folder {name}, {size}; {split}", class_names, *sources)


def _shape(first_picture, input_shape):
    if input_shape is None:
        return read_picture(first_picture, (None, None, 3)).shape
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"`input_shape` (={shape}) must be `(height, width, channels)` with 1 or 3 channels.")
    for side in shape[:2]:
        _checks.positive("input_shape", side)
    return shape


def _read_splits(train_folder, test_folder):
    class_names, train = _read_classes(train_folder)
    test_names, test = _read_classes(test_folder)
    if class_names != test_names:
        missing, extra = set(class_names) - set(test_names), set(test_names) - set(class_names)
        raise ValueError(
            f"The classes in {test_folder} differ from those in {train_folder}: "
            f"missing {sorted(missing) or 'none'}, additional {sorted(extra) or 'none'}."
        )
    return class_names, train, test


def _split(folder, seed):
    class_names, (paths, labels) = _read_classes(folder)
    for name, count in zip(class_names, np.bincount(labels), strict=True):
        if count < 2:
            raise ValueError(f"The class folder {folder / name} holds one picture; a split needs at least 2.")
    train, test = (
        [[values[index] for index in part] for values in (paths, labels)]
        for part in stratified_split(labels, 0.2, seed)
    )
    return class_names, train, test


def _read_classes(folder):
    """The names of the classes in `folder`, sorted, and the paths and labels of their pictures."""
    class_names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not class_names:
        raise ValueError(f"{folder} holds no class folders. {LAYOUT}")
    if len(class_names) < 2:
        raise ValueError(f"{folder} holds fewer than 2 class folders (only {class_names[0]!r}). {LAYOUT}")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        pictures = find_pictures(folder / name)
        if not pictures:
            raise ValueError(f"The class folder {folder / name} holds no picture ({', '.join(SUFFIXES)}).")
        paths += pictures
        labels += [label] * len(pictures)
    return class_names, (paths, labels)
