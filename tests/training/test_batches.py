"""Batches: selection, order, and augmentation of images, and their distribution over workers."""

import keras
import numpy as np
import pytest

from keras_sharenets.training.data.batches import (
    Augmentation,
    Batches,
    augment,
    draw_changes,
    held_out_batches,
    training_batches,
)
from keras_sharenets.training.data.dataset import Arrays
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.run.network import build


def numbered_images(count=23, size=5, channels=2):
    """Images that are identified by their pixel values; the label is the number modulo 3."""
    images = np.arange(count)[:, None, None, None] + np.arange(size * size * channels).reshape(size, size, channels) * 4
    return Arrays((images % 256).astype("uint8"), np.arange(count) % 3)


def test_test_batches_contain_every_image_once_in_order(digits):
    batches = held_out_batches(digits, batch_size=100)
    images, labels = map(np.concatenate, zip(*[batches[index] for index in range(len(batches))], strict=True))
    assert (len(batches), images.dtype, labels.shape) == (4, np.float32, (359, 10))
    np.testing.assert_array_equal(images, digits.test.images)
    np.testing.assert_array_equal(labels.argmax(axis=1), digits.test.labels)


def test_training_batches_depend_only_on_seed_epoch_and_index(digits):
    recipe = recipe_for("hscnet_m32_g4_r2_b1_a2", "digits")
    batches = training_batches(digits, recipe, seed=5)
    first = batches.batch(epoch=3, index=7)
    batches.batch(epoch=0, index=0)
    batches.epoch = 9
    for array, again in zip(first, training_batches(digits, recipe, seed=5).batch(3, 7), strict=True):
        np.testing.assert_array_equal(array, again)
    for other in (batches.batch(3, 6), batches.batch(4, 7), training_batches(digits, recipe, seed=6).batch(3, 7)):
        assert not np.array_equal(first[0], other[0])


def test_epochs_have_different_orders_without_repetition():
    source = numbered_images()
    batches = Batches(source, 3, 5, Augmentation(0, False, (0, 0)), seed=1)
    assert len(batches) == 4  # 3 of the 23 images are dropped.
    orders = []
    for epoch in range(2):
        images, labels = map(np.concatenate, zip(*[batches.batch(epoch, index) for index in range(4)], strict=True))
        numbers = images[:, 0, 0, 0].astype(int)
        assert len(set(numbers)) == 20
        np.testing.assert_array_equal(images, source.images[numbers])
        np.testing.assert_array_equal(labels, np.eye(3)[source.labels[numbers]])
        orders.append(numbers.tolist())
    assert orders[0] != orders[1] != sorted(orders[1])


def test_small_training_split_is_one_batch():
    batches = Batches(numbered_images(), 3, 128, Augmentation(0, False, (0, 0)))
    assert (len(batches), len(batches[0][0])) == (1, 23)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("augmentation", [None, Augmentation(1, True, (3, 4))])
def test_batches_do_not_depend_on_number_of_workers(workers, augmentation):
    settings = (numbered_images(), 3, 6, augmentation, 7)
    parts = [Batches(*settings, worker=worker, workers=workers) for worker in range(workers)]
    alone = Batches(*settings)
    assert {len(part) for part in parts} == {len(alone)}
    for epoch, index in [(0, 0), (4, len(alone) - 1), (4, 1)]:
        shares = [part.batch(epoch, index) for part in parts]
        together = map(np.concatenate, zip(*shares, strict=True))
        for array, expected in zip(together, alone.batch(epoch, index), strict=True):
            np.testing.assert_array_equal(array, expected)
        if augmentation is not None:
            assert {len(images) for images, _ in shares} == {6 // workers}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"workers": 0}, r"`workers` \(=0\) must be a positive integer"),
        ({"workers": 2, "worker": 2}, r"`worker` \(=2\) must be one of 0, 1"),
        ({"workers": 4}, r"`workers` \(=4\) must divide `batch_size` \(=6\)"),
    ],
)
def test_bad_workers(part, message):
    with pytest.raises(ValueError, match=message):
        Batches(numbered_images(), 3, 6, **part)


def test_epoch_may_start_at_any_step():
    settings = (numbered_images(), 3, 5, Augmentation(1, True, (3, 4)), 7)
    alone, late = Batches(*settings), Batches(*settings, first=1)
    late.epoch = 2
    assert (len(late), late.steps) == (3, 4)
    for index in range(3):
        np.testing.assert_array_equal(late[index][0], alone.batch(2, index + 1)[0])


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_covers_every_crop(flip):
    images = np.repeat(numbered_images(1).images, 600, axis=0)
    fill = (1.5, 2.5)
    padded = np.stack([np.pad(images[0, :, :, c].astype(float), 1, constant_values=fill[c]) for c in range(2)], axis=-1)
    crops = [padded[top : top + 5, left : left + 5] for top in range(3) for left in range(3)]
    expected = {crop.astype("float32").tobytes() for crop in crops}
    if flip:
        expected |= {np.ascontiguousarray(crop[:, ::-1]).astype("float32").tobytes() for crop in crops}
    augmentation = Augmentation(1, flip, fill)
    changed = augment(images, augmentation, draw_changes(augmentation, len(images), np.random.default_rng(0)))
    assert (changed.shape, changed.dtype) == (images.shape, np.float32)
    assert {image.tobytes() for image in changed} == expected
    assert len(expected) == (18 if flip else 9)


def test_padding_is_normalized_to_zero(digits):
    network = build("hscnet_m32_g4_r2_b1_a2", digits)
    normalize = network.layers[1]
    assert np.all(keras.ops.convert_to_numpy(normalize(np.full((1, 8, 8, 1), digits.mean, "float32"))) == 0)
    values = keras.ops.convert_to_numpy(normalize(digits.train.images.astype("float32")))
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.var() == pytest.approx(1, abs=1e-5)


def test_fit_uses_batches_in_order():
    """A linear model trained by `fit` has the same weights as gradient descent in numpy."""
    source = numbered_images(count=12)
    augmentation = Augmentation(1, True, (3.0, 4.0))
    start = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    model = keras.Sequential([keras.Input((5, 5, 2)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    model.set_weights([start])
    model.compile(keras.optimizers.SGD(1e-7), "mean_squared_error", jit_compile=False)
    batches = Batches(source, 3, 4, augmentation, seed=2)
    model.fit(batches, epochs=3, shuffle=False, callbacks=[batches.callback()], verbose=0)
    weights = start.astype("float64")
    for epoch in range(3):
        for index in range(3):
            images, labels = batches.batch(epoch, index)
            images = images.reshape(4, -1).astype("float64")
            weights -= 1e-7 * 2 / labels.size * images.T @ (images @ weights - labels)
    moved = np.abs(weights - start).max()
    np.testing.assert_allclose(model.get_weights()[0] - start, weights - start, atol=1e-3 * moved + 1e-7)
