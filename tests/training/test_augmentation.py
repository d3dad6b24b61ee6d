"""Crops, borders, and colors, compared with numpy image by image."""

import math

import numpy as np
import PIL.Image
import pytest

from keras_sharenets.training.data.augmentation import (
    CENTER,
    TEN,
    Augmentation,
    augment,
    covering,
    crop_views,
    draw_changes,
    resized,
    window,
)
from keras_sharenets.training.data.batches import Batches, held_out_batches, training_batches
from keras_sharenets.training.data.dataset import Arrays, Files, make_dataset
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.run.finished import training_images

RANDOM = np.random.default_rng(0)


def random_images(count=40, height=12, width=10, channels=3):
    return RANDOM.integers(0, 256, (count, height, width, channels), np.uint8)


def gradient(height, width):
    """An image whose red channel is the row and green channel the column, which reveals the position of a crop."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype("uint8")


def augmented(images, augmentation, seed=0):
    return augment(images, augmentation, draw_changes(augmentation, len(images), np.random.default_rng(seed)))


@pytest.mark.parametrize("border", ["edge", "reflect"])
def test_edge_and_reflect_borders(border):
    images = np.repeat(random_images(1), 300, axis=0)

    def place(index, side):
        if 0 <= index < side:
            return index
        return min(max(index, 0), side - 1) if border == "edge" else (-index if index < 0 else 2 * side - 2 - index)

    expected = set()
    for top in range(-2, 3):
        for left in range(-2, 3):
            rows = [place(top + row, 12) for row in range(12)]
            columns = [place(left + column, 10) for column in range(10)]
            expected.add(images[0][rows][:, columns].astype("float32").tobytes())
    found = {one.tobytes() for one in augmented(images, Augmentation(2, False, (0, 0, 0), border))}
    assert found == expected
    assert len(found) == 25


def test_area_crops_have_allowed_areas_and_aspect_ratios():
    numbers = RANDOM.random((500, 10, 4))
    for sides in ((40, 60), (64, 64)):
        windows = [window(sides, row) for row in numbers]
        for top, left, height, width in windows:
            assert 0 <= top <= sides[0] - height
            assert 0 <= left <= sides[1] - width
            # A side is rounded by up to half a pixel.
            assert (height - 0.5) * (width - 0.5) <= sides[0] * sides[1]
            assert (height + 0.5) * (width + 0.5) >= 0.08 * sides[0] * sides[1]
            assert (width + 0.5) / (height - 0.5) >= 3 / 4
            assert (width - 0.5) / (height + 0.5) <= 4 / 3
        assert len(set(windows)) > 450
        areas = [height * width / (sides[0] * sides[1]) for _, _, height, width in windows]
        assert min(areas) < 0.15
        assert max(areas) > 0.75


def test_window_from_given_random_numbers():
    # A quarter of 64 x 64 at a ratio of 1 is 32 x 32; the offset is a share of the remaining pixels.
    numbers = np.array([[(0.25 - 0.08) / 0.92, 0.5, 0.5, 0.999]])
    assert window((64, 64), numbers) == (16, 32, 32, 32)
    assert window((64, 64), numbers[:, [0, 1, 3, 2]]) == (32, 16, 32, 32)
    # A square with the area of a strip does not fit: the fallback is the central square.
    assert window((10, 40), np.array([[1.0, 0.5, 0.0, 0.0]])) == (0, 15, 10, 10)


def test_area_crops_are_resized_windows():
    images = np.stack([gradient(40, 60)] * 50)
    augmentation = Augmentation(4, True, (0, 0, 0), crop="area", size=(20, 30))
    crops = augmented(images, augmentation)
    assert (crops.shape, crops.dtype) == ((50, 20, 30, 3), np.float32)
    steps = draw_changes(augmentation, 50, np.random.default_rng(0))[1]
    for crop, step in zip(crops, steps, strict=True):
        rows, columns = crop[..., 0].mean(axis=1), crop[..., 1].mean(axis=0)[::step]
        # The values increase linearly over the cropped window.
        for line, side in ((rows, 40), (columns, 60)):
            slope = (line[-4] - line[3]) / (len(line) - 7)
            np.testing.assert_allclose(line[3:-3], line[3] + slope * np.arange(len(line) - 6), atol=1)
            assert 0 <= line.min() <= line.max() <= side - 1
    assert {int(step) for step in steps} == {-1, 1}


def test_scale_crops_are_between_1_and_1_25():
    images = [gradient(64, 64)] * 80
    crops = augmented(images, Augmentation(4, False, (0, 0, 0), crop="scale", size=(64, 64)))
    # 64 pixels of an image resized to s pixels show 64 * 64 / s of the 64 rows.
    seen = np.array([crop[-1, :, 0].mean() - crop[0, :, 0].mean() for crop in crops]) + 1
    assert seen.min() == pytest.approx(64 / 1.25, abs=1.5)
    assert seen.max() == pytest.approx(64, abs=1.5)


def test_scale_crop_from_given_random_numbers():
    """At 1.25 times 8 pixels, an image of 10 pixels is not resized; the offset is a share of the three positions."""
    augmentation = Augmentation(0, False, (0, 0, 0), crop="scale", size=(8, 8))
    places, *others = draw_changes(augmentation, 1, np.random.default_rng(0))
    image = gradient(10, 10)
    for down, right, top, left in ((0.999, 0.4, 2, 1), (0.1, 0.999, 0, 2)):
        places[0, 0] = 1, down, right, 0
        (crop,) = augment([image], augmentation, (places, *others))
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])


def test_images_of_different_sizes():
    images = [gradient(30, 50), gradient(64, 20)]
    for crop in ("area", "scale"):
        assert augmented(images, Augmentation(0, False, (0, 0, 0), crop=crop, size=(16, 16))).shape == (2, 16, 16, 3)


def test_color_jitter():
    image = random_images(1)[0].astype("float64")
    augmentation = Augmentation(0, False, (0, 0, 0), jitter=0.4)
    _, steps, _, shifts = draw_changes(augmentation, 1, np.random.default_rng(0))
    numbers = np.array([[0.9, 0.2, 0.6, 0.3, 0.1, 0.2]])
    result = augment(image[None].astype("uint8"), augmentation, (np.zeros((1, 2), int), steps * 0 + 1, numbers, shifts))
    luma = [0.299, 0.587, 0.114]
    # The order does not matter: this is another one than in the code.
    contrast, saturation, brightness = 1 - 0.4 * 0.6, 1 + 0.4 * 0.2, 1 + 0.4 * 0.8
    expected = contrast * image + (1 - contrast) * (image * luma).sum(axis=-1).mean()
    expected = saturation * expected + (1 - saturation) * (expected * luma).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(result[0], brightness * expected, rtol=1e-4, atol=1e-2)


def test_lighting_shifts_along_principal_components():
    images = np.repeat(random_images(1), 4000, axis=0)
    shifts = (augmented(images, Augmentation(0, False, (0, 0, 0), lighting=0.1)) - images)[:, 0, 0] / 255
    # The eigenvalues of the covariance are the squares of 0.1 * (0.2175, 0.0188, 0.0045); the first is nearly gray.
    values, directions = np.linalg.eigh(np.cov(shifts.T))
    np.testing.assert_allclose(np.sqrt(values[::-1]), [0.02175, 0.00188, 0.00045], rtol=0.05)
    assert abs(directions[:, -1].sum()) == pytest.approx(math.sqrt(3), rel=0.01)


# Test-time crops


def test_ten_crops_are_corners_center_and_flips():
    # An image of 64 pixels is not resized for a crop of 56.
    images = np.stack([gradient(64, 64)] * 2)
    corners = {0: (0, 0), 1: (0, 8), 2: (8, 0), 3: (8, 8), 4: (4, 4)}
    for view in TEN:
        top, left = corners[view % 5]
        expected = images[:, top : top + 56, left : left + 56]
        expected = expected if view < 5 else expected[:, :, ::-1]
        np.testing.assert_array_equal(crop_views(images, (56, 56), view), expected)
    assert (len(TEN), CENTER) == (10, 4)


def test_shorter_side_is_resized_before_cropping():
    # An image of 512 x 768 is resized to 256 x 384 for a crop of 224.
    image = np.asarray(PIL.Image.fromarray(gradient(128, 192)).resize((768, 512)))
    assert covering(image, (224, 224), 8 / 7).shape == (256, 384, 3)
    assert crop_views([image, image[:300]], (224, 224), CENTER).shape == (2, 224, 224, 3)
    gray = resized(image[..., :1], (10, 15))
    assert (gray.shape, gray.dtype) == ((10, 15, 1), np.uint8)


def test_batches_of_crops(tmp_path):
    images = random_images(12, 16, 16)
    for label in range(2):
        (tmp_path / "data" / "ab"[label]).mkdir(parents=True)
        for number in range(6):
            path = tmp_path / "data" / "ab"[label] / f"{number}.png"
            PIL.Image.fromarray(images[6 * label + number][: 16 - number]).save(path)
    dataset = load(tmp_path / "data", input_shape=(0, 0, 3))
    assert (dataset.shape, "varying sizes" in dataset.note) == ((None, None, 3), True)
    total = sum(one[: 16 - index % 6].astype(float).sum() for index, one in enumerate(images))
    assert isinstance(dataset.train, Files)
    sums = [
        sum(float(one.sum()) for one in part.pixels(np.arange(len(part)))) for part in (dataset.train, dataset.test)
    ]
    assert sum(sums) == total
    recipe = override(find_recipe("default"), crop="area", crop_size=8, batch_size=4)
    batches = training_batches(dataset, recipe, seed=1)
    assert batches.batch(0, 1)[0].shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(batches.batch(3, 0)[0], training_batches(dataset, recipe, seed=1).batch(3, 0)[0])
    assert held_out_batches(dataset, 64, (8, 8))[0][0].shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"data vary in size: set `input_shape` .* or use a recipe with"):
        training_batches(dataset, find_recipe("default"), seed=1)


def test_only_few_images_of_varying_size_are_in_memory(monkeypatch):
    """A batch of photos would take gigabytes before they are cropped."""
    random, attempt, read = np.random.default_rng(0), Files.attempt, []
    images = [random.integers(0, 256, (20 + number, 30, 3), np.uint8) for number in range(40)]
    part = Files(tuple(range(40)), np.arange(40) % 2, (None, None, 3), False, lambda number, shape: images[number])
    monkeypatch.setattr(Files, "attempt", lambda self, chosen: read.append(len(chosen)) or attempt(self, chosen))
    dataset = make_dataset("photos", "made up", ("a", "b"), part, part)
    recipe = override(find_recipe("default"), crop="area", crop_size=8, batch_size=40, jitter=0.4)
    batches = training_batches(dataset, recipe, seed=1)
    chosen, changes = batches.draw(2, 0)
    expected = augment([images[index] for index in chosen], batches.augmentation, changes)
    np.testing.assert_array_equal(batches.batch(2, 0)[0], expected)
    cropped = crop_views(images, (8, 8), CENTER)
    np.testing.assert_array_equal(held_out_batches(dataset, 40, (8, 8))[0][0], cropped)
    np.testing.assert_array_equal(training_images(dataset, recipe, 40), cropped)
    assert max(read) <= 16


@pytest.mark.parametrize("workers", [2, 3])
def test_crops_do_not_depend_on_number_of_workers(workers):
    source = Arrays(random_images(12, 10, 10), np.arange(12) % 3)
    augmentation = Augmentation(0, True, (0, 0, 0), crop="area", size=(6, 6), jitter=0.4, lighting=0.1)
    settings = (source, 3, 6, augmentation, 7)
    parts = [Batches(*settings, worker=worker, workers=workers).batch(2, 1) for worker in range(workers)]
    for array, expected in zip(
        map(np.concatenate, zip(*parts, strict=True)), Batches(*settings).batch(2, 1), strict=True
    ):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("change", [{"jitter": 0.4}, {"lighting": 0.1}])
def test_color_augmentation_of_gray_images(digits, change):
    with pytest.raises(ValueError, match=r"`(jitter|lighting)` \(=0\.\d\) needs color images, but digits is gray"):
        training_batches(digits, override(find_recipe("digits"), **change), seed=0)
