"""Whole epochs on the device: the images stay there, and many steps are one compiled call. For JAX.

A small network takes a step on a GPU in less time than Python needs to change a batch of images and to send it. Here
both splits lie on the device as uint8. What is sent for a step is which images it takes and how they are changed: the
random numbers of `Batches`, a few bytes an image. So the batches are those of the ordinary loop, and what is trained is
the same but for rounding; `model.fit`, its callbacks, checkpoints and records do not know the difference.
"""

from __future__ import annotations

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
SHARE = 0.25  # The part of a device's memory that images may take.


def keeps_images(asked: str, devices: Devices, dataset: Dataset, recipe: Recipe, jit_compile: bool | str) -> bool:
    """Whether the images of a run stay on its devices.

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
    height, width, channels = dataset.shape
    if height is None or width is None:
        return f"needs images of one size, and those of {dataset.name} have sizes of their own"
    size = (len(dataset.train) + len(dataset.test)) * height * width * channels / 2**30
    memory = _memory() / 2**30
    if size > SHARE * memory:
        return f"needs {size:.2f} GiB for images, more than a quarter of the {memory:.2f} GiB of the device"
    return None


def _on_cpu() -> bool:
    return keras.distribution.list_devices()[0].startswith("cpu")


def _memory() -> float:
    """Bytes of memory of a device; infinite where it has that of the machine."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def keep_images(devices: Devices, batches: Batches, held_out: Batches, checkpoint_steps: int | None) -> Devices:
    """The same devices, with the images of both splits on each of them.

    To be called in their scope.

    Args:
        devices: where the network is trained.
        batches: of the training split, with the crop "shift".
        held_out: `EvenBatches` of the test split.
        checkpoint_steps: as in `RunOptions`.
    """
    # XLA computes convolutions in a loop on one core of a CPU, many times slower than outside of it.
    steps = 1 if _on_cpu() else _at_once(batches.steps, checkpoint_steps)
    return dataclasses.replace(
        devices,
        model=functools.partial(_make_model, _split(batches), _split(held_out)),
        feed=functools.partial(Draws, steps=steps),
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
    """A split on the device: uint8 images and int32 labels, arrays of JAX; and how images are changed, if they are."""

    images: Any
    labels: Any
    class_count: int
    augmentation: Augmentation | None
    sharding: Any = None


def _split(batches: Batches) -> Split:
    import jax

    distribution = keras.distribution.distribution()
    place = None  # Where JAX puts all else: named, every array that is made later would have it compile again.
    if distribution is not None:  # Each device gets all images.
        place = jax.sharding.NamedSharding(distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec())
    images = np.concatenate([np.asarray(part) for part in chunks(batches.source)])
    labels = batches.source.labels.astype("int32")
    images, labels = jax.device_put((images, labels), place)
    return Split(images, labels, batches.class_count, batches.augmentation, place)


class Draws(keras.utils.PyDataset):
    """What a device that has the images is to know of the steps of a call: which images, and how they are changed.

    Arrays have the shape `(batch, steps, ...)`; the indices are -1 in steps after the last of the epoch. Keras counts
    batches, so that is what the length says; but a call takes one item.

    Args:
        batches: give the random numbers.
        steps: of one call.
    """

    def __init__(self, batches: Batches, steps: int) -> None:
        super().__init__()
        self.batches = batches
        self.at_once = steps

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, ...]]:
        first = self.batches.first + index * self.at_once
        count = min(max(self.batches.steps - first, 0), self.at_once)
        # JAX takes one item more than it needs.
        drawn = [self.batches.draw(self.batches.epoch, first + step) for step in range(count)]
        if not drawn:
            drawn = [self.batches.draw(self.batches.epoch, 0)]
        columns = zip(*((chosen, *others) for chosen, others in drawn), strict=True)
        arrays = [_filled(np.stack(column, axis=1)[:, :count], self.at_once) for column in columns]
        arrays[0][:, count:] = -1
        return (tuple(arrays),)


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    """With zeros along the second axis, in 32 bits."""
    filled = np.zeros((len(array), length, *array.shape[2:]), "float32" if array.dtype.kind == "f" else "int32")
    filled[:, : array.shape[1]] = array
    return filled


class ResidentModel(keras.Model):
    """A functional model that takes the images of its steps from the device; `fit` and `evaluate` take `Draws`."""

    train_split: Split
    test_split: Split

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


def _steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """What Keras calls for the next steps: a function from a state and an iterator over `Draws` to logs and a state."""
    import jax

    take = jax.jit(many_steps(model, step, split), donate_argnums=0, out_shardings=split.sharding)
    return lambda state, iterator: take(state, next(iterator)[0], split.images, split.labels)


def many_steps(model: keras.Model, step: Callable, split: Split) -> Callable:
    """The function behind that, for JAX to compile: of a state, an item of `Draws`, the images and the labels.

    Args:
        model: compiled.
        step: its `train_step` or `test_step`.
        split: says what becomes of the images.
    """
    import jax

    def batch(drawn, images, labels, number):
        indices, *others = (array[:, number] for array in drawn)
        inputs = images[indices]
        classes = jax.nn.one_hot(labels[indices], split.class_count)
        if split.augmentation is None:
            return inputs.astype("float32"), classes, *others
        return augment_on_device(inputs, split.augmentation, others), classes

    def take(state, drawn, images, labels):
        def one(number, state):
            return step(state, batch(drawn, images, labels, number))[1]

        alone = drawn[0].shape[1] == 1
        state = one(0, state) if alone else jax.lax.fori_loop(0, (drawn[0][0] >= 0).sum(), one, state)
        with keras.StatelessScope(list(zip(model.metrics_variables, state[-1], strict=True))):
            return model.get_metrics_result(), state

    return take
