"""Named data sets, scikit-learn's digits and CIFAR-10, compared with their sources."""

import collections
import io
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from keras_sharenets.training.data import dataset as dataset_module
from keras_sharenets.training.data.dataset import Arrays, Files, make_dataset, stratified_split
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.data.tfds import describe_encoding

# Digits


def test_digits_equal_scikit_learn(digits):
    original = sklearn.datasets.load_digits()
    # 0 to 16 times 255 / 16 = 15.9375.
    expected = collections.Counter(
        (label, bytes(int(15.9375 * ink + 0.5) for ink in image.ravel()))
        for label, image in zip(original.target.tolist(), original.images.astype(int), strict=True)
    )
    found = collections.Counter(
        (int(label), image.tobytes())
        for part in (digits.train, digits.test)
        for label, image in zip(part.labels, part.images, strict=True)
    )
    assert found == expected
    assert digits.train.images.dtype == np.uint8
    assert digits.shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert "seed 0" in digits.note
    for label in range(10):
        assert abs((digits.test.labels == label).sum() - 0.2 * (original.target == label).sum()) <= 0.5


def test_mean_and_variance_of_training_split(digits):
    pixels = digits.train.images.astype("float64")
    assert digits.mean == pytest.approx([pixels.mean()], rel=1e-6)
    assert digits.variance == pytest.approx([pixels.var()], rel=1e-6)


def test_shape_of_named_data_set_is_fixed():
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(16, 16, 1\)\) must match digits \(=\(8, 8, 1\)\)"):
        load("digits", input_shape=(16, 16, 1))


def test_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"`data` \(='.*nowhere'\) must be one of 'digits', 'cifar10', .*, a folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 1), "uint8"), [0, 2], r"`test` \(with the label 2\) must have labels from 0 to 1"),
        (np.zeros((2, 4, 4, 1), "uint8"), [-1, 0], r"`test` \(with the label -1\) must have labels from 0 to 1"),
        (np.zeros((3, 4, 4, 1), "uint8"), [0, 1], r"`test` \(=3 images and 2 labels\) must have one label per image"),
        (np.zeros((0, 4, 4, 1), "uint8"), [], r"`test` \(=0 images and 0 labels\) must have"),
        (np.zeros((2, 4, 4, 1), "float32"), [0, 1], r"`test` \(of type float32\) must have uint8 images"),
    ],
)
def test_bad_arrays(images, labels, message):
    train = Arrays(np.zeros((2, 4, 4, 1), "uint8"), np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        make_dataset("made", "", "ab", train, Arrays(images, np.array(labels, "int64")))


@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_split(seed):
    labels = np.repeat([3, 0, 1], [50, 2, 5])
    train, test = stratified_split(labels, 0.2, seed)
    assert sorted([*train, *test]) == list(range(57))
    # A fifth of 50, of 2 (at least one) and of 5.
    assert collections.Counter(labels[test].tolist()) == {3: 10, 0: 1, 1: 1}
    np.testing.assert_array_equal(test, stratified_split(labels, 0.2, seed)[1])
    assert list(test) != list(stratified_split(labels, 0.2, seed + 1)[1])
    # Nine tenths of 50, and all but one of the others.
    train, _ = stratified_split(labels, 0.9, seed)
    assert collections.Counter(labels[train].tolist()) == {3: 5, 0: 1, 1: 1}


def test_many_files_are_read_in_part(monkeypatch):
    """Of nine files, at most five are read in advance: evenly spaced, including the first and the last."""
    read = []

    def reader(path, shape):
        read.append(path)
        return np.full((2, 2, 1), path, "uint8")

    monkeypatch.setattr(dataset_module, "EXAMINED", 5)
    train, test = (Files(tuple(range(count)), np.arange(count) % 2, (2, 2, 1), False, reader) for count in (9, 2))
    few = make_dataset("few", "", "ab", train, test)
    assert sorted(read) == [0, 0, 1, 2, 4, 6, 8]
    assert (few.mean, few.variance, len(few.train)) == ((4.0,), (8.0,), 9)


# CIFAR-10


@pytest.mark.slow
def test_real_cifar10(cifar10, cifar10_folder):
    dataset = cifar10
    assert dataset.train.images.shape == (50000, 32, 32, 3)
    assert dataset.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    # The well-known mean of the original images; JPEG compression changes it slightly.
    assert dataset.mean == pytest.approx((125.3, 123.0, 113.9), abs=1.5)
    raw = next((cifar10_folder / "cifar10").glob("*/cifar10-test.tfrecord*")).read_bytes()[:2000]
    assert ("stored as JPEG" in dataset.note) == (b"JFIF" in raw)
    assert ("stored as PNG" in dataset.note) == (b"\x89PNG" in raw)


def test_missing_cifar10(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=rf"There is no CIFAR-10 in the data directory {tmp_path}: set `--data-dir`"):
        load("cifar10")


def test_cifar10_with_broken_metadata(tmp_path):
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "cifar10", "spl')
    with pytest.raises(ValueError, match=rf"CIFAR-10 in the data directory {tmp_path} cannot be read"):
        load("cifar10", data_dir=tmp_path)


def test_cifar10_with_truncated_records(tmp_path, cifar10_folder):
    source = next((cifar10_folder / "cifar10").glob("*/dataset_info.json")).parent
    target = tmp_path / "cifar10" / source.name
    target.mkdir(parents=True)
    for file in source.iterdir():
        if "train.tfrecord" in file.name:
            (target / file.name).write_bytes(file.read_bytes()[:100_000])
        else:
            shutil.copyfile(file, target / file.name)
    assert json.loads((target / "dataset_info.json").read_text())["name"] == "cifar10"
    with pytest.raises(ValueError, match=rf"CIFAR-10 in the data directory {tmp_path} cannot be read: \w+"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(format="PNG"), "stored as PNG"),
        (
            dict(format="JPEG", quality=75, subsampling=2),
            "JPEG of quality 75 with 4:2:0 chroma, not the lossless original",
        ),
        (dict(format="JPEG", quality=92, subsampling=0), "JPEG of quality 92 with 4:4:4 chroma"),
        (dict(format="JPEG", qtables=[[1] * 63 + [9]] * 2), "JPEG of unknown quality"),
    ],
)
def test_encoding_is_detected_from_the_bytes(settings, expected):
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), (200, 30, 60)).save(file, **settings)
    assert expected in describe_encoding(file.getvalue())
