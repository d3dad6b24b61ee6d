"""Folders of images, one per class: splitting, reading, and errors."""

import os
import tracemalloc
import unicodedata

import numpy as np
import PIL.Image
import pytest

from keras_sharenets.training.data.dataset import Files, make_dataset
from keras_sharenets.training.data.sources import load


def write_image(path, color, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, color).save(path)


def write_classes(folder, counts, size=(6, 4)):
    """Writes images of the color (40 * class, image, 7)."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_image(folder / name / f"{number}.png", (40 * label, number, 7), size)
    return folder


def test_class_folders_are_split(tmp_path):
    dataset = load(write_classes(tmp_path / "things", {"cat": 10, "ant": 5, "bee": 5, ".hidden": 1}))
    assert dataset.name == "things"
    assert dataset.class_names == ("ant", "bee", "cat")
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (8 + 4 + 4, 2 + 1 + 1, (4, 6, 3))
    assert not set(dataset.train.paths) & set(dataset.test.paths)
    for source in (dataset.train, dataset.test):
        pixels = source.pixels(np.arange(len(source)))
        written_as = {"ant": 40, "bee": 80, "cat": 0}
        for path, label, image in zip(source.paths, source.labels, pixels, strict=True):
            name = path.parent.name
            assert dataset.class_names[label] == name
            assert np.all(image == (written_as[name], int(path.stem), 7))
    assert load(tmp_path / "things").test.paths == dataset.test.paths
    assert load(tmp_path / "things", split_seed=1).test.paths != dataset.test.paths
    blue, variance = dataset.mean[2], dataset.variance[2]
    assert (blue, variance) == (7, 0)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_split_folders(tmp_path, name):
    write_classes(tmp_path / "train", {"ant": 3, "bee": 2})
    write_classes(tmp_path / name, {"ant": 1, "bee": 2})
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (5, 3)
    assert {path.relative_to(tmp_path).parts[0] for path in dataset.test.paths} == {name}
    assert f"{name}/ is the test split" in dataset.note


def test_class_named_train(tmp_path):
    assert load(write_classes(tmp_path, {"train": 2, "tram": 2})).class_names == ("train", "tram")


def test_images_are_decoded_lazily(tmp_path):
    dataset = load(write_classes(tmp_path, {"ant": 3, "bee": 3}))
    write_image(dataset.train.paths[1], (9, 9, 9))
    assert np.all(dataset.train.pixels([1]) == 9)


def test_resizing_and_conversion_to_gray(tmp_path):
    write_classes(tmp_path, {"ant": 3, "bee": 3}, size=(20, 10))
    write_image(tmp_path / "ant" / "0.png", (200, 200, 200), size=(5, 7))
    dataset = load(tmp_path, input_shape=(8, 12, 1))
    pixels = dataset.train.pixels([0, 1])
    assert (pixels.shape, pixels.dtype, dataset.shape) == ((2, 8, 12, 1), np.uint8, (8, 12, 1))
    assert "resized to 8x12 gray" in dataset.note


def test_statistics_of_large_images_need_little_memory():
    """All 24 images of 120 kB at once take 23 MB in float64."""
    images = np.random.default_rng(0).integers(0, 256, (24, 200, 200, 3)).astype("uint8")

    def read(number, shape):
        return images[number].copy()

    part = Files(tuple(range(24)), np.arange(24) % 2, (None, None, 3), False, read)
    tracemalloc.start()
    dataset = make_dataset("large", "made up", ("a", "b"), part, part.part(np.arange(2)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    np.testing.assert_allclose(dataset.mean, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.variance, images.var(axis=(0, 1, 2)), rtol=1e-6)


def _empty(folder):
    folder.mkdir()


def _one_class(folder):
    write_classes(folder, {"ant": 3})


def _class_without_images(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    (folder / "cow").mkdir()
    (folder / "cow" / "notes.txt").write_text("moo")


def _space_in_front(folder):
    write_classes(folder, {"ant": 3, " bee": 3})


def _name_in_latin_1(folder):
    write_classes(folder, {"ant": 3, os.fsdecode(b"\xe9t\xe9"): 3})


def _single_image(folder):
    write_classes(folder, {"ant": 3, "bee": 1})


def _broken_image(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    for number in range(3):
        path = folder / "bee" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:45])


def _broken_test_image(folder):
    write_classes(folder / "train", {"ant": 3, "bee": 3})
    write_classes(folder / "test", {"ant": 3, "bee": 3})
    (folder / "test" / "ant" / "2.png").write_text("no image")


def _other_classes(folder):
    write_classes(folder / "train", {"ant": 1, "bee": 1, "cow": 1})
    write_classes(folder / "val", {"ant": 1, "bee": 1, "dog": 1})


def _other_spelling(folder):
    """A Mac stores an accent apart from its letter."""
    write_classes(folder / "train", {"ant": 1, unicodedata.normalize("NFC", "b\xe9e"): 1})
    write_classes(folder / "val", {"Ant": 1, unicodedata.normalize("NFD", "b\xe9e"): 1})


def _other_size(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    for number in range(3):
        write_image(folder / "bee" / f"{number}.png", (1, 2, 3), size=(7, 7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, r"data contains no class folders\. Expected one folder of images per class"),
        (_one_class, r"data contains fewer than 2 class folders \(only 'ant'\)"),
        (_space_in_front, r"data/ bee' must be one line without leading or trailing spaces"),
        (_name_in_latin_1, r"data/\\udce9t\\udce9' must be in UTF-8: rename"),
        (_class_without_images, r"class folder .*data/cow contains no images \(\.bmp"),
        (_single_image, r"class folder .*data/bee contains one image; a split needs at least 2"),
        (_broken_image, r"data/bee/\d\.png is not an image that can be read"),
        (_broken_test_image, r"data/test/ant/2\.png is not an image that can be read"),
        (_other_classes, r"data/val differ from those in .*data/train: missing \['cow'\], additional \['dog'\]\.$"),
        (_other_spelling, r"missing \['ant', .*\]\. They differ in case, or in the Unicode form of an accent: rename"),
        (
            _other_size,
            r"data/bee/\d\.png has the shape \(7, 7, 3\), the first image \(4, 6, 3\): set `input_shape` to resize",
        ),
    ],
)
def test_bad_folders(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "data")


@pytest.mark.parametrize(
    ("shape", "message"),
    [((8, 8, 2), r"`input_shape` \(=\(8, 8, 2\)\) .* 1 or 3 channels"), ((0, 8, 3), r"`input_shape` \(=0\)")],
)
def test_bad_input_shape(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        load(write_classes(tmp_path, {"ant": 2, "bee": 2}), input_shape=shape)
