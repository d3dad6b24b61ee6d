"""Training with the images on the device: augmentation runs there, and many steps are one compiled call. For JAX.

For a small network, a step on a GPU takes less time than augmenting a batch in Python and transferring it. Here both
splits are stored on the device as uint8, and a step receives only the indices of its images and the random numbers of
`Batches`, a few bytes per image. The batches, and therefore the trained network, equal those of the ordinary loop
except for rounding; `model.fit`, callbacks, checkpoints and records work unchanged. If a data set does not fit on the
device, the unmodified images of the next call are transferred while the current call runs.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_sharenets.training.data.augmentation import Augmentation, augment_on_device
from keras_sharenets.training.data.batches import Batches
from keras_sharenets.training.data.dataset import Dataset, chunks
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.recipe import Recipe

STEPS = 64  # Maximum steps per call. Signals, checkpoints and the check for a non-finite loss wait for its end.
SHARE = 0.25  # Maximum fraction of device memory for images: both splits, or the images of two calls.


def keeps_images(asked: str, devices: Devices, dataset: Dataset, recipe: Recipe, jit_compile: bool | str) -> bool:
    """Whether a run executes many steps per call on images stored on its devices.

    Args:
        asked: `"yes"`, `"no"`, or `"auto"`: yes if possible, except on a CPU, which gains nothing.
        devices: devices for training.
        dataset: data set of the run.
        recipe: recipe of the run.
        jit_compile: as in `model.compile`.

    Raises:
        ValueError: `"yes"`, but it is not possible; the message gives the reason.
    """
    if asked == "no":
        return False
    problem = _problem(devices, dataset, recipe, jit_compile)
    if problem and asked == "yes":
        raise ValueError(f"`epochs_on_device` (='yes') {problem}.")
    return not problem and (asked == "yes" or not _on_cpu())


def _problem(devices: Devices, dataset: Dataset, recipe: Recipe, jit_compile: bool | str) -> str | None:
    if keras.backend.backend() != "jax":
        return "needs KERAS_BACKEND=jax"
    if devices.workers > 1:
        return f"needs one process, but the strategy {devices.strategy!r} has {devices.workers}"
    if jit_compile is False:
        return "compiles its steps, but `jit_compile` is False"
    if recipe.crop != "shift":
        return f"needs the crop 'shift', but the recipe has {recipe.crop!r}"
    if None in dataset.shape:
        return f"needs images of one size, but those of {dataset.name} vary"
    return None


def _on_cpu() -> bool:
    return keras.distribution.list_devices()[0].startswith("cpu")


def _memory() -> float:
    """Memory of a device in bytes; infinite if it shares the memory of the machine."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def keep_images(devices: Devices, batches: Batches, held_out: Batches, checkpoint_steps: int | None) -> Devices:
    """The same devices, with the images of both splits stored on each of them if they fit.

    Call this function in the scope of the devices.

    Args:
        devices: devices for training.
        batches: batches of the training split, with the crop "shift".
        held_out: `EvenBatches` of the test split.
        checkpoint_steps: as in `RunOptions`.
    """
    most, image = _memory() * SHARE, math.prod(batches.batch(0, 0)[0].shape[1:])
    fits = image * (len(batches.source) + len(held_out.source)) <= most
    at_once = batches.steps if fits else min(batches.steps, most / (2 * image * batches.batch_size))
    # On a CPU, XLA runs convolutions inside a loop on one core, many times slower than outside a loop.
    steps = 1 if _on_cpu() else _at_once(max(int(at_once), 1), checkpoint_steps)
    return dataclasses.replace(
        devices,
        model=functools.partial(_make_model, _split(batches, fits), _split(held_out, fits)),
        feed=functools.partial(Draws, steps=steps, images=not fits),
        steps_per_execution=steps,
    )


def _at_once(steps: int, checkpoint_steps: int | None) -> int:
    """The maximum number of steps per call such that every checkpoint falls on the end of a call.

    >>> _at_once(390, None), _at_once(22, None), _at_once(390, 100), _at_once(390, 5)
    (64, 22, 50, 5)
    """
    most = min(STEPS, steps)
    return most if checkpoint_steps is None else max(n for n in range(1, most + 1) if checkpoint_steps % n == 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split for use on the device.

    Attributes:
        class_count: number of classes.
        augmentation: augmentation of its images, or `None`.
        held: uint8 images and int32 labels as JAX arrays; empty if they are sent with the draws.
        sharding: sharding of the results of a step; `None` for one device.
    """

    class_count: int
    augmentation: Augmentation | None
    held: tuple[Any, ...]
    sharding: Any


def _split(batches: Batches, fits: bool) -> Split:
    import jax

    distribution = keras.distribution.distribution()
    place = None  # JAX's default device: naming it would cause recompilation for every array created later.
    if distribution is not None:  # Replicate all images on each device.
        place = jax.sharding.NamedSharding(distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec())
    held = ()
    if fits:
        images = np.concatenate([np.asarray(part) for part in chunks(batches.source)])
        held = jax.device_put((images, batches.source.labels.astype("int32")), place)
    return Split(batches.class_count, batches.augmentation, held, place)


class Draws(keras.utils.PyDataset):
    """The input of each call: indices of the images, their changes, and optionally the images themselves.

    An item is `((draws, sent),)`, both tuples of arrays `(batch, steps, ...)`: `draws` has the indices and the other
    results of `Batches.draw`; `sent` has uint8 images and labels, or is empty. The indices are -1 in steps beyond the
    end of the epoch. Keras counts batches, so the length is the number of batches, although a call consumes one item.

    The next item is prepared while the device processes the current one.

    Args:
        batches: batches to draw from.
        steps: steps per call.
        images: whether to send images and labels.
    """

    def __init__(self, batches: Batches, steps: int, images: bool = False) -> None:
        super().__init__()
        self.batches = batches
        self.at_once = steps
        self.images = images
        self._maker = concurrent.futures.ThreadPoolExecutor(1)
        self._next: dict[tuple[int, int], concurrent.futures.Future] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
        keys = [(self.batches.epoch, number) for number in (index, index + 1)]
        made, following = (self._next.get(key) or self._maker.submit(self._make, *key) for key in keys)
        self._next = {keys[1]: following}
        return (made.result(),)

    def _make(self, epoch: int, index: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        first = self.batches.first + index * self.at_once
        count = min(max(self.batches.steps - first, 0), self.at_once)
        # On JAX, Keras requests one item more than it needs: without steps, but of the same shape.
        drawn = [self.batches.draw(epoch, first + step) for step in range(count)] or [self.batches.draw(epoch, 0)]
        columns = zip(*((chosen, *others) for chosen, others in drawn), strict=True)
        arrays = [_filled(np.stack(column, axis=1)[:, :count], self.at_once) for column in columns]
        arrays[0][:, count:] = -1
        return tuple(arrays), self._sent(arrays[0], max(count, 1)) if self.images else ()

    def _sent(self, indices: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
        source, taken = self.batches.source, np.maximum(indices[:, :count], 0)
        pixels = np.asarray(source.pixels(taken.ravel()))
        images = np.zeros((*indices.shape, *pixels.shape[1:]), "uint8")
        images[:, :count] = pixels.reshape(*taken.shape, *pixels.shape[1:])
        return images, source.labels[indices].astype("int32")


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    """Pads an array with zeros along the second axis and converts it to 32 bits."""
    filled = np.zeros((len(array), length, *array.shape[2:]), "float32" if array.dtype.kind == "f" else "int32")
    filled[:, : array.shape[1]] = array
    return filled


class ResidentModel(keras.Model):
    """A functional model that reads its images from the device; `fit` and `evaluate` take `Draws`."""

    train_split: Split
    test_split: Split
    test_function: Callable | None

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras would build the model from a batch of images, which is not available here. The model is already built.
        pass

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            self.train_function = _steps(self, self.train_step, self.train_split)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = _steps(self, self.test_step, self.test_split)


def _make_model(train_split: Split, test_split: Split, *args: Any, **kwargs: Any) -> ResidentModel:
    model = ResidentModel(*args, **kwargs)
    model.train_split, model.test_split = train_split, test_split
    return model


def hold_test_split(model: ResidentModel, held_out: Batches) -> None:
    """Replaces the split that a model is tested on. Call this function in the scope of its devices.

    Args:
        model: model created by the devices of `keep_images`.
        held_out: `EvenBatches` of the split.
    """
    model.test_split = _split(held_out, fits=bool(model.train_split.held))
    model.test_function = None


def _steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """The step function for Keras: from a state and an iterator over `Draws` to logs and a new state."""
    import jax

    take = jax.jit(many_steps(model, step, split), donate_argnums=0, out_shardings=split.sharding)
    return lambda state, iterator: take(state, next(iterator)[0], split.held)


def many_steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """The function to compile with JAX: takes a state, an item of `Draws` and the `held` arrays of `split`.

    Args:
        model: compiled model.
        step: its `train_step` or `test_step`.
        split: split with the augmentation of the images.
    """
    import jax

    def batch(draws, sent, held, number):
        indices, *others = (array[:, number] for array in draws)
        images, labels = (array[:, number] for array in sent) if sent else (array[indices] for array in held)
        classes = jax.nn.one_hot(labels, split.class_count)
        if split.augmentation is None:
            return images.astype("float32"), classes, *others
        return augment_on_device(images, split.augmentation, others), classes

    def take(state, item, held):
        draws, sent = item

        def one(number, state):
            return step(state, batch(draws, sent, held, number))[1]

        alone = draws[0].shape[1] == 1
        state = one(0, state) if alone else jax.lax.fori_loop(0, (draws[0][0] >= 0).sum(), one, state)
        with keras.StatelessScope(list(zip(model.metrics_variables, state[-1], strict=True))):
            return model.get_metrics_result(), state

    return take
