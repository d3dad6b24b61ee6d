"""What a data set is to a trainer: raw pixels with labels, in a training and a test split."""

import collections.abc
import concurrent.futures
import dataclasses

import numpy as np

from keras_sharenets.images import read_image

CHUNK = 256  # Pictures that are held in memory at a time, where all have to be read.
EXAMINED = 100_000  # Of more pictures in files than these, so many are looked at beforehand, evenly spread.
NAMED = 10  # Pictures that cannot be read and are named in one message.


class UnreadableError(ValueError):
    """A file that is no picture, whatever else is asked of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Pictures in memory.

    Attributes:
        images: uint8 array of shape `(pictures, height, width, channels)`.
        labels: int64 array of shape `(pictures,)`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    @property
    def shape(self):
        """`(height, width, channels)`."""
        return self.images.shape[1:]

    def part(self, indices):
        """A source with the pictures of these indices alone."""
        return Arrays(self.images[indices], self.labels[indices])

    def pixels(self, indices):
        """The pictures of these indices, as a uint8 array."""
        return self.images[indices]

    def attempt(self, indices):
        """As `pixels`, as a list."""
        return list(self.images[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Pictures that stay in their files until they are asked for.

    Attributes:
        paths: tuple of paths, or of whatever else `reader` finds a picture by.
        labels: int64 array of shape `(pictures,)`.
        shape: `(height, width, channels)` of every picture; height and width of `None`: each has its own.
        resize: bool, whether a picture of another size is resized; otherwise it is an error.
        reader: function of a path and a shape, as `keras_sharenets.images.read_image`.
    """

    paths: tuple
    labels: np.ndarray
    shape: tuple
    resize: bool
    reader: collections.abc.Callable = read_image

    def __len__(self):
        return len(self.labels)

    def part(self, indices):
        """A source with the pictures of these indices alone."""
        return dataclasses.replace(
            self, paths=tuple(self.paths[index] for index in indices), labels=self.labels[indices]
        )

    def pixels(self, indices):
        """The pictures of these indices, as a uint8 array, or as a list of them where each has its own size.

        A `ValueError` names a file that is no such picture.
        """
        pictures = self.attempt(indices)
        for picture in pictures:
            if isinstance(picture, UnreadableError):
                raise picture
        return pictures if None in self.shape else np.stack(pictures)

    def attempt(self, indices):
        """The pictures of these indices, as a list; an `UnreadableError` in place of one that cannot be read."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(self._read, [self.paths[index] for index in indices]))

    def _read(self, path):
        shape = self.shape if self.resize else (None, None, self.shape[-1])
        try:
            picture = self.reader(path, shape)
        except ValueError as error:
            return UnreadableError(str(error))
        if None not in self.shape and picture.shape != self.shape:
            raise ValueError(
                f"{path} has the shape {picture.shape}, the first picture {self.shape}: "
                "give an `input_shape`, to which all are resized."
            )
        return picture


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures to train and to test with.

    Attributes:
        name: str; the recipe of a run is looked up by it.
        note: str, one sentence that belongs beside every accuracy: where the pictures come from, how they were split.
        class_names: tuple of str; a label is an index into it.
        train, test: `Arrays` or `Files`.
        shape: `(height, width, channels)` of every picture; height and width of `None`: each has its own.
        mean, variance: tuples, one number a channel, of the training pixels (0 to 255).
        unreadable: tuple of str, what is wrong with each file that was left out.
    """

    name: str
    note: str
    class_names: tuple
    train: Arrays | Files
    test: Arrays | Files
    shape: tuple
    mean: tuple
    variance: tuple
    unreadable: tuple = ()


def make_dataset(name, note, class_names, train, test, skip_unreadable=False):
    """A `Dataset` whose mean and variance are measured.

    Every picture is read once, so that a broken one shows now; of more than 100,000 in files, so many.

    Args:
        name, note, class_names, train, test: as in `Dataset`.
        skip_unreadable: bool, whether pictures that cannot be read are left out.

    Raises:
        ValueError: pictures cannot be read and are not to be left out, or they are all that a class has; the message
            names them.
    """
    (train, (mean, variance), broken), (test, _, more) = map(_examine, (train, test))
    unreadable = tuple(map(str, (*broken, *more)))
    if unreadable and not skip_unreadable:
        raise ValueError(f"{_list(unreadable)} `--skip-unreadable` leaves such pictures out.")
    for label, class_name in enumerate(class_names):
        if unreadable and not (train.labels == label).any():
            raise ValueError(
                f"The class {class_name!r} has no picture to train with that can be read. {_list(unreadable)}"
            )
    if unreadable:
        note = f"{note}; {len(unreadable)} unreadable pictures are left out"
    return Dataset(name, note, tuple(class_names), train, test, tuple(train.shape), mean, variance, unreadable)


def _list(complaints):
    more = f" And {len(complaints) - NAMED} more." if len(complaints) > NAMED else ""
    return f"{'. '.join(complaints[:NAMED])}.{more}"


def stratified_split(labels, share, seed):
    """Splits each class by itself, with at least one picture on either side.

    Args:
        labels: int array; each class has 2 pictures or more.
        share: float, the part of each class that goes to the test split, rounded to whole pictures.
        seed: int.

    Returns:
        `(train, test)`: index arrays, sorted.

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
    test = np.sort(np.asarray(test))
    return np.setdiff1d(np.arange(len(labels)), test), test


def chunks(source):
    """All pictures of a source, some at a time, as arrays."""
    for indices in _parts(np.arange(len(source))):
        yield source.pixels(indices)


def _parts(indices):
    return (indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK))


def _examine(source):
    """Reads the pictures of a source.

    Returns:
        `(source without those that cannot be read, (mean, variance) a channel, errors)`. Mean and variance are rounded
        to float32: a picture padded with the mean is then exactly 0 when normalised.
    """
    looked_at = np.arange(len(source))
    if isinstance(source, Files) and len(source) > EXAMINED:
        looked_at = np.linspace(0, len(source) - 1, EXAMINED).astype(int)
    count, total, squares, broken = 0, 0.0, 0.0, {}
    for indices in _parts(looked_at):
        attempts = dict(zip(indices.tolist(), source.attempt(indices), strict=True))
        errors = {index: entry for index, entry in attempts.items() if isinstance(entry, UnreadableError)}
        broken |= errors
        pixels = [entry.reshape(-1, source.shape[-1]) for index, entry in attempts.items() if index not in errors]
        if pixels:
            values = np.concatenate(pixels).astype("float64")
            count += len(values)
            total = total + values.sum(axis=0)
            squares = squares + np.square(values).sum(axis=0)
    mean = total / max(count, 1)
    variance = squares / max(count, 1) - np.square(mean)
    statistics = tuple(tuple(map(float, np.atleast_1d(np.float32(values)))) for values in (mean, variance))
    good = source.part(np.setdiff1d(np.arange(len(source)), list(broken))) if broken else source
    return good, statistics, list(broken.values())
