"""Whole epochs on the device: images are changed there, and many steps are one compiled call. For JAX.

A small network takes a step on a GPU in less time than Python needs to change a batch of images and to send it. Here
both splits lie on the device as uint8. What is sent for a step is which images it takes and how they are changed: the
random numbers of `Batches`, a few bytes an image. So the batches are those of the ordinary loop, and what is trained is
the same but for rounding; `model.fit`, its callbacks, checkpoints and records do not know the difference. Of a data set
that is too large for the device, the images of the next call are sent with them, as they are, while the last one runs.
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

STEPS = 64  # The most steps of one call. A signal, a checkpoint and a loss that is not finite wait for its end.
SHARE = 0.25  # The part of a device's memory that images may take: all of them, or those of two calls.


def keeps_images(asked: str, devices: Devices, dataset: Dataset, recipe: Recipe, jit_compile: bool | str) -> bool:
    """Whether many steps of a run are taken at once, on images that its devices have.

    Args:
        asked: `"yes"`, `"no"`, or `"auto"`: where it is possible and the device is not a CPU, which waits for nothing.
        devices: where the network is trained.
        dataset: what it is trained with.
        recipe: how.
        jit_compile: as in `model.compile`.

    Raises:
        ValueError: `"yes"`, but it is not possible; the message says why.
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
        return f"is for one process, and the strategy {devices.strategy!r} has {devices.workers}"
    if jit_compile is False:
        return "compiles its steps, and `jit_compile` is False"
    if recipe.crop != "shift":
        return f"is for the crop 'shift', and that of the recipe is {recipe.crop!r}"
    if None in dataset.shape:
        return f"needs images of one size, and those of {dataset.name} have sizes of their own"
    return None


def _on_cpu() -> bool:
    return keras.distribution.list_devices()[0].startswith("cpu")


def _memory() -> float:
    """Bytes of memory of a device; infinite where it has that of the machine."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def keep_images(devices: Devices, batches: Batches, held_out: Batches, checkpoint_steps: int | None) -> Devices:
    """The same devices, with the images of both splits on each of them if they fit.

    To be called in their scope.

    Args:
        devices: where the network is trained.
        batches: of the training split, with the crop "shift".
        held_out: `EvenBatches` of the test split.
        checkpoint_steps: as in `RunOptions`.
    """
    most, image = _memory() * SHARE, math.prod(batches.batch(0, 0)[0].shape[1:])
    fits = image * (len(batches.source) + len(held_out.source)) <= most
    at_once = batches.steps if fits else min(batches.steps, most / (2 * image * batches.batch_size))
    # XLA computes convolutions in a loop on one core of a CPU, many times slower than outside of it.
    steps = 1 if _on_cpu() else _at_once(max(int(at_once), 1), checkpoint_steps)
    return dataclasses.replace(
        devices,
        model=functools.partial(_make_model, _split(batches, fits), _split(held_out, fits)),
        feed=functools.partial(Draws, steps=steps, images=not fits),
        steps_per_execution=steps,
    )


def _at_once(steps: int, checkpoint_steps: int | None) -> int:
    """The most steps of a call that ends wherever a checkpoint is due.

    >>> _at_once(390, None), _at_once(22, None), _at_once(390, 100), _at_once(390, 5)
    (64, 22, 50, 5)
    """
    most = min(STEPS, steps)
    return most if checkpoint_steps is None else max(n for n in range(1, most + 1) if checkpoint_steps % n == 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split for the device.

    Attributes:
        class_count: number of classes.
        augmentation: how its images are changed, if they are.
        held: uint8 images and int32 labels, arrays of JAX; empty where they are sent with the draws.
        sharding: where a step leaves its results; `None` for one device.
    """

    class_count: int
    augmentation: Augmentation | None
    held: tuple[Any, ...]
    sharding: Any


def _split(batches: Batches, fits: bool) -> Split:
    import jax

    distribution = keras.distribution.distribution()
    place = None  # Where JAX puts all else: named, every array that is made later would have it compile again.
    if distribution is not None:  # Each device gets all images.
        place = jax.sharding.NamedSharding(distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec())
    held = ()
    if fits:
        images = np.concatenate([np.asarray(part) for part in chunks(batches.source)])
        held = jax.device_put((images, batches.source.labels.astype("int32")), place)
    return Split(batches.class_count, batches.augmentation, held, place)


class Draws(keras.utils.PyDataset):
    """What the device is to know of the steps of a call: which images, how they are changed, and on request themselves.

    An item is `((draws, sent),)`, both tuples of arrays `(batch, steps, ...)`: the indices and what else
    `Batches.draw` says; uint8 images and labels, or nothing. The indices are -1 in steps after the last of the epoch.
    Keras counts batches, so that is what the length says; but a call takes one item.

    The next item is made while the device is busy with the last.

    Args:
        batches: give the random numbers.
        steps: of one call.
        images: whether images and labels are sent.
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
        # JAX takes one item more than it needs: of no step, but of the same shape.
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
    """With zeros along the second axis, in 32 bits."""
    filled = np.zeros((len(array), length, *array.shape[2:]), "float32" if array.dtype.kind == "f" else "int32")
    filled[:, : array.shape[1]] = array
    return filled


class ResidentModel(keras.Model):
    """A functional model that takes the images of its steps from the device; `fit` and `evaluate` take `Draws`."""

    train_split: Split
    test_split: Split
    test_function: Callable | None

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras looks at a batch of images for what is not built yet, and here it would find none. Nothing needs it.
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
    """Gives a model another split to be tested on; to be called in the scope of its devices.

    Args:
        model: one that `keep_images` has the devices make.
        held_out: `EvenBatches` of the split.
    """
    model.test_split = _split(held_out, fits=bool(model.train_split.held))
    model.test_function = None


def _steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """What Keras calls for the next steps: a function from a state and an iterator over `Draws` to logs and a state."""
    import jax

    take = jax.jit(many_steps(model, step, split), donate_argnums=0, out_shardings=split.sharding)
    return lambda state, iterator: take(state, next(iterator)[0], split.held)


def many_steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """The function behind that, for JAX to compile: of a state, an item of `Draws`, and what `split` holds.

    Args:
        model: compiled.
        step: its `train_step` or `test_step`.
        split: says what becomes of the images.
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
