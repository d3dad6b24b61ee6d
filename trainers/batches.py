"""Batches for `model.fit`: a pure function of the seed, the epoch and the index."""

import dataclasses
import functools
import math

import keras
import numpy as np

from keras_sharenets import _checks

# Two streams of random numbers from one seed: the order of an epoch, and the changes to the pictures of a batch.
ORDER, CHANGES = 0, 1


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training pictures are changed.

    Attributes:
        pad: int, pixels of padding on each side before a crop of the old size at a random place.
        flip: bool, whether every other picture, at random, is mirrored left to right.
        fill: tuple, the colour of the padding, one number a channel. The mean, which becomes 0 when normalised.
    """

    pad: int
    flip: bool
    fill: tuple


def draw_changes(augmentation, count, generator):
    """Draws from `generator` how `count` pictures are changed.

    Returns:
        `(tops, lefts, steps)`: int arrays of shape `(count,)`, the upper left corner of each crop and the step of its
        columns, -1 for a mirrored picture.
    """
    tops = generator.integers(0, 2 * augmentation.pad, count, endpoint=True)
    lefts = generator.integers(0, 2 * augmentation.pad, count, endpoint=True)
    return tops, lefts, np.where(augmentation.flip & (generator.random(count) < 0.5), -1, 1)


def augment(images, augmentation, changes):
    """Pads, crops and flips.

    Args:
        images: uint8 array of shape `(pictures, height, width, channels)`.
        augmentation: `Augmentation`.
        changes: as `draw_changes` returns them, one entry a picture.

    Returns:
        A float32 array of the same shape, values from 0 to 255.
    """
    count, height, width, channels = images.shape
    pad = augmentation.pad
    padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), "float32")
    padded[:] = augmentation.fill
    padded[:, pad : pad + height, pad : pad + width] = images
    changed = np.empty(images.shape, "float32")
    # One slice a picture copies whole rows; indexing all pixels at once takes 10 times as long.
    for picture, source, top, left, step in zip(changed, padded, *changes, strict=True):
        picture[:] = source[top : top + height, left : left + width][:, ::step]
    return changed


# An epoch's order is wanted once a batch; two, since batches are fetched ahead.
@functools.lru_cache(maxsize=2)
def _order(seed, epoch, count):
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


class Batches(keras.utils.PyDataset):
    """Batches of a split: float32 pictures with values from 0 to 255, and one-hot labels.

    With an augmentation these are training batches: shuffled anew in every epoch and all of one size (what is left over
    sits out that epoch, since a batch of another size would be compiled for again). Without, every picture comes once,
    in order and unchanged.

    For training, `model.fit` needs `callback()` among its callbacks and `shuffle=False`; or else it takes the batches
    of one epoch again and again, in another order.

    Several workers share every batch: each has its own part of the same global batch, in order.

    Args:
        source: `Arrays` or `Files`.
        class_count: int.
        batch_size: int, of all workers together; a training split that holds fewer pictures is one batch.
        augmentation: `Augmentation` for training, else `None`.
        seed: int, at least 0.
        worker: int, which of the `workers` this is, counted from 0.
        workers: int; divides `batch_size`.
        first: int, the step of the epoch at which `model.fit` begins; `batch` counts from 0 all the same.

    Raises:
        ValueError: an argument breaks a rule.
    """

    def __init__(self, source, class_count, batch_size, augmentation=None, seed=0, *, worker=0, workers=1, first=0):
        super().__init__()
        _checks.positive("workers", workers)
        _checks.one_of("worker", worker, range(workers))
        _checks.divides("workers", workers, "`batch_size`", batch_size)
        self.source = source
        self.class_count = class_count
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.worker = worker
        self.workers = workers
        self.first = first
        self.epoch = 0
        self.failure = None  # The error of a batch that could not be had; `model.fit` need not pass it on as it is.

    def __len__(self):
        return self.steps - self.first

    @property
    def steps(self):
        """Batches of a whole epoch."""
        batches = len(self.source) / self.batch_size
        return math.ceil(batches) if self.augmentation is None else max(math.floor(batches), 1)

    def batch(self, epoch, index):
        """This worker's part of batch `index` of epoch `epoch`, both counted from 0.

        Returns:
            `(pictures, one-hot labels)`, float32. They depend on the arguments and on nothing else.
        """
        count = len(self.source)
        order = np.arange(count) if self.augmentation is None else _order(self.seed, epoch, count)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        part = np.array_split(np.arange(len(chosen)), self.workers)[self.worker]
        images = self.source.pixels(chosen[part])
        if self.augmentation is None:
            images = images.astype("float32")
        else:
            # Drawn for the pictures of all workers, so that their number changes nothing.
            generator = np.random.default_rng((self.seed, CHANGES, epoch, index))
            changes = draw_changes(self.augmentation, len(chosen), generator)
            images = augment(images, self.augmentation, [change[part] for change in changes])
        return images, np.eye(self.class_count, dtype="float32")[self.source.labels[chosen[part]]]

    def __getitem__(self, index):
        try:
            return self.batch(self.epoch, self.first + index)
        except ValueError as error:
            self.failure = error
            raise

    def callback(self):
        """A callback for `model.fit` that says which epoch it is.

        The epoch hooks of `PyDataset` cannot: Keras also calls them before the first epoch, not alike on all backends.
        """

        def begin(epoch, logs=None):
            self.epoch = epoch

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def training_batches(dataset, recipe, seed, **part):
    """The training split of a `Dataset`, as a `Recipe` wants it; `part` is `worker`, `workers` and `first`."""
    augmentation = Augmentation(recipe.pad, recipe.flip, dataset.mean)
    return Batches(dataset.train, len(dataset.class_names), recipe.batch_size, augmentation, seed, **part)


def held_out_batches(dataset, batch_size):
    """The test split of a `Dataset`."""
    return Batches(dataset.test, len(dataset.class_names), batch_size)
