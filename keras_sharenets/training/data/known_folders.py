"""Data sets as they are unpacked from their archives: Tiny ImageNet, CINIC-10 and ImageNet-32."""

import pathlib
import zipfile

import numpy as np

from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.data.image_folders import from_files, read_classes, read_splits

TRAIN_BATCHES = 10


def load_tiny_imagenet(folder, input_shape=None, skip_unreadable=False):
    """Tiny ImageNet: 200 classes of 500 pictures to train with and 50 to test with, 64x64.

    Args:
        folder: path with `train/<class>/images/*.JPEG`, `val/images/*.JPEG` and `val/val_annotations.txt`. Its `test/`
            has no labels and is not used.
        input_shape, skip_unreadable: as in `keras_sharenets.training.data.sources.load`.

    Raises:
        ValueError: a part is missing or broken; the message names it.
    """
    folder = _existing(folder, "tiny_imagenet", "train", "val/val_annotations.txt")
    class_names, train = read_classes(folder / "train")
    annotations = folder / "val" / "val_annotations.txt"
    paths, labels = [], []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        file, class_name, *_ = [*line.split("\t"), "", ""]
        if class_name not in class_names:
            raise ValueError(
                f"Line {number} of {annotations} must be a file and one of the classes, tabs between them."
            )
        paths.append(folder / "val" / "images" / file)
        labels.append(class_names.index(class_name))
    splits = (train, (paths, labels))
    split = "val/ is the test split"
    return from_files("tiny_imagenet", "Tiny ImageNet", split, class_names, splits, input_shape, skip_unreadable)


def load_cinic10(folder, input_shape=None, skip_unreadable=False):
    """CINIC-10: 10 classes, 90,000 pictures of 32x32 in each of `train/`, `valid/` and `test/`.

    Args:
        folder: path with these three, one folder of pictures per class in each. `valid/` is not used.
        input_shape, skip_unreadable: as in `keras_sharenets.training.data.sources.load`.

    Raises:
        ValueError: a part is missing or broken; the message names it.
    """
    folder = _existing(folder, "cinic10", "train", "valid", "test")
    class_names, *splits = read_splits(folder / "train", folder / "test")
    split = "test/ is the test split, valid/ is not used"
    return from_files("cinic10", "CINIC-10", split, class_names, splits, input_shape, skip_unreadable)


def load_imagenet32(folder):
    """ImageNet in 32x32: 1,281,167 pictures to train with and 50,000 to test with, in memory.

    That takes 4 GB, and twice as much while it is read.

    Args:
        folder: path with `train_data_batch_1.npz` to `train_data_batch_10.npz` and `val_data.npz`, each with `data`,
            uint8 `(pictures, 3072)`, all red values of a picture, then all green, then all blue ones, and `labels`
            from 1 on. A `mean` in them is not used: that of the pixels is measured.

    Raises:
        ValueError: a part is missing or broken; the message names it.
    """
    names = [f"train_data_batch_{number}.npz" for number in range(1, TRAIN_BATCHES + 1)]
    folder = _existing(folder, "imagenet32", *names, "val_data.npz")
    parts = [_read_npz(folder / name) for name in names]
    train = Arrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    test = Arrays(*_read_npz(folder / "val_data.npz"))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    note = "ImageNet in 32x32 pixels; val_data.npz is the test split"
    return make_dataset("imagenet32", note, [str(number + 1) for number in range(classes)], train, test)


def _read_npz(path):
    """`(images, labels)` of one file."""
    try:
        with np.load(path) as file:
            data, labels = file["data"], np.asarray(file["labels"], np.int64) - 1
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1]:
        raise ValueError(
            f"`data` in {path} must be uint8 `(pictures, 3072)` with one of `labels` each; is {data.shape}."
        )
    if not len(labels) or labels.min() < 0:
        raise ValueError(f"`labels` in {path} must be positive integers.")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _existing(folder, name, *parts):
    if folder is None:
        raise ValueError(f"`--data {name}` needs `--data-dir`: the folder into which it was unpacked.")
    folder = pathlib.Path(folder)
    for part in parts:
        if not (folder / part).exists():
            raise ValueError(f"There is no {part} in the folder {folder}, where {name} should be (`--data-dir`).")
    return folder


LOADERS = {"tiny_imagenet": load_tiny_imagenet, "cinic10": load_cinic10, "imagenet32": load_imagenet32}
# By what a folder is known that is given by its path.
MARKS = {
    "tiny_imagenet": ("val/val_annotations.txt",),
    "cinic10": ("train/airplane", "valid/airplane", "test/airplane"),
    "imagenet32": ("train_data_batch_1.npz", "val_data.npz"),
}


def recognise(folder):
    """The name of the data set that lies in a folder, or `None` for a folder of other pictures."""
    marked = (name for name, parts in MARKS.items() if all((folder / part).exists() for part in parts))
    return next(marked, None)
