"""Folders of images as data sets: one folder per class, or unpacked archives of known data sets."""

from __future__ import annotations

import os
import pathlib
import unicodedata
import zipfile
from collections.abc import Sequence

import numpy as np

from keras_sharenets.images import read_image, with_unknown_sides
from keras_sharenets.training.data.dataset import (
    Arrays,
    Dataset,
    Files,
    add_validation,
    make_dataset,
    stratified_split,
)
from keras_sharenets.training.data.folder_layout import find_layout, read_classes
from keras_sharenets.training.data.sources import DataSource

CHANNELS = {1: "gray", 3: "RGB"}
IMAGENET32_BATCHES = 10

Split = tuple[Sequence[pathlib.Path], Sequence[int]]  # Paths and labels.


def load_folder(folder: pathlib.Path, source: DataSource) -> Dataset:
    """Loads a folder of images, which are decoded on demand.

    If `find_layout` finds splits, they are used. Otherwise the folders are the classes, and 20 % of each class, chosen
    by `source.split_seed`, are the test split. The data set is named after its folder.

    Without `input_shape`, all images must have the size of the first one and are read as RGB.

    Raises:
        ValueError: no class folders, fewer than 2 classes, a class without images, different classes in the training
            and test splits, ambiguous splits, or unreadable images. The message names the folder or the files.
    """
    layout = find_layout(folder, third_split=source.validation == "auto")
    if layout.test is not None:
        class_names, splits, left_out = _read_splits(layout.train, layout.test, layout.validation)
        split = f"{layout.test.name}/ is the test split"
        split += f", {layout.validation.name}/ the validation split" if layout.validation else ""
    else:
        class_names, splits, left_out = _split(layout.train, source.split_seed)
        split = f"20 % of each class are the test split (seed {source.split_seed})"
    name = folder.resolve().name
    left_out = (*layout.unused, *left_out)
    return _from_files(name, f"images of the folder {name}", split, class_names, splits, source, left_out)


def validate_on_folder(dataset: Dataset, folder: pathlib.Path, source: DataSource) -> Dataset:
    """The data set with the images of a folder, one folder per class, as its validation split.

    Raises:
        ValueError: the classes differ from those of the data set, or as in `load_folder`.
    """
    class_names, (paths, labels), left_out = read_classes(folder)
    if class_names != list(dataset.class_names):
        raise ValueError(
            f"The classes in {folder} ({', '.join(class_names)}) differ from those of {dataset.name} "
            f"({', '.join(dataset.class_names)})."
        )
    resize = source.input_shape is not None and None not in dataset.shape
    part = Files(tuple(paths), np.asarray(labels, np.int64), dataset.shape, resize)
    note = f"the images of the folder {folder.resolve().name} are the validation split"
    named = [f"{sentence} in {folder.name}/" for sentence in left_out]
    return add_validation(dataset, part, note, skip_unreadable=source.skip_unreadable, left_out=named)


def _from_files(
    name: str,
    title: str,
    split: str,
    class_names: Sequence[str],
    splits: Sequence[Split],
    source: DataSource,
    left_out: Sequence[str],
) -> Dataset:
    """A `Dataset` of the training, test and optional validation split; its note combines `title` and `split`."""
    given = source.input_shape
    shape = with_unknown_sides(given or _first_shape(splits[0][0]))
    resize = given is not None and None not in shape
    train, test, *third = [Files(tuple(paths), np.asarray(labels, np.int64), shape, resize) for paths, labels in splits]
    sides = "varying sizes," if None in shape else f"{shape[0]}x{shape[1]}"
    size = f"{'resized to ' if resize else ''}{sides} {CHANNELS[shape[2]]} pixels"
    note = f"{title}, {size}; {split}"
    skip = source.skip_unreadable
    third = third[0] if third else None
    return make_dataset(name, note, class_names, train, test, skip_unreadable=skip, left_out=left_out, validation=third)


def _first_shape(paths: Sequence[pathlib.Path]) -> tuple[int, int, int]:
    """The shape of the first readable image; raises the error of the first image if none is readable."""
    error = None
    for path in paths:
        try:
            return read_image(path, (None, None, 3)).shape
        except ValueError as reason:
            error = error or reason
    raise error or ValueError("There are no images.")


def _read_splits(
    train_folder: pathlib.Path, test_folder: pathlib.Path, validation_folder: pathlib.Path | None = None
) -> tuple[list[str], list[Split], list[str]]:
    """`(class names, [training, test and optional validation split], skipped files)` of folders with equal classes."""
    class_names, splits, named = [], [], []
    parts = {"train": train_folder, "test": test_folder, "validation": validation_folder}
    for name, folder in parts.items():
        if folder is None:
            continue
        found, images, left_out = read_classes(folder)
        class_names = class_names or found
        if class_names != found:
            missing, extra = sorted(set(class_names) - set(found)), sorted(set(found) - set(class_names))
            alike = set(map(_folded, missing)) == set(map(_folded, extra))
            why = " They differ in case, or in the Unicode form of an accent: rename the folders." if alike else ""
            raise ValueError(
                f"The classes in {folder} differ from those in {train_folder}: "
                f"missing {missing or 'none'}, additional {extra or 'none'}.{why}"
            )
        splits.append(images)
        named += [f"{sentence} in {name}/" for sentence in left_out]
    return class_names, splits, named


def _folded(name: str) -> str:
    """A name without the differences that a reader may not see: a Mac stores an accent as a character of its own."""
    return unicodedata.normalize("NFC", name).casefold()


def _split(folder: pathlib.Path, seed: int) -> tuple[list[str], list[Split], list[str]]:
    class_names, (paths, labels), left_out = read_classes(folder)
    for name, count in zip(class_names, np.bincount(labels), strict=True):
        if count < 2:
            raise ValueError(f"The class folder {folder / name} contains one image; a split needs at least 2.")
    splits: list[Split] = [
        ([paths[index] for index in part], [labels[index] for index in part])
        for part in stratified_split(labels, 0.2, seed)
    ]
    return class_names, splits, left_out


# Unpacked archives


def load_archive(name: str, folder: str | os.PathLike | None, source: DataSource) -> Dataset:
    """Loads the data set `name`, one of `ARCHIVES`, from the folder of its unpacked archive.

    Raises:
        ValueError: a part is missing or broken; the message names it.
    """
    if folder is None:
        raise ValueError(f"`--data {name}` needs `--data-dir`, the folder of the unpacked archive.")
    folder = pathlib.Path(folder)
    loader, parts = ARCHIVES[name]
    for part in parts:
        if not (folder / part).exists():
            raise ValueError(f"There is no {part} in {folder}, the folder of {name} (`--data-dir`).")
    return loader(folder, source)


def recognize(folder: pathlib.Path) -> str | None:
    """The name of the data set unpacked in a folder; `None` for a folder of other images."""
    found = (name for name, parts in MARKS.items() if all((folder / part).exists() for part in parts))
    return next(found, None)


def _load_tiny_imagenet(folder: pathlib.Path, source: DataSource) -> Dataset:
    """200 classes with 500 training and 50 test images each, 64x64. `test/` has no labels and is not used."""
    class_names, train, left_out = read_classes(folder / "train")
    annotations = folder / "val" / "val_annotations.txt"
    paths, labels = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        file, class_name, *_ = [*line.split("\t"), "", ""]
        if class_name not in class_names:
            raise ValueError(
                f"Line {number} of {annotations} must be a file and one of the classes, separated by a tab."
            )
        paths.append(folder / "val" / "images" / file)
        labels.append(class_names.index(class_name))
    splits = (train, (paths, labels))
    split = "val/ is the test split"
    return _from_files("tiny_imagenet", "Tiny ImageNet", split, class_names, splits, source, left_out)


def _load_cinic10(folder: pathlib.Path, source: DataSource) -> Dataset:
    """10 classes, 90,000 images of 32x32 in each of `train/`, `valid/` and `test/`."""
    third = folder / "valid" if source.validation == "auto" else None
    class_names, splits, left_out = _read_splits(folder / "train", folder / "test", third)
    split = f"test/ is the test split, valid/ {'is not used' if third is None else 'the validation split'}"
    return _from_files("cinic10", "CINIC-10", split, class_names, splits, source, left_out)


def _load_imagenet32(folder: pathlib.Path, source: DataSource) -> Dataset:
    """1,281,167 training and 50,000 test images, in memory: 4 GB, twice as much while loading.

    Each file contains `data`, uint8 `(images, 3072)`: the red values of an image, then green, then blue; and `labels`,
    counted from 1. A stored `mean` is ignored: the mean of the pixels is measured.
    """
    parts = [_read_npz(folder / name) for name in _IMAGENET32_TRAIN]
    train = Arrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    test = Arrays(*_read_npz(folder / "val_data.npz"))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    note = "ImageNet in 32x32 pixels; val_data.npz is the test split"
    return make_dataset("imagenet32", note, [str(number + 1) for number in range(classes)], train, test)


def _read_npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """`(images, labels)` of one file."""
    try:
        with np.load(path) as file:
            data, labels = file["data"], np.asarray(file["labels"], np.int64) - 1
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # For pickled objects numpy suggests `allow_pickle=True`, which would execute code from the file.
        what = "it contains objects, not arrays" if "allow_pickle" in str(error) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read: {what}") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1]:
        raise ValueError(f"`data` (={data.shape}) in {path} must be uint8 `(images, 3072)` with one label per image.")
    if not len(labels) or labels.min() < 0:
        raise ValueError(f"`labels` in {path} must be positive integers.")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


_IMAGENET32_TRAIN = tuple(f"train_data_batch_{number}.npz" for number in range(1, IMAGENET32_BATCHES + 1))
# By name: the loader, and the required files and folders.
ARCHIVES = {
    "tiny_imagenet": (_load_tiny_imagenet, ("train", "val/val_annotations.txt")),
    "cinic10": (_load_cinic10, ("train", "valid", "test")),
    "imagenet32": (_load_imagenet32, (*_IMAGENET32_TRAIN, "val_data.npz")),
}
# Files and folders that identify an unpacked data set.
MARKS = {
    "tiny_imagenet": ("val/val_annotations.txt",),
    "cinic10": ("train/airplane", "valid/airplane", "test/airplane"),
    "imagenet32": ("train_data_batch_1.npz", "val_data.npz"),
}
