"""Data sets by name, and folders of images.

Importing this module imports no slow library, so the command line can list the data sets quickly.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset

KNOWN = ("digits", "cifar10", "cifar100", "imagenet", "tiny_imagenet", "cinic10", "imagenet32")
# Published in two splits. As in the papers, train on all of the first and test on the second, unless a fraction is set.
TWO_SPLITS = ("cifar10", "cifar100", "imagenet", "tiny_imagenet", "imagenet32")
SHARE = 0.1  # Default fraction of each class of the training images.
DIGITS_SEED = 0


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The source of a data set, as given on the command line and kept in the record of a run.

    Attributes:
        data: `"digits"` (included in scikit-learn, no download); `"cifar10"`, `"cifar100"` or `"imagenet"` (through
            TensorFlow Datasets); any other name from there, or `"tfds:NAME"`; `"tiny_imagenet"`, `"cinic10"` or
            `"imagenet32"` (unpacked in `data_dir`); or a folder: one of these three, one folder of images per class, or
            splits with such folders (`folder_layout.find_layout`). For a folder with the name of a data set, write
            `./digits`.
        data_dir: data directory of TensorFlow Datasets, by default `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`; or
            the folder of the unpacked data set.
        input_shape: `(height, width, channels)` to resize image files to. By default, images of a folder must all have
            one size and are read as RGB; those of TensorFlow Datasets keep their size. With `(0, 0, channels)`, images
            of a folder keep their size, too.
        skip_unreadable: whether to skip files that are not readable images and count them in the note.
        split_seed: seed of the test split of a folder without one, and of the validation split.
        validation: split to compare the epochs of a run on, so that the test split is not used for selection: a
            fraction of each class of the training images, above 0 and below 1; a folder of images with the same
            classes; `"auto"`: the third split if the data set has one, none for data sets published in two splits
            (`TWO_SPLITS`), otherwise a fraction of 0.1; or `None`: none, the test split is used.
        download: whether TensorFlow Datasets may download the data. Not recorded.

    Raises:
        ValueError: `input_shape`, `split_seed`, or `validation` is invalid.
    """

    data: str
    data_dir: str | os.PathLike | None = None
    input_shape: tuple[int, int, int] | None = None
    skip_unreadable: bool = False
    split_seed: int = 0
    download: bool = False
    validation: float | str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", check_shape(self.input_shape))
        _checks.seed("split_seed", self.split_seed)
        object.__setattr__(self, "validation", check_validation(self.validation))

    @property
    def is_folder(self) -> bool:
        """Whether the data is a folder of images other than a known data set."""
        from keras_sharenets.training.data.image_folders import recognize

        folder = pathlib.Path(self.data)
        return self.data not in KNOWN and folder.is_dir() and recognize(folder) is None

    def check_outside(self, output: str | os.PathLike) -> None:
        """Raises a `ValueError` if the folder `output`, which is to be created, is in a folder of images."""
        from keras_sharenets.training.data.folder_layout import check_outside

        for folder in [self.data] * self.is_folder + [self.validation] * (self.validation != "auto"):
            if isinstance(folder, str):
                check_outside(output, folder)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None, **given: Any) -> DataSource:
        """The source in a record of `to_record`; `given` overrides its fields.

        Raises:
            ValueError: neither specifies `data`.
        """
        values = {**(record or {}), **given}
        if values.get("data") is None:
            raise ValueError("`--data` is required: the record does not specify the source of the data.")
        return cls(**values)

    def to_record(self) -> dict[str, Any]:
        """A JSON-serializable record from which the same data can be loaded again."""
        record = dataclasses.asdict(self)
        del record["download"]
        return record | {"input_shape": self.input_shape and list(self.input_shape)}

    def load(self) -> Dataset:
        """Loads the data set.

        Raises:
            ValueError: the data is missing, broken or has another layout; the message names the folder or the file.
        """
        from keras_sharenets.images import with_unknown_sides

        dataset = _load(self)
        if self.input_shape is not None:
            wanted = with_unknown_sides(self.input_shape)
            if wanted != dataset.shape:
                raise ValueError(f"`input_shape` (={wanted}) must match {dataset.name} (={dataset.shape}).")
        return dataclasses.replace(_with_validation(dataset, self), source=self)


def load(name_or_folder: str | os.PathLike, **options: Any) -> Dataset:
    """Loads the data set of a `DataSource`; `options` are its other fields.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.test)
    ((8, 8, 1), 1438, 359)
    """
    return DataSource(str(name_or_folder), **options).load()


def load_digits() -> Dataset:
    """The 1,797 handwritten digits of scikit-learn: 8x8 gray pixels."""
    import sklearn.datasets

    from keras_sharenets.training.data.dataset import Arrays, make_dataset, stratified_split

    digits = sklearn.datasets.load_digits()
    # The original values range from 0 to 16.
    images = (digits.images * 255 / 16).round().astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    train, test = stratified_split(labels, share=0.2, seed=DIGITS_SEED)
    return make_dataset(
        "digits",
        f"1,797 handwritten digits of scikit-learn, 8x8 gray pixels, 0..16 scaled to 0..255; 20 % of each class are "
        f"the test split (seed {DIGITS_SEED})",
        [str(name) for name in digits.target_names],
        Arrays(images[train], labels[train]),
        Arrays(images[test], labels[test]),
    )


def check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`shape` as a tuple; a `ValueError` unless it is `(height, width, channels)`, or `(0, 0, channels)`."""
    shape = tuple(shape)
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"`input_shape` (={shape}) must be `(height, width, channels)` with 1 or 3 channels.")
    for side in shape[:2] if shape[:2] != (0, 0) else ():
        _checks.positive("input_shape", side)
    return shape


def check_validation(validation: float | str | os.PathLike | None) -> float | str | None:
    """Normalizes `validation` of a `DataSource`: "none" to `None`, paths to strings, numbers in strings to floats.

    Raises:
        ValueError: the value is invalid.

    >>> check_validation("0.25"), check_validation("none"), check_validation("auto")
    (0.25, None, 'auto')
    """
    if validation is None or validation == "none":
        return None
    asked = str(validation)
    if asked == "auto":
        return asked
    try:
        share = float(asked)
    except ValueError:
        if os.path.isdir(asked):
            return asked
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(
            f"`validation` (={str(validation)!r}) must be 'auto', 'none', a fraction above 0 and below 1, or an "
            "existing folder."
        )
    return share


def _with_validation(dataset: Dataset, source: DataSource) -> Dataset:
    """The data set with the validation split that its source specifies."""
    from keras_sharenets.training.data.dataset import stratified_split
    from keras_sharenets.training.data.image_folders import validate_on_folder

    asked = source.validation
    if isinstance(asked, str) and asked != "auto":
        return validate_on_folder(dataset, pathlib.Path(asked), source)
    if asked is None or dataset.validation is not None or (asked == "auto" and dataset.name in TWO_SPLITS):
        return dataset
    share = asked if isinstance(asked, float) else SHARE
    kept, held = stratified_split(dataset.train.labels, share, source.split_seed)
    if not len(held):
        if asked == "auto":
            return dataset
        raise ValueError(f"`validation` (={asked}) selects no images: each class has only one training image.")
    note = f"{dataset.note}; {100 * share:.4g} % of each class of the training images are the validation split "
    note += f"(seed {source.split_seed})"
    train, validation = dataset.train.part(kept), dataset.train.part(held)
    checksums = {**dataset.checksums, "validation": f"{zlib.crc32(held.tobytes()):08x}"}
    return dataclasses.replace(dataset, note=note, train=train, validation=validation, checksums=checksums)


def _load(source: DataSource) -> Dataset:
    from keras_sharenets.training.data.image_folders import ARCHIVES, load_archive, load_folder, recognize
    from keras_sharenets.training.data.tfds import load_tfds, prepared

    name, folder = source.data, pathlib.Path(source.data)
    if name == "digits":
        return load_digits()
    if name in ARCHIVES:
        return load_archive(name, source.data_dir, source)
    if name not in KNOWN and folder.is_dir():
        archive = recognize(folder)
        return load_folder(folder, source) if archive is None else load_archive(archive, folder, source)
    theirs = name.removeprefix("tfds:")
    if name not in KNOWN and theirs == name and not source.download and prepared(name, source.data_dir) is None:
        raise ValueError(
            f"`data` (={name!r}) must be one of {', '.join(map(repr, KNOWN))}, a folder, or a data set that TensorFlow "
            f"Datasets has prepared in its data directory (`--data-dir`, `--download`). There is no folder "
            f"{folder.absolute()}."
        )
    return load_tfds(theirs, source)
