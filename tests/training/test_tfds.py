"""Small data sets in the format of TensorFlow Datasets."""

import json
import sys
import warnings

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from image_files import random_image
from made_up_runs import fake_run

from keras_sharenets.training.data.dataset import Arrays, Files
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.data.tfds import find_records, in_several_files, read_feature
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.run.fit import check_same_data, summarize

NAMES = ("ant", "bee", "cow")
IMAGES_PER_FILE = 2


def write_tfds(folder, name, shape, examples, labels=NAMES, encoding="png", others=(), supervised=None):
    """Writes `{split: [(array, label)]}` as TensorFlow Datasets does, with `IMAGES_PER_FILE` in each file."""
    identity = tfds.core.dataset_info.DatasetIdentity(name, tfds.core.Version("1.0.0"), str(folder), "")
    features = tfds.features.FeaturesDict(
        {
            "file": tfds.features.Text(),
            "image": tfds.features.Image(shape=shape, encoding_format=encoding),
            "label": tfds.features.ClassLabel(names=labels),
            **dict.fromkeys(others, tfds.features.ClassLabel(names=NAMES)),
        }
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, supervised_keys=supervised)
    (folder / name / "1.0.0").mkdir(parents=True)
    identity.data_dir = str(folder / name / "1.0.0")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=IMAGES_PER_FILE)
    writer.initialize_splits(list(examples))
    for split, pairs in examples.items():
        writer.add_examples(
            {
                split: [
                    {"file": f"{index}.png", "image": image, "label": label, **dict.fromkeys(others, 0)}
                    for index, (image, label) in enumerate(pairs)
                ]
            }
        )
    writer.close_all()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`(folder, contents)`: a data set of a fixed size, and one of varying sizes without a labeled test split."""
    folder = tmp_path_factory.mktemp("tfds")
    fixed = {
        split: [(random_image(6, 5), label) for label in labels]
        for split, labels in {"train": [0, 1, 2, 2, 1], "test": [2, 0]}.items()
    }
    sizes = {
        split: [(random_image(10 + index, 20 - index), label) for index, label in enumerate(labels)]
        for split, labels in {"train": [0, 1, 2, 0, 1], "validation": [1, 2], "test": [-1, -1]}.items()
    }
    write_tfds(folder, "squares", (6, 5, 3), fixed)
    write_tfds(folder, "imagenet2012", (None, None, 3), sizes)
    return folder, {"squares": fixed, "imagenet": sizes}


@pytest.mark.parametrize("name", ["squares", "tfds:squares"])
def test_data_set_of_fixed_size_is_in_memory(prepared, name):
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


def test_data_set_of_varying_sizes_is_read_lazily(prepared):
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


def test_records_match_tfds(prepared):
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
    # As on a disk that fails during training.
    with pytest.raises(ValueError, match=r"the record at byte 12 of gone cannot be read: .*No such file"):
        read_feature(records[0]._replace(path="gone"), "shape")


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


def test_data_set_without_a_test_split(tmp_path):
    write_tfds(tmp_path, "alone", (4, 4, 3), {"train": [(random_image(4, 4), label) for label in [0, 1, 2] * 5]})
    dataset = load("alone", data_dir=tmp_path)
    assert (len(dataset.train), sorted(dataset.test.labels.tolist())) == (12, [0, 1, 2])
    assert "20 % of each class are the test split (seed 0)" in dataset.note


def test_images_with_transparency_are_refused_on_every_backend(tmp_path):
    """Pillow, which decodes on JAX, would drop the fourth channel, and so would every program that uses the network."""
    write_tfds(tmp_path, "clear", (4, 4, 4), {"train": [(np.zeros((4, 4, 4), "uint8"), label) for label in range(3)]})
    with pytest.raises(ValueError, match=r"its images have 4 channels, but must have 1 \(gray\) or 3 \(RGB\)"):
        load("clear", data_dir=tmp_path)


def test_order_of_images_does_not_depend_on_the_backend(tmp_path, monkeypatch):
    # More than 16 images in one of several files: by default, TFDS takes 16 of each file in turn.
    monkeypatch.setattr(sys.modules[__name__], "IMAGES_PER_FILE", 20)
    labels = [index % 3 for index in range(40)]
    write_tfds(tmp_path, "files", (4, 4, 3), {"train": [(random_image(4, 4), label) for label in labels]})
    found = []
    for backend in ("tensorflow", "jax"):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        dataset = load("files", data_dir=tmp_path)
        found.append([(part.images, part.labels) for part in (dataset.train, dataset.test)])
    for split, other in zip(*found, strict=True):
        for arrays in zip(split, other, strict=True):
            np.testing.assert_array_equal(*arrays)
    # The record of an earlier version, which used the default of TFDS.
    run = fake_run("resnet_8", 0, 0.5, data=json.loads(json.dumps(summarize(dataset))), backend="tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_data(run, dataset, tmp_path)
    del run.data["checksums"]
    with pytest.warns(UserWarning, match="was started by an earlier version, which read files in another order"):
        check_same_data(run, dataset, tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "IMAGES_PER_FILE", 40)
    write_tfds(tmp_path, "file", (4, 4, 3), {"train": [(random_image(4, 4), label) for label in labels]})
    assert [in_several_files(load(name, data_dir=tmp_path).source) for name in ("file", "files")] == [False, True]


@pytest.mark.parametrize(("supervised", "classes"), [(("image", "kind"), NAMES), (None, ("x", "y"))])
def test_supervised_label_among_several(tmp_path, supervised, classes):
    pairs = [(random_image(4, 4), label) for label in (0, 1, 0, 1)]
    options = {"labels": ("x", "y"), "others": ("a", "kind"), "supervised": supervised}
    write_tfds(tmp_path, "several", (4, 4, 3), {"train": pairs, "test": pairs}, **options)
    dataset = load("several", data_dir=tmp_path)
    assert dataset.class_names == classes
    assert dataset.train.labels.tolist() == ([0] * 4 if supervised else [0, 1, 0, 1])


def test_missing_data_set(tmp_path):
    for name, title in (("cifar100", "CIFAR-100"), ("tfds:flowers", "flowers"), ("imagenet", "ImageNet")):
        with pytest.raises(
            ValueError, match=rf"There is no {title} in the data directory {tmp_path}: set `--data-dir`"
        ):
            load(name, data_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"`data` \(='flowers'\) must be one of 'digits', .* or a data set that TensorFlow"
    ):
        load("flowers", data_dir=tmp_path)


def test_bad_input_shape(prepared):
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(9, 9, 3\)\) must match squares \(=\(6, 5, 3\)\)"):
        load("squares", data_dir=prepared[0], input_shape=(9, 9, 3))
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(9, 9, 4\)\) must be .* with 1 or 3 channels"):
        load("imagenet", data_dir=prepared[0], input_shape=(9, 9, 4))


def test_jax_reads_data_sets_without_tensorflow(prepared, tmp_path, other_backend):
    """`tests/cli/cold_start.py` checks that training on JAX does not import TensorFlow."""
    folder, written = prepared
    images, labels = other_backend.tfds_arrays(folder / "squares", tmp_path)
    np.testing.assert_array_equal(images, [image for image, _ in written["squares"]["train"]])
    np.testing.assert_array_equal(labels, [label for _, label in written["squares"]["test"]])


@pytest.mark.parametrize(("encoding", "named"), [("jpeg", True), ("png", False)])
def test_note_mentions_the_decoder_for_jpeg(tmp_path, monkeypatch, encoding, named):
    examples = [(random_image(8, 8), label) for label in range(3)]
    write_tfds(tmp_path, "few", (8, 8, 3), {"train": examples, "test": examples}, encoding=encoding)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert "decoded by Pillow" not in load("few", data_dir=tmp_path).note
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert ("decoded by Pillow" in load("few", data_dir=tmp_path).note) == named
