"""Batches for `model.fit`: a pure function of the seed, the epoch and the index.

Not Grain's: measured, it took 7.8 ms for a batch that takes 4.6 ms here.
"""

import functools
import math

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.training.data.augmentation import Augmentation, augment, draw_changes
from keras_sharenets.training.data.crops import CENTER, crop_views
from keras_sharenets.training.run.network import input_shape

# Two streams of random numbers from one seed: the order of an epoch, and the changes to the pictures of a batch.
ORDER, CHANGES = 0, 1


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
        view: function from pictures to the part of each that is tested, as float32; `None`: all of it.

    Raises:
        ValueError: an argument breaks a rule.
    """

    def __init__(
        self, source, class_count, batch_size, augmentation=None, seed=0, *, worker=0, workers=1, first=0, view=None
    ):
        super().__init__()
        _checks.positive("workers", workers)
        _checks.one_of("worker", worker, range(workers))
        _checks.divides("workers", workers, "`batch_size`", batch_size)
        self.source = source
        self.class_count = class_count
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        # Keras takes `workers` of a `PyDataset` for a number of threads; one, since more may keep old batches over.
        self.part = worker
        self.parts = workers
        self.first = first
        self.view = view
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
        part = np.array_split(np.arange(len(chosen)), self.parts)[self.part]
        images = self.source.pixels(chosen[part])
        if self.augmentation is None:
            images = images.astype("float32") if self.view is None else self.view(images)
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
    """The training split of a `Dataset`, as a `Recipe` wants it; `part` is `worker`, `workers` and `first`.

    Raises:
        ValueError: the recipe changes colours, but the pictures are grey.
    """
    height, width, channels = input_shape(dataset, recipe)
    for name in ("jitter", "lighting"):
        if getattr(recipe, name) and channels != 3:
            raise ValueError(f"`{name}` (={getattr(recipe, name)}) is for colours, but {dataset.name} is grey.")
    augmentation = Augmentation(
        recipe.pad,
        recipe.flip,
        dataset.mean,
        recipe.border,
        recipe.crop,
        (height, width),
        recipe.jitter,
        recipe.lighting,
    )
    return Batches(dataset.train, len(dataset.class_names), recipe.batch_size, augmentation, seed, **part)


def held_out_batches(dataset, batch_size, size=None, view=CENTER):
    """The test split of a `Dataset`; with a `size`, `(height, width)`, one of the ten views of each picture."""
    views = None if size is None else functools.partial(crop_views, size=size, view=view)
    return Batches(dataset.test, len(dataset.class_names), batch_size, view=views)
