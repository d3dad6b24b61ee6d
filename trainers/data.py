"""Data sets by name, and folders of pictures."""

import pathlib

from trainers.cifar10 import load_cifar10
from trainers.dataset import Arrays, Dataset, make_dataset, stratified_split
from trainers.picture_folders import load_folder

DIGITS_SEED = 0


def load_digits():
    """The 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, grey."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    # The originals count ink from 0 to 16.
    images = (digits.images * 255 / 16).round().astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    train, test = stratified_split(labels, share=0.2, seed=DIGITS_SEED)
    return make_dataset(
        "digits",
        f"1,797 handwritten digits of scikit-learn, 8x8 grey pixels, 0..16 scaled to 0..255; 20 % of each class are "
        f"the test split (seed {DIGITS_SEED})",
        [str(name) for name in digits.target_names],
        Arrays(images[train], labels[train]),
        Arrays(images[test], labels[test]),
    )


def load(name_or_directory, data_dir=None, input_shape=None, seed=0, download=False):
    """A data set.

    Args:
        name_or_directory: `"digits"` (scikit-learn's, nothing to download), `"cifar10"` (through TensorFlow Datasets),
            or a folder: one folder of pictures per class; or `train/` and `test/` (or `val/`, `valid/`,
            `validation/`) with such folders. A folder that is called like a data set is written `./digits`.
        data_dir: where TensorFlow Datasets keeps its data; by default `TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`.
        input_shape: `(height, width, channels)` to which the pictures of a folder are resized. By default they must
            all have one size, and are read as RGB.
        seed: int, of the split of a folder that holds no test split.
        download: bool, whether CIFAR-10 may be downloaded.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: the data is missing, broken or of another layout; the message names the folder or the file.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.test)
    ((8, 8, 1), 1438, 359)
    """
    name = str(name_or_directory)
    if name not in ("digits", "cifar10"):
        if not pathlib.Path(name).is_dir():
            raise ValueError(f"`data` (={name!r}) is neither 'cifar10' nor 'digits' nor a folder.")
        return load_folder(name, input_shape, seed)
    dataset = load_digits() if name == "digits" else load_cifar10(data_dir, download)
    if input_shape is not None and tuple(input_shape) != dataset.shape:
        raise ValueError(f"`input_shape` (={tuple(input_shape)}) must be that of {name} (={dataset.shape}).")
    return dataset


__all__ = ["Arrays", "Dataset", "load", "load_digits"]
