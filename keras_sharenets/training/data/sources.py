"""Data sets by name, and folders of pictures."""

import pathlib

from keras_sharenets.training.data.dataset import Arrays, Dataset, make_dataset, stratified_split
from keras_sharenets.training.data.image_folders import check_shape, load_folder
from keras_sharenets.training.data.known_folders import LOADERS, recognise
from keras_sharenets.training.data.tfds import NAMES, load_tfds, prepared

DIGITS_SEED = 0
KNOWN = ("digits", *NAMES, *LOADERS)


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


def load(name_or_directory, data_dir=None, input_shape=None, seed=0, download=False, skip_unreadable=False):
    """A data set.

    Args:
        name_or_directory: `"digits"` (scikit-learn's, nothing to download); `"cifar10"`, `"cifar100"` or `"imagenet"`
            (through TensorFlow Datasets); any other name there, or `"tfds:NAME"`; `"tiny_imagenet"`, `"cinic10"` or
            `"imagenet32"` (unpacked in `data_dir`); or a folder: one of these three, one folder of pictures per class,
            or `train/` and `test/` (or `val/`, `valid/`, `validation/`) with such folders. A folder that is called
            like a data set is written `./digits`.
        data_dir: where TensorFlow Datasets keeps its data, by default `TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`; or where the data set was unpacked.
        input_shape: `(height, width, channels)` to which pictures from files are resized. By default they must all have
            one size, and are read as RGB; those of TensorFlow Datasets keep their own. `(0, 0, channels)` lets those of
            a folder keep theirs.
        seed: int, of the split of a folder that holds no test split.
        download: bool, whether TensorFlow Datasets may download.
        skip_unreadable: bool, whether files that are no pictures are left out, and counted in the note.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: the data is missing, broken or of another layout; the message names the folder or the file.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.test)
    ((8, 8, 1), 1438, 359)
    """
    name = str(name_or_directory)
    wanted = None if input_shape is None else check_shape((), input_shape)
    folder = pathlib.Path(name)
    if name in LOADERS:
        return _load_known(name, data_dir, input_shape, skip_unreadable)
    if name not in KNOWN and folder.is_dir():
        found = recognise(folder)
        if found is not None:
            return _load_known(found, folder, input_shape, skip_unreadable)
        return load_folder(folder, input_shape, seed, skip_unreadable)
    theirs = name.removeprefix("tfds:")
    if name not in KNOWN and theirs == name and not download and prepared(name, data_dir) is None:
        raise ValueError(
            f"`data` (={name!r}) is none of {', '.join(map(repr, KNOWN))}, no folder, and nothing that TensorFlow "
            "Datasets has prepared in its data directory (`--data-dir`, `--download`)."
        )
    dataset = load_digits() if name == "digits" else load_tfds(theirs, data_dir, input_shape, download, skip_unreadable)
    return _check_fixed(dataset, wanted)


def _load_known(name, folder, input_shape, skip_unreadable):
    if name == "imagenet32":
        return _check_fixed(LOADERS[name](folder), input_shape and tuple(input_shape))
    return LOADERS[name](folder, input_shape, skip_unreadable)


def _check_fixed(dataset, shape):
    if shape is not None and shape != dataset.shape:
        raise ValueError(f"`input_shape` (={shape}) must be that of {dataset.name} (={dataset.shape}).")
    return dataset


__all__ = ["Arrays", "Dataset", "load", "load_digits"]
