import collections
import io
import json
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from trainers.batches import Augmentation, Batches, augment, draw_changes, held_out_batches, training_batches
from trainers.data import load
from trainers.dataset import Arrays, stratified_split
from trainers.encoding import describe_encoding
from trainers.network import build
from trainers.recipes import recipe_for


def write_picture(path, colour, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)


def write_classes(folder, counts, size=(6, 4)):
    """Class `i` has pictures of the colours (40 i, picture, 7)."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_picture(folder / name / f"{number}.png", (40 * label, number, 7), size)
    return folder


# Digits


def test_digits_are_those_of_scikit_learn_split_in_two(digits):
    original = sklearn.datasets.load_digits()
    # 0 to 16 times 255 / 16 = 15.9375.
    expected = collections.Counter(
        (label, bytes(int(15.9375 * ink + 0.5) for ink in picture.ravel()))
        for label, picture in zip(original.target.tolist(), original.images.astype(int), strict=True)
    )
    found = collections.Counter(
        (int(label), picture.tobytes())
        for part in (digits.train, digits.test)
        for label, picture in zip(part.labels, part.images, strict=True)
    )
    assert found == expected
    assert digits.train.images.dtype == np.uint8
    assert digits.shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert "seed 0" in digits.note
    for label in range(10):
        assert abs((digits.test.labels == label).sum() - 0.2 * (original.target == label).sum()) <= 0.5


def test_mean_and_variance_are_those_of_the_training_split(digits):
    pixels = digits.train.images.astype("float64")
    assert digits.mean == pytest.approx([pixels.mean()], rel=1e-6)
    assert digits.variance == pytest.approx([pixels.var()], rel=1e-6)


def test_fixed_shape_of_a_known_data_set():
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(16, 16, 1\)\) must be that of digits \(=\(8, 8, 1\)\)"):
        load("digits", input_shape=(16, 16, 1))


def test_neither_name_nor_folder(tmp_path):
    with pytest.raises(ValueError, match=r"`data` \(='.*nowhere'\) is none of 'digits', 'cifar10', .*, no folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_split(seed):
    labels = np.repeat([3, 0, 1], [50, 2, 5])
    train, test = stratified_split(labels, 0.2, seed)
    assert sorted([*train, *test]) == list(range(57))
    # A fifth of 50, of 2 (at least one) and of 5.
    assert collections.Counter(labels[test].tolist()) == {3: 10, 0: 1, 1: 1}
    np.testing.assert_array_equal(test, stratified_split(labels, 0.2, seed)[1])
    assert list(test) != list(stratified_split(labels, 0.2, seed + 1)[1])


# Folders of pictures


def test_class_folders_are_split(tmp_path):
    dataset = load(write_classes(tmp_path / "things", {"cat": 10, "ant": 5, "bee": 5, ".hidden": 1}))
    assert dataset.name == "things"
    assert dataset.class_names == ("ant", "bee", "cat")
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (8 + 4 + 4, 2 + 1 + 1, (4, 6, 3))
    assert not set(dataset.train.paths) & set(dataset.test.paths)
    for source in (dataset.train, dataset.test):
        pixels = source.pixels(np.arange(len(source)))
        written_as = {"ant": 40, "bee": 80, "cat": 0}
        for path, label, picture in zip(source.paths, source.labels, pixels, strict=True):
            name = path.parent.name
            assert dataset.class_names[label] == name
            assert np.all(picture == (written_as[name], int(path.stem), 7))
    assert load(tmp_path / "things").test.paths == dataset.test.paths
    assert load(tmp_path / "things", seed=1).test.paths != dataset.test.paths
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


def test_a_class_may_be_called_train(tmp_path):
    assert load(write_classes(tmp_path, {"train": 2, "tram": 2})).class_names == ("train", "tram")


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path):
    dataset = load(write_classes(tmp_path, {"ant": 3, "bee": 3}))
    write_picture(dataset.train.paths[1], (9, 9, 9))
    assert np.all(dataset.train.pixels([1]) == 9)


def test_resized_and_grey(tmp_path):
    write_classes(tmp_path, {"ant": 3, "bee": 3}, size=(20, 10))
    write_picture(tmp_path / "ant" / "0.png", (200, 200, 200), size=(5, 7))
    dataset = load(tmp_path, input_shape=(8, 12, 1))
    pixels = dataset.train.pixels([0, 1])
    assert (pixels.shape, pixels.dtype, dataset.shape) == ((2, 8, 12, 1), np.uint8, (8, 12, 1))
    assert "resized to 8x12 grey" in dataset.note


def _empty(folder):
    folder.mkdir()


def _one_class(folder):
    write_classes(folder, {"ant": 3})


def _class_without_pictures(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    (folder / "cow").mkdir()
    (folder / "cow" / "notes.txt").write_text("moo")


def _lonely_picture(folder):
    write_classes(folder, {"ant": 3, "bee": 1})


def _broken_picture(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    for number in range(3):
        path = folder / "bee" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:45])


def _broken_test_picture(folder):
    write_classes(folder / "train", {"ant": 3, "bee": 3})
    write_classes(folder / "test", {"ant": 3, "bee": 3})
    (folder / "test" / "ant" / "2.png").write_text("no picture")


def _other_classes(folder):
    write_classes(folder / "train", {"ant": 1, "bee": 1, "cow": 1})
    write_classes(folder / "val", {"ant": 1, "bee": 1, "dog": 1})


def _other_size(folder):
    write_classes(folder, {"ant": 3, "bee": 3})
    for number in range(3):
        write_picture(folder / "bee" / f"{number}.png", (1, 2, 3), size=(7, 7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, r"data holds no class folders\. Expected is one folder of pictures per class"),
        (_one_class, r"data holds fewer than 2 class folders \(only 'ant'\)"),
        (_class_without_pictures, r"class folder .*data/cow holds no picture \(\.bmp"),
        (_lonely_picture, r"class folder .*data/bee holds one picture; a split needs at least 2"),
        (_broken_picture, r"data/bee/\d\.png is not a picture that can be read"),
        (_broken_test_picture, r"data/test/ant/2\.png is not a picture that can be read"),
        (_other_classes, r"data/val differ from those in .*data/train: missing \['cow'\], additional \['dog'\]"),
        (
            _other_size,
            r"data/bee/\d\.png has the shape \(7, 7, 3\), the first picture \(4, 6, 3\): give an `input_shape`",
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


# CIFAR-10


def test_real_cifar10(cifar10, cifar10_folder):
    dataset = cifar10
    assert dataset.train.images.shape == (50000, 32, 32, 3)
    assert dataset.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    # The well-known mean of the original; a JPEG copy moves it a little.
    assert dataset.mean == pytest.approx((125.3, 123.0, 113.9), abs=1.5)
    raw = next((cifar10_folder / "cifar10").glob("*/cifar10-test.tfrecord*")).read_bytes()[:2000]
    assert ("stored as JPEG" in dataset.note) == (b"JFIF" in raw)
    assert ("stored as PNG" in dataset.note) == (b"\x89PNG" in raw)


def test_cifar10_that_is_not_there(tmp_path, monkeypatch):
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
def test_encoding_is_read_from_the_bytes(settings, expected):
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), (200, 30, 60)).save(file, **settings)
    assert expected in describe_encoding(file.getvalue())


# Batches


def numbered(count=23, size=5, channels=2):
    """Pictures whose every pixel value is different; label = number modulo 3."""
    images = np.arange(count)[:, None, None, None] + np.arange(size * size * channels).reshape(size, size, channels) * 4
    return Arrays((images % 256).astype("uint8"), np.arange(count) % 3)


def test_test_batches_hold_every_picture_once_in_order(digits):
    batches = held_out_batches(digits, batch_size=100)
    images, labels = map(np.concatenate, zip(*[batches[index] for index in range(len(batches))], strict=True))
    assert (len(batches), images.dtype, labels.shape) == (4, np.float32, (359, 10))
    np.testing.assert_array_equal(images, digits.test.images)
    np.testing.assert_array_equal(labels.argmax(axis=1), digits.test.labels)


def test_training_batches_are_a_pure_function_of_seed_epoch_and_index(digits):
    recipe = recipe_for("hscnet_m32_g4_r2_b1_a2", "digits")
    batches = training_batches(digits, recipe, seed=5)
    first = batches.batch(epoch=3, index=7)
    batches.batch(epoch=0, index=0)
    batches.epoch = 9
    for array, again in zip(first, training_batches(digits, recipe, seed=5).batch(3, 7), strict=True):
        np.testing.assert_array_equal(array, again)
    for other in (batches.batch(3, 6), batches.batch(4, 7), training_batches(digits, recipe, seed=6).batch(3, 7)):
        assert not np.array_equal(first[0], other[0])


def test_an_epoch_is_a_new_order_without_repeats():
    source = numbered()
    batches = Batches(source, 3, 5, Augmentation(0, False, (0, 0)), seed=1)
    assert len(batches) == 4  # 23 pictures: 3 of them sit out.
    orders = []
    for epoch in range(2):
        images, labels = map(np.concatenate, zip(*[batches.batch(epoch, index) for index in range(4)], strict=True))
        numbers = images[:, 0, 0, 0].astype(int)
        assert len(set(numbers)) == 20
        np.testing.assert_array_equal(images, source.images[numbers])
        np.testing.assert_array_equal(labels, np.eye(3)[source.labels[numbers]])
        orders.append(numbers.tolist())
    assert orders[0] != orders[1] != sorted(orders[1])


def test_a_small_training_split_is_one_batch():
    batches = Batches(numbered(), 3, 128, Augmentation(0, False, (0, 0)))
    assert (len(batches), len(batches[0][0])) == (1, 23)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("augmentation", [None, Augmentation(1, True, (3, 4))])
def test_workers_together_have_the_batches_of_one(workers, augmentation):
    settings = (numbered(), 3, 6, augmentation, 7)
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
        ({"workers": 0}, r"`workers` \(=0\) must be a whole number of at least 1"),
        ({"workers": 2, "worker": 2}, r"`worker` \(=2\) must be one of 0, 1"),
        ({"workers": 4}, r"`workers` \(=4\) must divide `batch_size` \(=6\)"),
    ],
)
def test_bad_workers(part, message):
    with pytest.raises(ValueError, match=message):
        Batches(numbered(), 3, 6, **part)


def test_an_epoch_can_begin_at_any_step():
    settings = (numbered(), 3, 5, Augmentation(1, True, (3, 4)), 7)
    alone, late = Batches(*settings), Batches(*settings, first=1)
    late.epoch = 2
    assert (len(late), late.steps) == (3, 4)
    for index in range(3):
        np.testing.assert_array_equal(late[index][0], alone.batch(2, index + 1)[0])


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_gives_every_crop_and_nothing_else(flip):
    images = np.repeat(numbered(1).images, 600, axis=0)
    fill = (1.5, 2.5)
    padded = np.stack([np.pad(images[0, :, :, c].astype(float), 1, constant_values=fill[c]) for c in range(2)], axis=-1)
    crops = [padded[top : top + 5, left : left + 5] for top in range(3) for left in range(3)]
    expected = {crop.astype("float32").tobytes() for crop in crops}
    if flip:
        expected |= {np.ascontiguousarray(crop[:, ::-1]).astype("float32").tobytes() for crop in crops}
    augmentation = Augmentation(1, flip, fill)
    changed = augment(images, augmentation, draw_changes(augmentation, len(images), np.random.default_rng(0)))
    assert (changed.shape, changed.dtype) == (images.shape, np.float32)
    assert {picture.tobytes() for picture in changed} == expected
    assert len(expected) == (18 if flip else 9)


def test_padding_is_zero_to_the_network(digits):
    network = build("hscnet_m32_g4_r2_b1_a2", digits)
    normalise = network.layers[1]
    assert np.all(keras.ops.convert_to_numpy(normalise(np.full((1, 8, 8, 1), digits.mean, "float32"))) == 0)
    values = keras.ops.convert_to_numpy(normalise(digits.train.images.astype("float32")))
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.var() == pytest.approx(1, abs=1e-5)


def test_fit_takes_the_batches_in_order_epoch_by_epoch():
    """A linear model trained by `fit` on them has the weights of the same descent in numpy."""
    source = numbered(count=12)
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
