"""Data sets in the layouts in which they are downloaded, made small."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from trainers.augmentation import Augmentation
from trainers.batches import Batches
from trainers.cli import main
from trainers.data import load
from trainers.dataset import Arrays, Files
from trainers.evaluate import evaluate
from trainers.recipes import recipe_for
from trainers.records import find_records, read_feature
from trainers.tf_data import as_tf_data

ROOT = pathlib.Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)
NAMES = ("ant", "bee", "cow")


def plain(colour, size=(64, 64)):
    return PIL.Image.new("RGB", size, colour)


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


# TensorFlow Datasets


def write_tfds(folder, name, shape, examples, labels=NAMES):
    """Writes `{split: [(array, label)]}` as TensorFlow Datasets does, one file for two pictures."""
    identity = tfds.core.dataset_info.DatasetIdentity(name, tfds.core.Version("1.0.0"), str(folder), "")
    features = tfds.features.FeaturesDict(
        {
            "file": tfds.features.Text(),
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=labels),
        }
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    (folder / name / "1.0.0").mkdir(parents=True)
    identity.data_dir = str(folder / name / "1.0.0")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(list(examples))
    for split, pairs in examples.items():
        writer.add_examples(
            {
                split: [
                    {"file": f"{index}.png", "image": image, "label": label}
                    for index, (image, label) in enumerate(pairs)
                ]
            }
        )
    writer.close_all()


def random_picture(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`(folder, what is in it)`: one data set of one size, one of many sizes without a labelled test split."""
    folder = tmp_path_factory.mktemp("tfds")
    fixed = {
        split: [(random_picture(6, 5), label) for label in labels]
        for split, labels in {"train": [0, 1, 2, 2, 1], "test": [2, 0]}.items()
    }
    sizes = {
        split: [(random_picture(10 + index, 20 - index), label) for index, label in enumerate(labels)]
        for split, labels in {"train": [0, 1, 2, 0, 1], "validation": [1, 2], "test": [-1, -1]}.items()
    }
    write_tfds(folder, "squares", (6, 5, 3), fixed)
    write_tfds(folder, "imagenet2012", (None, None, 3), sizes)
    return folder, {"squares": fixed, "imagenet": sizes}


@pytest.mark.parametrize("name", ["squares", "tfds:squares"])
def test_tfds_of_one_size_is_in_memory(prepared, name):
    folder, written = prepared
    dataset = load(name, data_dir=folder)
    assert (dataset.name, dataset.class_names, dataset.shape) == ("squares", NAMES, (6, 5, 3))
    assert "squares 1.0.0 from TensorFlow Datasets, stored as PNG" in dataset.note
    for split, pairs in written["squares"].items():
        source = getattr(dataset, split)
        assert isinstance(source, Arrays)
        assert source.labels.tolist() == [label for _, label in pairs]
        for found, (image, _) in zip(source.images, pairs, strict=True):
            np.testing.assert_array_equal(found, image)


def test_tfds_of_many_sizes_is_read_when_it_is_asked_for(prepared):
    folder, written = prepared
    dataset = load("imagenet", data_dir=folder)
    assert (dataset.name, dataset.shape) == ("imagenet", (None, None, 3))
    assert "ImageNet 1.0.0 from TensorFlow Datasets, stored as PNG; validation is the test split" in dataset.note
    assert recipe_for("sharesnet_34", dataset.name).name == "sharesnet-imagenet"
    for source, split in ((dataset.train, "train"), (dataset.test, "validation")):
        assert isinstance(source, Files)
        pairs = written["imagenet"][split]
        assert source.labels.tolist() == [label for _, label in pairs]
        for found, (image, _) in zip(source.pixels(np.arange(len(pairs))), pairs, strict=True):
            np.testing.assert_array_equal(found, image)
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in written["imagenet"]["train"]]).astype(float)
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dataset.variance, pixels.var(axis=0), rtol=1e-5)
    resized = load("imagenet", data_dir=folder, input_shape=(4, 4, 3))
    assert resized.train.pixels([1, 0]).shape == (2, 4, 4, 3)
    expected = PIL.Image.fromarray(written["imagenet"]["train"][1][0]).resize((4, 4), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized.train.pixels([1])[0], np.asarray(expected))


def test_records_are_what_tfds_reads(prepared):
    folder, _ = prepared
    builder = tfds.builder_from_directory(folder / "squares" / "1.0.0")
    paths = builder.info.splits["train"].filepaths
    records = [record for path in paths for record in find_records(path)]
    raw = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=False)
    for record, example in zip(records, tfds.as_numpy(raw), strict=True):
        for name in ("file", "image"):
            assert read_feature(record, name) == example[name]
        assert read_feature(record, "label") == example["label"]
    with pytest.raises(ValueError, match=r"the record at byte 12 of .* has no feature 'shape'"):
        read_feature(records[0], "shape")


def test_broken_records(prepared, tmp_path):
    path = next((prepared[0] / "squares" / "1.0.0").glob("squares-train*"))
    record = find_records(path)[0]
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"cut ends in the middle of a record"):
        find_records(cut)
    damaged = tmp_path / "damaged"
    data = bytearray(path.read_bytes())
    data[record.start : record.start + 8] = b"\xff" * 8
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=r"the record at byte 12 of .*damaged is damaged: "):
        read_feature(find_records(damaged)[0], "label")


def test_tfds_without_a_held_out_split(tmp_path):
    write_tfds(tmp_path, "alone", (4, 4, 3), {"train": [(random_picture(4, 4), label) for label in [0, 1, 2] * 5]})
    dataset = load("alone", data_dir=tmp_path)
    assert (len(dataset.train), sorted(dataset.test.labels.tolist())) == (12, [0, 1, 2])
    assert "20 % of each class are the test split (seed 0)" in dataset.note


def test_tfds_that_is_not_there(tmp_path):
    for name, title in (("cifar100", "CIFAR-100"), ("tfds:flowers", "flowers"), ("imagenet", "ImageNet")):
        with pytest.raises(
            ValueError, match=rf"There is no {title} in the data directory {tmp_path}: set `--data-dir`"
        ):
            load(name, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"`data` \(='flowers'\) is none of 'digits', .* and nothing that TensorFlow"):
        load("flowers", data_dir=tmp_path)


def test_shape_of_tfds(prepared):
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(9, 9, 3\)\) must be that of squares \(=\(6, 5, 3\)\)"):
        load("squares", data_dir=prepared[0], input_shape=(9, 9, 3))
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(9, 9, 4\)\) must be .* with 1 or 3 channels"):
        load("imagenet", data_dir=prepared[0], input_shape=(9, 9, 4))


# Unpacked archives


def write_tiny_imagenet(folder):
    """Two classes; the first two of the three test pictures are of the second."""
    for label, name in enumerate(("n01", "n02")):
        for number in range(3):
            save(plain((100 * label, number, 0)), folder / "train" / name / "images" / f"{name}_{number}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
    for number in range(3):
        save(plain((200, number, 0)), folder / "val" / "images" / f"val_{number}.JPEG")
        save(plain((0, 0, 0)), folder / "test" / "images" / f"test_{number}.JPEG")
    lines = [f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n" for number, name in ((0, "n02"), (2, "n02"), (1, "n01"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet(tmp_path):
    folder = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    for arguments in ({"name_or_directory": "tiny_imagenet", "data_dir": folder}, {"name_or_directory": folder}):
        dataset = load(**arguments)
        assert (dataset.name, dataset.class_names, dataset.shape) == ("tiny_imagenet", ("n01", "n02"), (64, 64, 3))
        assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert [path.name for path in dataset.test.paths] == ["val_0.JPEG", "val_2.JPEG", "val_1.JPEG"]
        assert dataset.test.labels.tolist() == [1, 1, 0]
        assert dataset.note == "Tiny ImageNet, 64x64 RGB pixels; val/ is the test split"
    assert recipe_for("sl_vggnet_256", dataset.name).name == "shardnet-tiny-imagenet-vgg"
    assert load(folder, input_shape=(32, 32, 3)).note.startswith("Tiny ImageNet, resized to 32x32")
    with open(folder / "val" / "val_annotations.txt", "a") as file:
        file.write("val_9.JPEG n02\n")
    with pytest.raises(ValueError, match=r"Line 4 of .*val_annotations\.txt must be a file and one of the classes"):
        load(folder)


def write_cinic10(folder):
    for split, count in (("train", 2), ("valid", 1), ("test", 1)):
        for label, name in enumerate(("airplane", "automobile", "bird")):
            for number in range(count):
                save(plain((label, number, 0), (32, 32)), folder / split / name / f"cifar10-{number}.png")
    return folder


def test_cinic10(tmp_path):
    folder = write_cinic10(tmp_path / "CINIC-10")
    for arguments in ({"name_or_directory": "cinic10", "data_dir": folder}, {"name_or_directory": folder}):
        dataset = load(**arguments)
        assert (dataset.name, len(dataset.train), len(dataset.test)) == ("cinic10", 6, 3)
        assert {path.relative_to(folder).parts[0] for path in dataset.test.paths} == {"test"}
    assert "valid/ is not used" in dataset.note
    assert recipe_for("hscnet_m128_g16_r8_a2", dataset.name).name == "hscnet-cinic10"


def write_imagenet32(folder, count=2):
    """The first of all training pictures has the numbers 0 to 3071 modulo 256, colour by colour."""
    folder.mkdir()
    images = RANDOM.integers(0, 256, (10 * count, 3072), np.uint8)
    images[0] = np.arange(3072) % 251
    labels = np.arange(10 * count) % 4 + 1
    for number in range(10):
        part = slice(count * number, count * number + count)
        mean = images.mean(axis=0)
        np.savez(folder / f"train_data_batch_{number + 1}.npz", data=images[part], labels=labels[part], mean=mean)
    np.savez(folder / "val_data.npz", data=images[:3], labels=labels[:3])
    return images, labels


def test_imagenet32(tmp_path):
    images, labels = write_imagenet32(tmp_path / "data")
    for arguments in (
        {"name_or_directory": "imagenet32", "data_dir": tmp_path / "data"},
        {"name_or_directory": tmp_path / "data"},
    ):
        dataset = load(**arguments)
        assert (dataset.name, dataset.class_names, dataset.shape) == ("imagenet32", tuple("1234"), (32, 32, 3))
        assert dataset.train.labels.tolist() == [label - 1 for label in labels]
        for row, column, channel in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (31, 31, 2), (7, 9, 1)):
            assert dataset.train.images[0, row, column, channel] == (1024 * channel + 32 * row + column) % 251
        np.testing.assert_array_equal(dataset.test.images, dataset.train.images[:3])
        np.testing.assert_allclose(dataset.mean, images.reshape(-1, 3, 1024).mean(axis=(0, 2)), rtol=1e-6)
    assert recipe_for("hscnet_m128_g16_r8_a2", dataset.name).epochs == 40


@pytest.mark.parametrize(
    ("name", "break_it", "message"),
    [
        (
            "imagenet32",
            lambda f: (f / "train_data_batch_7.npz").unlink(),
            r"There is no train_data_batch_7\.npz in the",
        ),
        ("imagenet32", lambda f: (f / "val_data.npz").write_bytes(b"PK"), r"val_data\.npz cannot be read: \w+"),
        (
            "imagenet32",
            lambda f: np.savez(f / "val_data.npz", data=np.zeros((2, 12), np.uint8), labels=[1, 2]),
            r"`data` in .*val_data\.npz must be uint8 `\(pictures, 3072\)`.*\(2, 12\)",
        ),
        (
            "imagenet32",
            lambda f: np.savez(f / "val_data.npz", data=np.zeros((2, 3072), np.uint8), labels=[0, 1]),
            r"`labels` in .*val_data\.npz must be whole numbers of at least 1",
        ),
        ("tiny_imagenet", lambda f: None, r"There is no train in the folder .*data, where tiny_imagenet should be"),
        ("cinic10", lambda f: (f / "train").mkdir(), r"There is no valid in the folder"),
    ],
)
def test_broken_archives(tmp_path, name, break_it, message):
    if name == "imagenet32":
        write_imagenet32(tmp_path / "data", count=1)
    else:
        (tmp_path / "data").mkdir()
    break_it(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        load(name, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=rf"`--data {name}` needs `--data-dir`"):
        load(name)


# Pictures that cannot be read


@pytest.fixture
def half_broken(tmp_path):
    """Two classes of 10 JPEG pictures; two of them are cut off, one is a text."""
    for name in ("ant", "bee"):
        for number in range(10):
            picture = PIL.Image.fromarray(random_picture(16, 16))
            save(picture, tmp_path / "data" / name / f"{number}.jpg")
    for path in ("ant/3.jpg", "bee/7.jpg"):
        whole = (tmp_path / "data" / path).read_bytes()
        (tmp_path / "data" / path).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "bee" / "0.jpg").write_text("no picture")
    return tmp_path / "data"


def test_unreadable_pictures_are_all_named(half_broken):
    with pytest.raises(ValueError, match="`--skip-unreadable` leaves such pictures out") as raised:
        load(half_broken)
    for path in ("ant/3.jpg", "bee/7.jpg", "bee/0.jpg"):
        assert f"{half_broken / path} is not a picture that can be read" in str(raised.value)


def test_unreadable_pictures_are_left_out_on_request(half_broken):
    dataset = load(half_broken, skip_unreadable=True)
    kept = {str(path.relative_to(half_broken)) for part in (dataset.train, dataset.test) for path in part.paths}
    every = {f"{name}/{number}.jpg" for name in ("ant", "bee") for number in range(10)}
    assert every - kept == {"ant/3.jpg", "bee/7.jpg", "bee/0.jpg"}
    assert len(dataset.unreadable) == 3
    assert "3 unreadable pictures are left out" in dataset.note
    assert dataset.train.pixels(np.arange(len(dataset.train))).shape == (len(dataset.train.labels), 16, 16, 3)


def test_command_line_names_what_it_leaves_out(half_broken, tmp_path, capsys):
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.save(tmp_path / "net.keras")
    evaluate = ["evaluate", str(tmp_path / "net.keras"), "--data", str(half_broken)]
    assert main(evaluate) == 2
    assert "is not a picture that can be read" in capsys.readouterr().err
    assert main([*evaluate, "--skip-unreadable"]) == 0
    output, errors = capsys.readouterr()
    assert [line.partition(" is not")[0] for line in sorted(errors.splitlines())] == [
        f"left out: {half_broken / path}" for path in ("ant/3.jpg", "bee/0.jpg", "bee/7.jpg")
    ]
    assert "3 unreadable pictures are left out" in output


def test_class_of_unreadable_pictures_alone(half_broken):
    for number in range(10):
        (half_broken / "ant" / f"{number}.jpg").write_text("no picture")
    with pytest.raises(
        ValueError, match=r"The class 'ant' has no picture to train with that can be read\. .*And 2 more"
    ):
        load(half_broken, skip_unreadable=True)


# Ten crops


@pytest.mark.parametrize("suffix", ["keras", "tflite"])
def test_ten_crops_are_averaged(tmp_path, suffix):
    """A network that says how red the upper left pixel is: the ten crops of 56 of a picture of 64 pixels see ten."""
    for label, name in enumerate(("dark", "light")):
        for number in range(5):
            picture = RANDOM.integers(0, 120 + 15 * label, (64, 64, 3), np.uint8)
            save(PIL.Image.fromarray(picture), tmp_path / "data" / name / f"{number}.png")
    dataset = load(tmp_path / "data")
    images = keras.Input((56, 56, 3))
    dense = keras.layers.Dense(2, "softmax")
    model = keras.Model(images, dense(keras.layers.Flatten()(images)))
    kernel = np.zeros((56 * 56 * 3, 2))
    kernel[0, 1] = 0.05
    dense.kernel.assign(kernel)
    dense.bias.assign([0.0, -0.05 * 62])
    path = tmp_path / f"net.{suffix}"
    if suffix == "keras":
        model.save(path)
    else:
        pytest.importorskip("keras_sharenets.mobile").export_tflite(model, path)
    pictures = dataset.test.pixels(np.arange(2)).astype(float)
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4), (0, 55), (0, 63), (8, 55), (8, 63), (4, 59)]
    reds = np.array([[picture[place][0] for place in places] for picture in pictures])
    light = (1 / (1 + np.exp(-0.05 * (reds - 62)))).mean(axis=1)
    expected = int(((light > 0.5) == dataset.test.labels).sum())
    assert evaluate(path, dataset, "ten").correct == expected
    assert evaluate(path, dataset, "center").correct == int(((reds[:, 4] > 62) == dataset.test.labels).sum())
    with pytest.raises(ValueError, match=r"takes pictures of the shape \(56, 56, 3\), .* are \(64, 64, 3\): `crops`"):
        evaluate(path, dataset)
    with pytest.raises(ValueError, match=r"`crops` \(='five'\) must be one of 'none', 'center', 'ten'"):
        evaluate(path, dataset, "five")


# Feeding


FEED = """
import sys
import numpy as np
from trainers.data import load
from trainers.batches import held_out_batches, training_batches
from trainers.recipes import find_recipe, override
folder, file = sys.argv[1:]
dataset = load(folder, skip_unreadable=True)
recipe = override(find_recipe("default"), crop="area", crop_size=8, batch_size=4)
batches = training_batches(dataset, recipe, 5)
images, labels = zip(batches.batch(0, 0), batches.batch(0, 1), batches.batch(3, 0), held_out_batches(dataset, 4)[0])
np.savez(file, *images, *labels)
sys.exit("tensorflow" in sys.modules and sys.modules["keras"].backend.backend() == "jax")
"""


def test_both_backends_get_the_same_batches_and_jax_without_tensorflow(half_broken, tmp_path):
    """Files, crops and batches import none of it."""
    batches = {}
    for backend in ("tensorflow", "jax"):
        command = [sys.executable, "-c", FEED, str(half_broken), str(tmp_path / f"{backend}.npz")]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, check=True)
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            batches[backend] = [arrays[name] for name in arrays.files]
    for ours, theirs in zip(*batches.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    first, second, *_ = batches["jax"]
    assert first.shape == second.shape == (4, 8, 8, 3)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("augmentation", [None, Augmentation(1, True, (3.0, 4.0, 5.0))])
def test_tf_data_gives_the_same_batches(augmentation):
    source = Arrays(RANDOM.integers(0, 256, (10, 5, 6, 3), np.uint8), np.arange(10) % 3)
    batches = Batches(source, 3, 4, augmentation, seed=7)
    dataset = as_tf_data(batches)
    count = 3 if augmentation is None else 2
    assert int(dataset.cardinality()) == len(batches) == count
    assert dataset.element_spec[0].shape.as_list() == [None if augmentation is None else 4, 5, 6, 3]
    for epoch in (0, 3):
        batches.epoch = epoch
        found = list(dataset.as_numpy_iterator())
        assert len(found) == count
        for index, (images, labels) in enumerate(found):
            expected = batches.batch(epoch, index)
            np.testing.assert_array_equal(images, expected[0])
            np.testing.assert_array_equal(labels, expected[1])


def test_fit_takes_tf_data_epoch_by_epoch():
    """The same weights, bit for bit, as from the batches themselves."""
    source = Arrays(RANDOM.integers(0, 256, (12, 5, 5, 3), np.uint8), np.arange(12) % 3)
    weights = []
    for change in (lambda batches: batches, as_tf_data):
        model = keras.Sequential(
            [keras.Input((5, 5, 3)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)]
        )
        model.set_weights([np.ones((75, 3)) / 100])
        model.compile(keras.optimizers.SGD(1e-7), "mean_squared_error", jit_compile=False)
        batches = Batches(source, 3, 4, Augmentation(1, True, (3.0, 4.0, 5.0)), seed=2)
        model.fit(change(batches), epochs=3, shuffle=False, callbacks=[batches.callback()], verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)
    assert not np.array_equal(weights[0], np.float32(np.ones((75, 3)) / 100))
