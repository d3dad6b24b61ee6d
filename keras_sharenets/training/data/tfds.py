"""Data sets that TensorFlow Datasets has prepared.

TensorFlow Datasets needs TensorFlow to read TFRecord files (as of version 4.9.10: `as_dataset` imports it, and
`as_data_source` does not support the format). This module therefore locates the records itself and parses their content
with TensorFlow Datasets. On the TensorFlow backend, images of one size are decoded by its reader, all others by Pillow.
Both agree for lossless formats. For JPEG, TensorFlow's fast decoder gives other values: on CIFAR-10 stored as JPEG,
65 % of them differ, by at most 5 of 255 levels. The note of the data set therefore mentions Pillow where TensorFlow
would have decoded, and a run cannot be resumed with another decoder.
"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import PIL.Image
import PIL.JpegImagePlugin

from keras_sharenets.images import decode_image, with_unknown_sides
from keras_sharenets.training.data.dataset import Arrays, Dataset, Files, Shape, make_dataset, stratified_split
from keras_sharenets.training.data.sources import KNOWN, DataSource

# Our name: the name in TensorFlow Datasets, and the title.
NAMES = {
    "cifar10": ("cifar10", "CIFAR-10"),
    "cifar100": ("cifar100", "CIFAR-100"),
    "imagenet": ("imagenet2012", "ImageNet"),
}
HELD_OUT = ("test", "validation", "valid", "val")
SPLIT_SEED = 0
_HEADER, _CHECKSUM = 12, 4  # Bytes before a record (its length, 8, and a checksum of the length, 4) and after it.


def tfds_folder(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The data directory of TensorFlow Datasets: `data_dir`, else `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path | None:
    """The folder of the newest prepared version of a data set, or `None`."""
    versions = [path.parent for path in (tfds_folder(data_dir) / name).glob("**/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()], default=None)


def in_several_files(source: DataSource | None) -> bool:
    """Whether a source is a data set of TensorFlow Datasets with a split in more than one file."""
    if source is None or source.is_folder or (source.data in KNOWN and source.data not in NAMES):
        return False
    name = source.data.removeprefix("tfds:")
    found = prepared(NAMES.get(name, (name,))[0], source.data_dir)
    # For example `squares-train.tfrecord-00000-of-00005`.
    files = [] if found is None else [path.name for path in found.iterdir() if ".tfrecord" in path.name]
    return len({re.sub(r"(-\d+)?-(of-)?\d+$", "", name) for name in files}) < len(files)


def load_tfds(name: str, source: DataSource) -> Dataset:
    """Loads an image classification data set.

    Images of one size are kept in memory; images of varying size are read on demand. The test split is the first of
    "test" and "validation" that has labels, or else 20 % of each class. Of several features of images or class labels,
    the ones that the data set declares as supervised are used, or else those named "image" and "label".

    Args:
        name: name in `NAMES` or in TensorFlow Datasets, with `/config` if there are several.
        source: specifies the folder, whether to download a missing data set, and for images of varying size the shape
            to resize them to and whether to skip unreadable ones.

    Returns:
        A `Dataset`; its note states if the images were stored with lossy compression.

    Raises:
        ValueError: the data set is missing, cannot be read, or has no images with labels and 1 or 3 channels.
        ModuleNotFoundError: TensorFlow Datasets is missing: pip install 'keras_sharenets[data]'.
    """
    theirs, title = NAMES.get(name, (name, name))
    folder = tfds_folder(source.data_dir)
    if source.download:
        _download(theirs, folder, title)
    found = prepared(theirs, source.data_dir)
    # Check first: TFDS would access the network for missing data.
    if found is None:
        raise ValueError(
            f"There is no {title} in the data directory {folder}: set `--data-dir` or `TFDS_DATA_DIR` to a folder "
            "where TensorFlow Datasets has prepared it, or use `--download`."
        )
    try:
        return _load(found, name, title, source)
    except ModuleNotFoundError:  # Not a problem of the data.
        raise
    # TFDS and TensorFlow raise many types of errors: DataLossError, AssertionError, JSON and protobuf errors ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"The {title} in the data directory {folder} cannot be read: {reason}") from error


def _download(name: str, folder: pathlib.Path, title: str) -> None:
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=folder).download_and_prepare()
    except Exception as error:
        raise ValueError(f"{title} cannot be downloaded: {type(error).__name__}: {error}") from error


def _load(folder: pathlib.Path, name: str, title: str, source: DataSource) -> Dataset:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    image, label = _keys(builder)
    shape = builder.info.features[image].shape
    wanted = source.input_shape
    if shape[-1] not in (None, 1, 3):
        raise ValueError(f"its images have {shape[-1]} channels, but must have 1 (gray) or 3 (RGB)")
    if None in shape:
        shape = with_unknown_sides(wanted or (0, 0, shape[-1] or 3))
        read = functools.partial(_records, builder, image, label, shape)
    else:
        read = functools.partial(_arrays, builder, image, label, shape)
    train, test, third, split = _splits(builder, read, source.validation == "auto")
    note = f"{title} {builder.version} from TensorFlow Datasets, {_storage(builder, image)}{split}"
    names = builder.info.features[label].names
    skip = source.skip_unreadable
    return make_dataset(name, note, names, train, test, skip_unreadable=skip, validation=third)


def _keys(builder) -> tuple[str, str]:
    """The names of the image feature and of the label feature."""
    import tensorflow_datasets as tfds

    features, supervised = builder.info.features, builder.info.supervised_keys or ()
    # Stored features have no order: the supervised ones come first if there are several.
    keys = sorted(features, key=lambda key: (key not in supervised, key not in ("image", "label"), key))
    images, labels = (
        [key for key in keys if type(features[key]) is kind] for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if not images or not labels:
        raise ValueError("it has no images with class labels")
    return images[0], labels[0]


def _splits(builder, read: Callable[[str], Arrays | Files], third_split: bool) -> tuple:
    """`(train, test, validation or None, text for the note)`."""
    train = read("train")
    found: dict[str, Arrays | Files] = {}
    for split in (name for name in HELD_OUT if name in builder.info.splits):
        part = read(split)
        # A split without public labels has the label -1 throughout.
        if len(part) and part.labels.min() >= 0:
            found[split] = part
        if len(found) == 1 + third_split:
            break
    if found:
        names = list(found)
        note = "" if names[0] == "test" else f"; {names[0]} is the test split"
        note += f"; {names[1]} is the validation split" if names[1:] else ""
        return train, found[names[0]], found[names[1]] if names[1:] else None, note
    chosen, held_out = stratified_split(train.labels, 0.2, SPLIT_SEED)
    note = f"; 20 % of each class are the test split (seed {SPLIT_SEED})"
    return train.part(chosen), train.part(held_out), None, note


def _arrays(builder, image: str, label: str, shape: Shape, split: str) -> Arrays:
    if keras.backend.backend() != "tensorflow":
        records = _records(builder, image, label, shape, split)
        return Arrays(np.asarray(records.pixels(np.arange(len(records)))), records.labels)
    import tensorflow_datasets as tfds

    # One file after the other, as in `_records`: splits and batches depend on the order.
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, read_config=in_order))
    _check_count(builder, split, len(data[label]))
    return Arrays(data[image], data[label].astype(np.int64))


def _records(builder, image: str, label: str, shape: Shape, split: str) -> Files:
    places = [record for path in builder.info.splits[split].filepaths for record in find_records(path)]
    _check_count(builder, split, len(places))
    labels = np.array([read_feature(place, label) for place in places], np.int64)
    return Files(tuple(places), labels, shape, shape[0] is not None, functools.partial(_read_image, name=image))


def _check_count(builder, split: str, count: int) -> None:
    expected = builder.info.splits[split].num_examples
    if count != expected:
        raise ValueError(f"the split {split!r} contains {count} images instead of {expected}")


class Record(NamedTuple):
    """The location of one example."""

    path: str
    start: int
    length: int

    def __str__(self) -> str:
        return f"the record at byte {self.start} of {self.path}"


def find_records(path: str | os.PathLike) -> list[Record]:
    """Locates all records of a TFRecord file, in order.

    Raises:
        ValueError: the file ends in the middle of a record.
    """
    size, start, records = pathlib.Path(path).stat().st_size, 0, []
    with open(path, "rb") as file:
        while start < size:
            file.seek(start)
            header = file.read(_HEADER)
            length = struct.unpack_from("<Q", header)[0] if len(header) == _HEADER else size
            if start + _HEADER + length + _CHECKSUM > size:
                raise ValueError(f"{path} ends in the middle of a record")
            records.append(Record(str(path), start + _HEADER, length))
            start += _HEADER + length + _CHECKSUM
    return records


def read_feature(record: Record, name: str) -> Any:
    """Reads a feature of an example: the bytes of its first string, or its first integer.

    Raises:
        ValueError: the feature does not exist, or the record is damaged or can no longer be read.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        with open(record.path, "rb") as file:
            file.seek(record.start)
            data = file.read(record.length)
    except OSError as error:
        raise ValueError(f"{record} cannot be read: {error}") from error
    try:
        feature = tf_example_pb2.Example.FromString(data).features.feature[name]
    except DecodeError as error:
        raise ValueError(f"{record} is damaged: {error}") from error
    values = feature.bytes_list.value or feature.int64_list.value
    if not values:
        raise ValueError(f"{record} has no feature {name!r}.")
    return values[0]


def _read_image(record: Record, shape: Shape, *, name: str) -> np.ndarray:
    """Reads the image in a record, like `keras_sharenets.images.read_image` for a file."""
    return decode_image(read_feature(record, name), shape, name=record)


def _storage(builder, image: str) -> str:
    """The storage format of the images, from the bytes of the first one, since metadata may lack it."""
    split = next(name for name in (*HELD_OUT, "train") if name in builder.info.splits)
    path = next(path for path in builder.info.splits[split].filepaths if pathlib.Path(path).stat().st_size)
    encoding = describe_encoding(read_feature(find_records(path)[0], image))
    one_size = None not in builder.info.features[image].shape
    by_pillow = one_size and "JPEG" in encoding and keras.backend.backend() != "tensorflow"
    return f"{encoding}, decoded by Pillow" if by_pillow else encoding


def describe_encoding(data: bytes) -> str:
    """Describes the encoding of an image, for example "stored as PNG", and names lossy compression.

    The JPEG quality is the one at which Pillow writes the same quantization tables.
    """
    with PIL.Image.open(io.BytesIO(data)) as image:
        if not isinstance(image, PIL.JpegImagePlugin.JpegImageFile):
            return f"stored as {image.format}"
        tables = image.quantization
        sampling = PIL.JpegImagePlugin.get_sampling(image)
    quality = next((f"quality {q}" for q in range(1, 101) if _jpeg_tables(q) == tables), "unknown quality")
    chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(sampling, "unknown")
    return f"stored as JPEG of {quality} with {chroma} chroma, not the lossless original"


def _jpeg_tables(quality: int) -> dict[int, list[int]]:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    file.seek(0)
    return PIL.JpegImagePlugin.JpegImageFile(file).quantization
