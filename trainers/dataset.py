"""What a data set is to a trainer: raw pixels with labels, in a training and a test split."""

import concurrent.futures
import dataclasses

import numpy as np

from keras_sharenets.pictures import read_picture

CHUNK = 256  # Pictures that are held in memory at a time, where all have to be read.


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

    def pixels(self, indices):
        """The pictures of these indices, as a uint8 array."""
        return self.images[indices]


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Pictures that stay in their files until they are asked for.

    Attributes:
        paths: tuple of paths.
        labels: int64 array of shape `(pictures,)`.
        shape: `(height, width, channels)` of every picture.
        resize: bool, whether a picture of another size is resized; otherwise it is an error.
    """

    paths: tuple
    labels: np.ndarray
    shape: tuple
    resize: bool

    def __len__(self):
        return len(self.labels)

    def pixels(self, indices):
        """The pictures of these indices, as a uint8 array; a `ValueError` names a file that is no such picture."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(self._read, [self.paths[index] for index in indices])))

    def _read(self, path):
        if self.resize:
            return read_picture(path, self.shape)
        picture = read_picture(path, (None, None, self.shape[-1]))
        if picture.shape != self.shape:
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
        shape: `(height, width, channels)` of every picture.
        mean, variance: tuples, one number a channel, of the training pixels (0 to 255).
    """

    name: str
    note: str
    class_names: tuple
    train: Arrays | Files
    test: Arrays | Files
    shape: tuple
    mean: tuple
    variance: tuple


def make_dataset(name, note, class_names, train, test):
    """A `Dataset` whose mean and variance are measured; reads every picture once, so that a broken one shows now.

    Raises:
        ValueError: a picture cannot be read; the message names it.
    """
    mean, variance = _statistics(train)
    if isinstance(test, Files):
        for _ in _chunks(test):
            pass
    shape = train.pixels([0]).shape[1:]
    return Dataset(name, note, tuple(class_names), train, test, shape, mean, variance)


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


def _chunks(source):
    for start in range(0, len(source), CHUNK):
        yield source.pixels(np.arange(start, min(start + CHUNK, len(source))))


def _statistics(source):
    """Mean and variance a channel. Rounded to float32: a picture padded with the mean is then exactly 0 normalised."""
    count, total, squares = 0, 0.0, 0.0
    for pixels in _chunks(source):
        values = pixels.reshape(-1, pixels.shape[-1]).astype("float64")
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    mean = total / count
    variance = squares / count - np.square(mean)
    return tuple(map(float, np.float32(mean))), tuple(map(float, np.float32(variance)))
