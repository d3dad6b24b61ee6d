"""Batches for `model.fit`: a pure function of the seed, the epoch and the index.

This is faster than Grain: 4.6 ms for a batch, compared to 7.8 ms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.training.data.augmentation import CENTER, Augmentation, Size, augment, crop_views, draw_changes
from keras_sharenets.training.data.dataset import FEW, Arrays, Dataset, Files, Images
from keras_sharenets.training.recipes.recipe import Recipe

# Two random streams from one seed: the order of an epoch, and the augmentation of a batch.
ORDER, CHANGES = 0, 1


# Every batch needs the order of its epoch; two orders are cached because batches are prefetched.
@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


class Batches(keras.utils.PyDataset):
    """Batches of a split: float32 images with values from 0 to 255, and one-hot labels.

    With an augmentation these are training batches: reshuffled in every epoch and all of one size. The remaining images
    of an epoch are dropped, since a smaller batch would trigger another compilation. Without an augmentation, every
    image occurs once, in order and unchanged.

    For training, pass `callback()` and `shuffle=False` to `model.fit`; otherwise it repeats the batches of one epoch in
    another order.

    Several workers share every batch: each gets a consecutive part of the same global batch.

    Args:
        source: the split.
        class_count: number of classes.
        batch_size: global batch size of all workers; a training split with fewer images is a single batch.
        augmentation: augmentation of training images, or `None`.
        seed: random seed, at least 0.
        worker: index of this worker, counted from 0.
        workers: number of workers; must divide `batch_size`.
        first: step of the epoch at which `model.fit` starts; does not change the index for `batch`.
        view: function from images to the float32 crop of each to test on; `None` for whole images.

    Raises:
        ValueError: an argument breaks a rule.
    """

    def __init__(
        self,
        source: Arrays | Files,
        class_count: int,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        *,
        worker: int = 0,
        workers: int = 1,
        first: int = 0,
        view: Callable[[Images], np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        _checks.positive("workers", workers)
        _checks.one_of("worker", worker, range(workers))
        _checks.divides("workers", workers, "`batch_size`", batch_size)
        self.source = source
        self.class_count = class_count
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        # In a `PyDataset`, Keras interprets `workers` as the number of threads, so the name is avoided here. The number
        # stays 1, because several threads may deliver batches of the previous epoch.
        self.part = worker
        self.parts = workers
        self.first = first
        self.view = view
        self.epoch = 0
        self.failure: ValueError | None = None  # The original error of a batch; `model.fit` may replace it.

    def __len__(self) -> int:
        return self.steps - self.first

    @property
    def steps(self) -> int:
        """Number of batches in a complete epoch."""
        batches = len(self.source) / self.batch_size
        return math.ceil(batches) if self.augmentation is None else max(math.floor(batches), 1)

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """This worker's part of batch `index` of epoch `epoch`, both counted from 0.

        Returns:
            `(images, one-hot labels)`, float32. They depend only on the arguments.
        """
        chosen, changes = self.draw(epoch, index)
        return self._images(chosen, changes), self._labels(chosen)

    def draw(self, epoch: int, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The indices of the images in a batch and, for training, their changes as returned by `draw_changes`."""
        count = len(self.source)
        order = np.arange(count) if self.augmentation is None else _order(self.seed, epoch, count)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        part = np.array_split(np.arange(len(chosen)), self.parts)[self.part]
        if self.augmentation is None:
            return chosen[part], ()
        # Sampled for the global batch, so that the result does not depend on the number of workers.
        generator = np.random.default_rng((self.seed, CHANGES, epoch, index))
        changes = draw_changes(self.augmentation, len(chosen), generator)
        return chosen[part], tuple(change[part] for change in changes)

    def _images(self, chosen: np.ndarray, changes: Sequence[np.ndarray] = ()) -> np.ndarray:
        """The images with these indices: augmented, cropped, or unchanged."""
        # Images of varying size may be photos of many megapixels: only a few are in memory before they are cropped.
        if None in self.source.shape and len(chosen) > FEW:
            parts = [slice(start, start + FEW) for start in range(0, len(chosen), FEW)]
            return np.concatenate([self._images(chosen[part], [change[part] for change in changes]) for part in parts])
        images = self.source.pixels(chosen)
        if self.augmentation is not None:
            return augment(images, self.augmentation, changes)
        return np.asarray(images, "float32") if self.view is None else self.view(images)

    def _labels(self, chosen: np.ndarray) -> np.ndarray:
        return np.eye(self.class_count, dtype="float32")[self.source.labels[chosen]]

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        try:
            return self.batch(self.epoch, self.first + index)
        except ValueError as error:
            self.failure = error
            raise

    def callback(self) -> keras.callbacks.Callback:
        """A callback for `model.fit` that sets the epoch.

        The epoch hooks of `PyDataset` are not suitable: Keras also calls them before the first epoch, and backends
        differ.
        """

        def begin(epoch, logs=None):
            self.epoch = epoch

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


class EvenBatches(Batches):
    """`Batches` of a test split for several devices: all of one size, with sample weights that keep the means correct.

    The last batch is padded with the first image at weight 0. The other weights exceed 1 because Keras divides the loss
    of a batch by its number of images, regardless of their weights.

    >>> source = Arrays(np.zeros((5, 8, 8, 1), "uint8"), np.array([0, 1, 0, 1, 1]))
    >>> even = EvenBatches(Batches(source, 2, batch_size=4), worker=1, workers=2)
    >>> images, labels, weights = even.batch(0, 1)
    >>> images.shape, weights.tolist(), even.batch(0, 0)[2].tolist()
    ((2, 8, 8, 1), [0.0, 0.0], [1.600000023841858, 1.600000023841858])

    Args:
        batches: global batches without augmentation.
        worker, workers: as in `Batches`.
    """

    def __init__(self, batches: Batches, worker: int, workers: int) -> None:
        super().__init__(
            batches.source,
            batches.class_count,
            batches.batch_size,
            worker=worker,
            workers=workers,
            view=batches.view,
        )

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, ...]:
        """This worker's part of a batch: `(images, one-hot labels, weights)`, float32."""
        chosen, (weights,) = self.draw(epoch, index)
        return self._images(chosen), self._labels(chosen), weights

    def draw(self, epoch: int, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The indices of the images in a batch, and their weights."""
        count = len(self.source)
        chosen = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = np.split(chosen, self.parts)[self.part]
        real = chosen < count
        weights = (real * (self.steps * self.batch_size / count)).astype("float32")
        return np.where(real, chosen, 0), (weights,)


def training_batches(dataset: Dataset, recipe: Recipe, seed: int, **part: Any) -> Batches:
    """Batches of the training split for a `Recipe`; `part` may contain `worker`, `workers` and `first`.

    Raises:
        ValueError: the recipe augments colors, but the images are gray.
    """
    height, width, channels = input_shape(dataset, recipe)
    for name in ("jitter", "lighting"):
        if getattr(recipe, name) and channels != 3:
            raise ValueError(f"`{name}` (={getattr(recipe, name)}) needs color images, but {dataset.name} is gray.")
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


def held_out_batches(dataset: Dataset, batch_size: int, size: Size | None = None, view: int = CENTER) -> Batches:
    """Batches of the test split; with a `size`, `(height, width)`, one of the ten views of each image.

    Without a `size`, each image of varying size is a batch.
    """
    batch_size = 1 if size is None and None in dataset.shape else batch_size
    views = None if size is None else functools.partial(crop_views, size=size, view=view)
    return Batches(dataset.test, len(dataset.class_names), batch_size, view=views)


def input_shape(dataset: Dataset, recipe: Recipe | None = None) -> tuple[int, int, int]:
    """`(height, width, channels)` of the input of a network: the recipe's crops, or the images of the `Dataset`.

    Raises:
        ValueError: image sizes vary and the recipe does not crop.
    """
    height, width, channels = dataset.shape
    if recipe is not None and recipe.crop_size:
        height = width = recipe.crop_size
    if height is None or width is None:
        raise ValueError(
            f"The images of {dataset.name} vary in size: set `input_shape` to resize them, or use a recipe with a "
            "`crop_size`."
        )
    return height, width, channels


def held_out_size(dataset: Dataset, recipe: Recipe) -> Size | None:
    """The `size` for `held_out_batches` in training with this recipe; `None` if images are not cropped."""
    return input_shape(dataset, recipe)[:2] if recipe.crop_size else None


def as_tf_data(batches: Batches) -> Any:
    """The batches in order as a `tf.data.Dataset`, which some strategies of `tf.distribute` require.

    Each iteration yields the current epoch of `batches`, so `model.fit` still needs `batches.callback()`. Shapes are
    static unless the last batch of a test split is smaller.
    """
    import tensorflow as tf

    def generate():
        for index in range(len(batches)):
            yield batches[index]

    arrays = batches.batch(0, 0)
    size = len(arrays[0]) if len(arrays[0]) == len(batches.batch(0, batches.steps - 1)[0]) else None
    signature = tuple(tf.TensorSpec((size, *array.shape[1:]), tf.float32) for array in arrays)
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
