"""A folder of pictures as a data set: one folder per class."""

import pathlib

import numpy as np

from keras_sharenets import _checks
from keras_sharenets.images import SUFFIXES, find_images, read_image
from keras_sharenets.training.data.dataset import Files, make_dataset, stratified_split

CHANNELS = {1: "grey", 3: "RGB"}
TEST_NAMES = ("test", "val", "valid", "validation")
LAYOUT = f"Expected is one folder of pictures per class, or train/ and {'/ or '.join(TEST_NAMES)}/ with such folders."


def load_folder(folder, input_shape=None, seed=0, skip_unreadable=False):
    """The pictures below `folder`, decoded when they are asked for.

    `train/` is the training split where one of `test/`, `val/`, `valid/` and `validation/` is beside it, the first of
    them the test split. Otherwise the folders are the classes, and 20 % of each, chosen by `seed`, the test split. The
    data set is called after its folder.

    Args:
        folder: path.
        input_shape: `(height, width, channels)` to which pictures are resized, channels 1 (grey) or 3 (RGB); by default
            that of the first picture as RGB, and all must have it. `(0, 0, channels)` keeps the size of each.
        seed: int.
        skip_unreadable: bool, whether pictures that cannot be read are left out.

    Returns:
        A `Dataset`. Every picture has been read once.

    Raises:
        ValueError: no class folders, fewer than 2 classes, a class without pictures, other classes in the test split
            than in the training split, or broken pictures. The message names the folder or the files.
    """
    folder = pathlib.Path(folder)
    held_out = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if held_out is not None and (folder / "train").is_dir():
        class_names, train, test, split = (
            *read_splits(folder / "train", held_out),
            f"{held_out.name}/ is the test split",
        )
    else:
        class_names, train, test = _split(folder, seed)
        split = f"20 % of each class are the test split (seed {seed})"
    name = folder.resolve().name
    title = f"pictures of the folder {name}"
    return from_files(name, title, split, class_names, (train, test), input_shape, skip_unreadable)


def from_files(name, title, split, class_names, splits, input_shape, skip_unreadable):
    """A `Dataset` of `splits`, `(paths, labels)` to train and to test with; its note is of `title` and `split`."""
    shape = check_shape(splits[0][0], input_shape)
    resize = input_shape is not None and None not in shape
    sources = [Files(tuple(paths), np.asarray(labels, np.int64), shape, resize) for paths, labels in splits]
    sides = "sizes of their own" if None in shape else f"{shape[0]}x{shape[1]}"
    size = f"{'resized to ' if resize else ''}{sides} {CHANNELS[shape[2]]} pixels"
    return make_dataset(name, f"{title}, {size}; {split}", class_names, *sources, skip_unreadable)


def check_shape(paths, input_shape):
    """The shape of a data set: `input_shape`, or that of the first picture that can be read.

    Raises:
        ValueError: `input_shape` breaks its rule, or no picture can be read.
    """
    if input_shape is None:
        error = None
        for path in paths:
            try:
                return read_image(path, (None, None, 3)).shape
            except ValueError as reason:
                error = error or reason
        raise error
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"`input_shape` (={shape}) must be `(height, width, channels)` with 1 or 3 channels.")
    if shape[:2] == (0, 0):
        return (None, None, shape[-1])
    for side in shape[:2]:
        _checks.positive("input_shape", side)
    return shape


def read_splits(train_folder, test_folder):
    """As `read_classes`, for two folders with the same classes: `(class_names, train, test)`."""
    class_names, train = read_classes(train_folder)
    test_names, test = read_classes(test_folder)
    if class_names != test_names:
        missing, extra = set(class_names) - set(test_names), set(test_names) - set(class_names)
        raise ValueError(
            f"The classes in {test_folder} differ from those in {train_folder}: "
            f"missing {sorted(missing) or 'none'}, additional {sorted(extra) or 'none'}."
        )
    return class_names, train, test


def _split(folder, seed):
    class_names, (paths, labels) = read_classes(folder)
    for name, count in zip(class_names, np.bincount(labels), strict=True):
        if count < 2:
            raise ValueError(f"The class folder {folder / name} holds one picture; a split needs at least 2.")
    train, test = (
        [[values[index] for index in part] for values in (paths, labels)]
        for part in stratified_split(labels, 0.2, seed)
    )
    return class_names, train, test


def read_classes(folder):
    """The names of the classes in `folder`, sorted, and the paths and labels of their pictures."""
    class_names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not class_names:
        raise ValueError(f"{folder} holds no class folders. {LAYOUT}")
    if len(class_names) < 2:
        raise ValueError(f"{folder} holds fewer than 2 class folders (only {class_names[0]!r}). {LAYOUT}")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        pictures = find_images(folder / name)
        if not pictures:
            raise ValueError(f"The class folder {folder / name} holds no picture ({', '.join(SUFFIXES)}).")
        paths += pictures
        labels += [label] * len(pictures)
    return class_names, (paths, labels)
