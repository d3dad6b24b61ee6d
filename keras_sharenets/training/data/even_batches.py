"""A test split for several devices."""

import numpy as np

from keras_sharenets.training.data.batches import Batches


class EvenBatches(Batches):
    """`Batches` of a test split that are all of one size, with weights that make their means those of the pictures.

    What the last batch lacks is filled up with the first picture, at weight 0. The others weigh more than 1: Keras
    divides the loss of a batch by its pictures, whatever they weigh.

    >>> from keras_sharenets.training.data.dataset import Arrays
    >>> source = Arrays(np.zeros((5, 8, 8, 1), "uint8"), np.array([0, 1, 0, 1, 1]))
    >>> even = EvenBatches(Batches(source, 2, batch_size=4), worker=1, workers=2)
    >>> pictures, labels, weights = even.batch(0, 1)
    >>> pictures.shape, weights.tolist(), even.batch(0, 0)[2].tolist()
    ((2, 8, 8, 1), [0.0, 0.0], [1.600000023841858, 1.600000023841858])

    Args:
        batches: `Batches` without augmentation, of all workers together.
        worker: int, as in `Batches`.
        workers: int.
    """

    def __init__(self, batches, worker, workers):
        view = batches.view
        super().__init__(
            batches.source, batches.class_count, batches.batch_size, worker=worker, workers=workers, view=view
        )

    def batch(self, epoch, index):
        """This worker's part of a batch: `(pictures, one-hot labels, weights)`, float32."""
        count = len(self.source)
        chosen = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = np.split(chosen, self.parts)[self.part]
        real = chosen < count
        chosen = np.where(real, chosen, 0)
        images = self.source.pixels(chosen)
        images = images.astype("float32") if self.view is None else self.view(images)
        labels = np.eye(self.class_count, dtype="float32")[self.source.labels[chosen]]
        return images, labels, np.float32(real * (self.steps * self.batch_size / count))
