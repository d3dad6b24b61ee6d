"""Batches for `model.fit`: a pure function of the seed, the epoch and the index."""

import dataclasses
import math

import keras
import numpy as np

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


def augment(images, augmentation, generator):
    """Pads, crops and flips; draws from `generator`.

    Args:
        images: uint8 array of shape `(pictures, height, width, channels)`.
        augmentation: `Augmentation`.
        generator: `numpy.random.Generator`.

    Returns:
        A float32 array of the same shape, values from 0 to 255.
    """
    count, height, width, channels = images.shape
    pad = augmentation.pad
    padded = np.empty((count, height + 2 * pad, width + 2 * pad, channels), "float32")
    padded[:] = augmentation.fill
    padded[:, pad : pad + height, pad : pad + width] = images
    tops = generator.integers(0, 2 * pad, count, endpoint=True)
    lefts = generator.integers(0, 2 * pad, count, endpoint=True)
    steps = np.where(augmentation.flip & (generator.random(count) < 0.5), -1, 1)
    changed = np.empty(images.shape, "float32")
    # One slice a picture copies whole rows; indexing all pixels at once takes 10 times as long.
    for picture, source, top, left, step in zip(changed, padded, tops, lefts, steps, strict=True):
        picture[:] = source[top : top + height, left : left + width][:, ::step]
    return changed


class Batches(keras.utils.PyDataset):
    """Batches of a split: float32 pictures with values from 0 to 255, and one-hot labels.

    With an augmentation these are training batches: shuffled anew in every epoch and all of one size (what is left over
    sits out that epoch, since a batch of another size would be compiled for again). Without, every picture comes once,
    in order and unchanged.

    For training, `model.fit` needs `callback()` among its callbacks and `shuffle=False`; or else it takes the batches
    of one epoch again and again, in another order.

    Args:
        source: `Arrays` or `Files`.
        class_count: int.
        batch_size: int; a training split that holds fewer pictures is one batch.
        augmentation: `Augmentation` for training, else `None`.
        seed: int, at least 0.
    """

    def __init__(self, source, class_count, batch_size, augmentation=None, seed=0):
        super().__init__()
        self.source = source
        self.class_count = class_count
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0

    def __len__(self):
        batches = len(self.source) / self.batch_size
        return math.ceil(batches) if self.augmentation is None else max(math.floor(batches), 1)

    def batch(self, epoch, index):
        """Batch `index` of epoch `epoch`, both counted from 0: `(pictures, one-hot labels)`, float32."""
        chosen = np.arange(len(self.source))
        if self.augmentation is not None:
            chosen = np.random.default_rng((self.seed, ORDER, epoch)).permutation(chosen)
        chosen = chosen[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.source.pixels(chosen)
        if self.augmentation is None:
            images = images.astype("float32")
        else:
            generator = np.random.default_rng((self.seed, CHANGES, epoch, index))
            images = augment(images, self.augmentation, generator)
        return images, np.eye(self.class_count, dtype="float32")[self.source.labels[chosen]]

    def __getitem__(self, index):
        return self.batch(self.epoch, index)

    def callback(self):
        """A callback for `model.fit` that says which epoch it is.

        The epoch hooks of `PyDataset` cannot: Keras also calls them before the first epoch, not alike on all backends.
        """

        def begin(epoch, logs=None):
            self.epoch = epoch

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def training_batches(dataset, recipe, seed):
    """The training split of a `Dataset`, as a `Recipe` wants it."""
    augmentation = Augmentation(recipe.pad, recipe.flip, dataset.mean)
    return Batches(dataset.train, len(dataset.class_names), recipe.batch_size, augmentation, seed)


def held_out_batches(dataset, batch_size):
    """The test split of a `Dataset`."""
    return Batches(dataset.test, len(dataset.class_names), batch_size)
