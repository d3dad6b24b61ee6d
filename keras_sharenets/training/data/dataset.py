"""Data sets for training: raw pixels with labels, in a training and a test split."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_sharenets.images import read_image
from keras_sharenets.rendering.tables import text_table

if TYPE_CHECKING:
    from keras_sharenets.training.data.sources import DataSource

CHUNK = 256  # Maximum number of images in memory when all images of a split are read; `FEW` if their sizes vary.
FEW, BYTES = 16, 2**28  # Maximum number of bytes of these images.
EXAMINED = 100_000  # Maximum number of image files, evenly spaced, to read in advance.
LISTED = 20  # Maximum number of classes to list one by one.
NAMED = 10  # Maximum number of unreadable images to name in a message.

Shape = tuple[int | None, int | None, int]
Images = np.ndarray | Sequence[np.ndarray]  # uint8 `(images, height, width, channels)`, or images of many sizes.


class UnreadableError(ValueError):
    """A file cannot be read as an image."""


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Attributes:
        images: uint8 array of shape `(images, height, width, channels)`.
        labels: int64 array of shape `(images,)`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """`(height, width, channels)`."""
        return self.images.shape[1:]

    def part(self, indices: np.ndarray) -> Arrays:
        """The subset of the images with these indices."""
        return Arrays(self.images[indices], self.labels[indices])

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """The images with these indices, as a uint8 array."""
        return self.images[indices]

    def attempt(self, indices: np.ndarray) -> list[np.ndarray]:
        """As `pixels`, but returns a list."""
        return list(self.images[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Images that are decoded from files on demand.

    Attributes:
        paths: paths, or other keys of the images for `reader`.
        labels: int64 array of shape `(images,)`.
        shape: `(height, width, channels)` of every image; height and width are `None` if image sizes vary.
        resize: whether to resize images of another size; otherwise they raise an error.
        reader: function of a path and a shape, like `keras_sharenets.images.read_image`.
    """

    paths: tuple
    labels: np.ndarray
    shape: Shape
    resize: bool
    reader: Callable[..., np.ndarray] = read_image

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, indices: np.ndarray) -> Files:
        """The subset of the images with these indices."""
        return dataclasses.replace(
            self, paths=tuple(self.paths[index] for index in indices), labels=self.labels[indices]
        )

    def pixels(self, indices: np.ndarray) -> Images:
        """The images with these indices, as a uint8 array, or as a list of arrays if image sizes vary.

        Raises:
            ValueError: a file is not a readable image of this shape; the message names it.
        """
        images = []
        for image in self.attempt(indices):
            if isinstance(image, UnreadableError):
                raise image
            images.append(image)
        return images if None in self.shape else np.stack(images)

    def attempt(self, indices: np.ndarray) -> list[np.ndarray | UnreadableError]:
        """The images with these indices, as a list with an `UnreadableError` in place of each unreadable image."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(self._read, [self.paths[index] for index in indices]))

    def _read(self, path) -> np.ndarray | UnreadableError:
        shape = self.shape if self.resize else (None, None, self.shape[-1])
        try:
            image = self.reader(path, shape)
        except ValueError as error:
            return UnreadableError(str(error))
        if None not in self.shape and image.shape != self.shape:
            raise ValueError(
                f"{path} has the shape {image.shape}, the first image {self.shape}: "
                "set `input_shape` to resize all images."
            )
        return image


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images for training and testing.

    Attributes:
        name: name of the data set; selects the default recipe.
        note: one sentence to quote with every accuracy: the origin of the images and the split.
        class_names: names of the classes, indexed by label.
        train, test: the splits.
        validation: split to compare the epochs of a run on; `None` to use the test split.
        shape: `(height, width, channels)` of every image; height and width are `None` if image sizes vary.
        mean, variance: statistics of the training pixels (0 to 255), one number per channel.
        unreadable: the error of each skipped file.
        left_out: other files and folders that were skipped, with the reason.
        source: source to load the data set from again, or `None`.
        checksums: of the pixels and labels of each split, in order; empty if unknown. They cover the training split
            before a part of it becomes the validation split, whose checksum is then that of its indices.
    """

    name: str
    note: str
    class_names: tuple[str, ...]
    train: Arrays | Files
    test: Arrays | Files
    shape: Shape
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    unreadable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    source: DataSource | None = None
    validation: Arrays | Files | None = None
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make_dataset(
    name: str,
    note: str,
    class_names: Sequence[str],
    train: Arrays | Files,
    test: Arrays | Files,
    *,
    skip_unreadable: bool = False,
    left_out: Sequence[str] = (),
    validation: Arrays | Files | None = None,
) -> Dataset:
    """Creates a `Dataset` and measures its mean, variance, and checksums.

    Every image is read once to detect unreadable ones; at most 100,000 image files per split.

    Args:
        name, note, class_names, train, test, left_out, validation: as in `Dataset`.
        skip_unreadable: whether to skip unreadable images.

    Raises:
        ValueError: there are unreadable images and `skip_unreadable` is `False`, or a class or a split has no readable
            image; the message names them. Or images are not uint8, or a label is missing or no number of a class.
    """
    for split, part in (("train", train), ("test", test), ("validation", validation)):
        if part is not None:
            _check_labels(split, part, len(class_names))
    examined = [_examine(part) for part in (train, test, validation) if part is not None]
    (train, test, *third), statistics, broken, checksums = zip(*examined, strict=True)
    mean, variance = statistics[0]
    unreadable = tuple(str(error) for errors in broken for error in errors)
    _check_readable(unreadable, skip_unreadable)
    for label, class_name in enumerate(class_names):
        if unreadable and not (train.labels == label).any():
            raise ValueError(f"The class {class_name!r} has no readable training image. {_list(unreadable)}")
    for split, part in zip(("test", "validation"), (test, *third), strict=False):
        if unreadable and not len(part):
            raise ValueError(f"The {split} split has no readable image. {_list(unreadable)}")
    if unreadable:
        note = f"{note}; {len(unreadable)} unreadable images are left out"
    names, others = tuple(class_names), tuple(left_out)
    return Dataset(
        name,
        note,
        names,
        train,
        test,
        train.shape,
        mean,
        variance,
        unreadable,
        others,
        validation=next(iter(third), None),
        checksums=dict(zip(("train", "test", "validation"), checksums, strict=False)),
    )


def _check_labels(split: str, part: Arrays | Files, classes: int) -> None:
    images, labels = part.images if isinstance(part, Arrays) else part.paths, part.labels
    if isinstance(part, Arrays) and part.images.dtype != np.uint8:
        raise ValueError(f"`{split}` (of type {part.images.dtype}) must have uint8 images with values from 0 to 255.")
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"`{split}` (={len(images)} images and {len(labels)} labels) must have one label per image.")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"`{split}` (with the label {wrong}) must have labels from 0 to {classes - 1}.")


def changed_split(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first split whose images have changed; `None` if there is none.

    Args:
        before, now: `Dataset.checksums`. A split that is missing on one side, as in older records, counts as unchanged.

    >>> changed_split({"train": "0a", "test": "0b"}, {"train": "0a", "test": "0c"})
    'test'
    """
    return next((split for split, checksum in before.items() if now.get(split, checksum) != checksum), None)


def add_validation(
    dataset: Dataset, validation: Arrays | Files, note: str, *, skip_unreadable: bool, left_out: Sequence[str] = ()
) -> Dataset:
    """The data set with a separate validation split, described by `note`; raises the errors of `make_dataset`."""
    validation, _, broken, checksum = _examine(validation)
    unreadable = tuple(map(str, broken))
    _check_readable(unreadable, skip_unreadable)
    if not len(validation):
        raise ValueError(f"The validation split is empty: none of its {len(unreadable)} images can be read.")
    return dataclasses.replace(
        dataset,
        note=f"{dataset.note}; {note}",
        validation=validation,
        unreadable=(*dataset.unreadable, *unreadable),
        left_out=(*dataset.left_out, *left_out),
        checksums={**dataset.checksums, "validation": checksum},
    )


def _check_readable(unreadable: Sequence[str], skip_unreadable: bool) -> None:
    if unreadable and not skip_unreadable:
        raise ValueError(f"{_list(unreadable)} Use `--skip-unreadable` to skip such images.")


def describe_dataset(dataset: Dataset) -> str:
    """A summary of a data set: number of images per class and split, and skipped files."""
    counts = count_images(dataset)
    totals = [sum(counts[name]) for name in dataset.class_names]
    lines = [f"{dataset.name}: {dataset.note}"]
    shown = dataset.class_names if len(totals) <= LISTED else ()
    parts = _splits(dataset)
    rows = [("class", *parts), *((name, *map(str, counts[name])) for name in shown)]
    if not shown:
        rows.append((f"{len(totals)} classes of {min(totals):,} to {max(totals):,}", *[""] * len(parts)))
    rows.append(("all", *(f"{len(part):,}" for part in parts.values())))
    lines += text_table(rows, align="l" + "r" * len(parts)).splitlines()
    lines += [f"skipped: {sentence}" for sentence in (*dataset.left_out, *dataset.unreadable)]
    return "\n".join(lines)


def count_images(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Maps each class name to its number of images in the training, test and (if present) validation split."""
    parts = _splits(dataset).values()
    columns = (np.bincount(part.labels, minlength=len(dataset.class_names)) for part in parts)
    counts = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(dataset.class_names, counts, strict=True))


def _splits(dataset: Dataset) -> dict[str, Arrays | Files]:
    third = {} if dataset.validation is None else {"validation": dataset.validation}
    return {"train": dataset.train, "test": dataset.test, **third}


def _list(complaints: Sequence[str]) -> str:
    more = f" And {len(complaints) - NAMED} more." if len(complaints) > NAMED else ""
    return f"{'. '.join(complaints[:NAMED])}.{more}"


def stratified_split(labels: Sequence[int] | np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits each class separately, with at least one image on either side.

    Args:
        labels: integer labels; each class must have at least 2 images.
        share: fraction of each class in the test split, rounded to an integer number of images.
        seed: random seed.

    Returns:
        `(train, test)`: sorted index arrays.

    >>> train, test = stratified_split([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], share=0.2, seed=0)
    >>> len(train), len(test), sorted(int(index) // 5 for index in test)
    (8, 2, [0, 1])
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    test = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        test.extend(members[: min(max(round(share * len(members)), 1), len(members) - 1)])
    test = np.sort(np.asarray(test, np.int64))
    return np.setdiff1d(np.arange(len(labels)), test), test


def chunks(source: Arrays | Files) -> Iterator[Images]:
    """Yields all images of a source in chunks, as `pixels` returns them."""
    for indices in _parts(np.arange(len(source)), source.shape):
        yield source.pixels(indices)


def _parts(indices: np.ndarray, shape: Shape) -> Iterator[np.ndarray]:
    height, width, channels = shape
    size = FEW if height is None or width is None else max(min(CHUNK, BYTES // (height * width * channels)), 1)
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _examine(source: Arrays | Files) -> tuple:
    """Reads the images of a source.

    Returns:
        `(source without unreadable images, (mean, variance) per channel, errors, checksum)`. Mean and variance are
        rounded to float32, so that padding with the mean is exactly 0 after normalization.
    """
    looked_at = np.arange(len(source))
    if isinstance(source, Files) and len(source) > EXAMINED:
        looked_at = np.linspace(0, len(source) - 1, EXAMINED).astype(int)
    # How often each level occurs in each channel: exact, and a large image takes no more memory than its pixels.
    occurrences, broken, checksum = np.zeros((source.shape[-1], 256), np.int64), {}, 0
    for indices in _parts(looked_at, source.shape):
        attempts = dict(zip(indices.tolist(), source.attempt(indices), strict=True))
        errors = {index: entry for index, entry in attempts.items() if isinstance(entry, UnreadableError)}
        broken |= errors
        for index, image in attempts.items():
            if not isinstance(image, UnreadableError):
                checksum = zlib.crc32(f"{source.labels[index]} {image.shape}".encode(), checksum)
                checksum = zlib.crc32(np.ascontiguousarray(image).data, checksum)
                for channel, counts in enumerate(occurrences):
                    counts += np.bincount(image[..., channel].ravel(), minlength=256)
    levels, count = np.arange(256), max(occurrences[0].sum(), 1)
    mean = occurrences @ levels / count
    variance = occurrences @ levels**2 / count - np.square(mean)
    statistics = tuple(tuple(np.asarray(values, "float32").tolist()) for values in (mean, variance))
    good = source.part(np.setdiff1d(np.arange(len(source)), list(broken))) if broken else source
    return good, statistics, list(broken.values()), f"{checksum:08x}"
