"""Data sets that TensorFlow Datasets has prepared."""

import functools
import os
import pathlib

import numpy as np

from keras_sharenets.training.data.dataset import Arrays, Files, make_dataset, stratified_split
from keras_sharenets.training.data.encoding import describe_encoding
from keras_sharenets.training.data.image_folders import check_shape
from keras_sharenets.training.data.records import find_records, read_feature, read_record_picture

# Our name, theirs, and how it is written.
NAMES = {
    "cifar10": ("cifar10", "CIFAR-10"),
    "cifar100": ("cifar100", "CIFAR-100"),
    "imagenet": ("imagenet2012", "ImageNet"),
}
HELD_OUT = ("test", "validation", "valid", "val")
SPLIT_SEED = 0


def tfds_folder(data_dir=None):
    """The folder of TensorFlow Datasets: `data_dir`, or else `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`."""
    return pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(name, data_dir=None):
    """The folder with the newest version of a data set that has been prepared, or `None`."""
    versions = [path.parent for path in (tfds_folder(data_dir) / name).glob("**/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()], default=None)


def load_tfds(name, data_dir=None, input_shape=None, download=False, skip_unreadable=False):
    """A data set of pictures with one class each.

    Pictures of one size are held in memory; of others only the places are known, and the pixels are read when they are
    asked for. The test split is the first of "test" and "validation" that has labels, or else 20 % of each class.

    Args:
        name: str, as in `NAMES` or as TensorFlow Datasets calls it, with `/config` where there are several.
        data_dir: see `tfds_folder`.
        input_shape: `(height, width, channels)` to which pictures of many sizes are resized; `None` or
            `(0, 0, channels)` keeps their sizes.
        download: bool, whether a data set that is not there is downloaded.
        skip_unreadable: bool, whether pictures of many sizes that cannot be read are left out.

    Returns:
        A `Dataset`; its note says so if the pictures were stored with losses.

    Raises:
        ValueError: the data set is not in the folder, cannot be read, or is not one of pictures with labels.
    """
    theirs, title = NAMES.get(name, (name, name))
    wanted = None if input_shape is None else check_shape((), input_shape)
    folder = tfds_folder(data_dir)
    if download:
        _download(theirs, folder, title)
    found = prepared(theirs, data_dir)
    # Looked up first: for data that is not there, TFDS looks on the network.
    if found is None:
        raise ValueError(
            f"There is no {title} in the data directory {folder}: set `--data-dir` or `TFDS_DATA_DIR` to a folder "
            "where TensorFlow Datasets has prepared it, or allow `--download`."
        )
    try:
        return _load(found, name, title, wanted, skip_unreadable)
    # TFDS and TensorFlow raise whatever their parts raise: DataLossError, AssertionError, JSON and protobuf errors ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"The {title} in the data directory {folder} cannot be read: {reason}") from error


def _download(name, folder, title):
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=folder).download_and_prepare()
    except Exception as error:
        raise ValueError(f"{title} cannot be downloaded: {type(error).__name__}: {error}") from error


def _load(folder, name, title, wanted, skip_unreadable):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    image, label = _keys(builder)
    shape = builder.info.features[image].shape
    if None in shape:
        read = functools.partial(_records, builder, image, label, wanted or (None, None, shape[-1] or 3))
    else:
        read = functools.partial(_arrays, builder, image, label)
    train, test, split = _splits(builder, read)
    note = f"{title} {builder.version} from TensorFlow Datasets, {_storage(builder, image)}{split}"
    return make_dataset(name, note, builder.info.features[label].names, train, test, skip_unreadable)


def _keys(builder):
    """The names of the picture and of its class."""
    import tensorflow_datasets as tfds

    kinds = {tfds.features.Image: None, tfds.features.ClassLabel: None}
    for key, feature in builder.info.features.items():
        if kinds.get(type(feature), "") is None:
            kinds[type(feature)] = key
    if None in kinds.values():
        raise ValueError("it has no pictures with class labels")
    return tuple(kinds.values())


def _splits(builder, read):
    """`(train, test, what to say about it)`."""
    train = read("train")
    for split in (name for name in HELD_OUT if name in builder.info.splits):
        test = read(split)
        # A split whose labels are not public has -1 for all of them.
        if len(test) and test.labels.min() >= 0:
            return train, test, "" if split == "test" else f"; {split} is the test split"
    parts = stratified_split(train.labels, 0.2, SPLIT_SEED)
    return *map(train.part, parts), f"; 20 % of each class are the test split (seed {SPLIT_SEED})"


def _arrays(builder, image, label, split):
    import tensorflow_datasets as tfds

    data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    _check_count(builder, split, len(data[label]))
    return Arrays(data[image], data[label].astype(np.int64))


def _records(builder, image, label, shape, split):
    places = [record for path in builder.info.splits[split].filepaths for record in find_records(path)]
    _check_count(builder, split, len(places))
    labels = np.array([read_feature(place, label) for place in places], np.int64)
    reader = functools.partial(read_record_picture, name=image)
    return Files(tuple(places), labels, shape, resize=shape[0] is not None, reader=reader)


def _check_count(builder, split, count):
    expected = builder.info.splits[split].num_examples
    if count != expected:
        raise ValueError(f"the split {split!r} holds {count} pictures instead of {expected}")


def _storage(builder, image):
    """How the pictures are stored, from the bytes of the first one; the metadata need not tell."""
    split = next(name for name in (*HELD_OUT, "train") if name in builder.info.splits)
    path = next(path for path in builder.info.splits[split].filepaths if pathlib.Path(path).stat().st_size)
    return describe_encoding(read_feature(find_records(path)[0], image))
