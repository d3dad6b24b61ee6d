"""CIFAR-10 through TensorFlow Datasets."""

import io
import os
import pathlib

import numpy as np
import PIL.Image
import PIL.JpegImagePlugin

from trainers.dataset import Arrays, make_dataset


def load_cifar10(data_dir=None, download=False):
    """CIFAR-10: 50,000 and 10,000 pictures of 32x32x3, in memory.

    The note says so if the pictures were stored with losses.

    Args:
        data_dir: folder of TensorFlow Datasets; by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
        download: bool, whether a data set that is not there is downloaded.

    Raises:
        ValueError: CIFAR-10 is not in the folder, or cannot be read.
    """
    import tensorflow_datasets as tfds

    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    # Asked first: for data that is not there, TFDS looks on the network.
    if not download and not any(folder.glob("cifar10/*/dataset_info.json")):
        raise ValueError(
            f"There is no CIFAR-10 in the data directory {folder}: set `--data-dir` or `TFDS_DATA_DIR` to a folder "
            "where TensorFlow Datasets has prepared it, or allow `--download`."
        )
    try:
        builder = tfds.builder("cifar10", data_dir=folder)
        if download:
            builder.download_and_prepare()
        splits = {split: _arrays(builder, split) for split in ("train", "test")}
        storage = _storage(builder)
    # TFDS and TensorFlow raise whatever their parts raise: DataLossError, AssertionError, JSON and protobuf errors ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"The CIFAR-10 in the data directory {folder} cannot be read: {reason}") from error
    note = f"CIFAR-10 {builder.version} from TensorFlow Datasets, {storage}"
    return make_dataset("cifar10", note, builder.info.features["label"].names, **splits)


def _arrays(builder, split):
    import tensorflow_datasets as tfds

    data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    expected = builder.info.splits[split].num_examples
    if len(data["label"]) != expected:
        raise ValueError(f"the split {split!r} holds {len(data['label'])} pictures instead of {expected}")
    return Arrays(data["image"], data["label"].astype(np.int64))


def _storage(builder):
    """How the pictures are stored, from the bytes of the first one; the metadata need not tell."""
    import tensorflow_datasets as tfds

    raw = builder.as_dataset(split="test", decoders={"image": tfds.decode.SkipDecoding()})
    return describe_encoding(next(iter(tfds.as_numpy(raw.take(1))))["image"])


def describe_encoding(data):
    """How an encoded picture was stored, for example "stored as PNG"; losses are named.

    The quality is the one at which Pillow writes the same quantisation tables.
    """
    with PIL.Image.open(io.BytesIO(data)) as picture:
        if picture.format != "JPEG":
            return f"stored as {picture.format}"
        tables = picture.quantization
        sampling = PIL.JpegImagePlugin.get_sampling(picture)
    quality = next((f"quality {q}" for q in range(1, 101) if _jpeg_tables(q) == tables), "unknown quality")
    chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(sampling, "unknown")
    return f"stored as JPEG of {quality} with {chroma} chroma, not the lossless original"


def _jpeg_tables(quality):
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    return PIL.Image.open(file).quantization
