"""Where the splits and the classes lie in a folder of images, as people have it and as archives unpack."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from typing import NamedTuple

from keras_sharenets.images import SUFFIXES, is_junk, list_images, subfolders

LAYOUT = (
    "Expected is one folder of images per class, or train/ and test/ (or val/, valid/, validation/) with such folders."
)
# Words of a folder's name that say which split it is, and those that say nothing.
ROLES = {
    "train": ("train", "training", "trainval"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation", "holdout", "heldout"),
}
FILLERS = ("set", "data", "dataset", "image", "img", "photo", "picture", "sample", "split", "folder", "dir")
NESTED = 3  # An archive that is unpacked twice leaves this many folders with nothing but one folder in them, or fewer.


class Layout(NamedTuple):
    """Folders whose folders are the classes.

    Attributes:
        train: of the training split, or of all images.
        test: of the test split; `None` if the images have to be split.
        validation: of a third split; `None` if there is none with the classes of the training split.
        unused: sentences about the folders that belong to neither.
    """

    train: pathlib.Path
    test: pathlib.Path | None
    validation: pathlib.Path | None
    unused: tuple[str, ...]


def find_layout(folder: pathlib.Path, *, third_split: bool = False) -> Layout:
    """The `Layout` of a folder, on request with a third split. Folders around it that hold nothing else are passed by.

    Splits are told by their names, in any case: those in `ROLES`, alone, with a word of `FILLERS`, or with other words
    that they have in common (`seg_train` and `seg_test`). A test split is preferred to a validation split.

    Raises:
        ValueError: folders look like splits but cannot be used as such; the message says what to do.
    """
    folder = descend(folder)
    found = _split_folders(folder)
    if found is None:
        _check_no_splits(folder)
        return Layout(folder, None, None, ())
    shown = _listing([path.name for paths in found.values() for path in paths])
    for role, paths in found.items():
        if len(paths) > 1 and (role != "validation" or "test" not in found):
            raise ValueError(f"{folder} holds {shown}: which is the {role} split? Move the other one elsewhere.")
    if "train" not in found:
        raise ValueError(f"{folder} holds {shown}, which look like splits, but no train/. {LAYOUT}")
    train = descend(found["train"][0])
    class_names = [path.name for path in subfolders(train)]
    if len(class_names) < 2:
        raise ValueError(f"{folder} holds {shown}, which look like splits; {train} has no class folders. {LAYOUT}")
    candidates = [descend(paths[0]) for role in ("test", "validation") for paths in [found.get(role)] if paths]
    labeled = [path for path in candidates if subfolders(path)]
    if not labeled:
        raise ValueError(
            f"{candidates[0]} holds no class folders, so nothing can be tested on it. Give it the folders of {train}, "
            f"or give {train} as the data: 20 % of each class become the test split then."
        )
    fitting = [path for path in labeled if [inner.name for inner in subfolders(path)] == class_names]
    test = fitting[0] if fitting else labeled[0]
    validation = next((path for path in fitting if path != test), None) if third_split else None
    used = (train, test, *([] if validation is None else [validation]))
    others = [path for path in subfolders(folder) if not any(path in (part, *part.parents) for part in used)]
    return Layout(train, test, validation, tuple(f"the folder {path.name}/ is not used" for path in others))


def descend(folder: pathlib.Path) -> pathlib.Path:
    """The folder itself, or the one in it if that is all it holds and has folders in turn."""
    for _ in range(NESTED):
        inner = subfolders(folder)
        if len(inner) != 1 or not subfolders(inner[0]) or _images_in(folder):
            break
        folder = inner[0]
    return folder


def role_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Which split a folder's name says it is, and the other words of the name.

    >>> role_of("seg_train"), role_of("TestSet"), role_of("Training"), role_of("tram")
    (('train', ('seg',)), ('test', ()), ('train', ()), (None, ('tram',)))
    """
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    roles, others = [], []
    for word in map(str.lower, words):
        start, role = next(((start, role) for start, role in _STARTS if word.startswith(start)), ("", None))
        rest = word.removeprefix(start)
        if role is not None and (not rest or rest.removesuffix("s") in FILLERS):
            roles.append(role)
        elif word.removesuffix("s") not in FILLERS:
            others.append(word)
    # `train_val` is what is trained on.
    role = "train" if set(roles) == {"train", "validation"} else roles[0] if len(set(roles)) == 1 else None
    return role, tuple(sorted(others))


# The longest first: `training` begins with `train`.
_STARTS = sorted(((word, role) for role, words in ROLES.items() for word in words), key=lambda item: -len(item[0]))


def _split_folders(folder: pathlib.Path) -> dict[str, list[pathlib.Path]] | None:
    """The folders of each split; `None` where no two folders are called like different splits of one thing."""
    groups = collections.defaultdict(dict)
    for path in subfolders(folder):
        role, others = role_of(path.name)
        if role is not None:
            groups[others].setdefault(role, []).append(path)
    splits = [group for group in groups.values() if len(group) > 1]
    if len(splits) > 1:
        shown = _listing([path.name for group in splits for paths in group.values() for path in paths])
        raise ValueError(f"{folder} holds several groups of splits ({shown}): keep one of them in a folder of its own.")
    return splits[0] if splits else None


def _check_no_splits(folder: pathlib.Path) -> None:
    """Raises a `ValueError` if what would be taken for the classes are splits, or hold splits."""
    classes = subfolders(folder)
    inside = {path: [inner.name for inner in subfolders(path)] for path in classes}
    for path, names in inside.items():
        inner = _split_folders(path)
        if inner is not None and "train" in inner:
            shown = _listing([split.name for paths in inner.values() for split in paths])
            raise ValueError(
                f"{path} holds {shown}, which look like splits. Give {path} as the data if the classes are in these; "
                f"if {path.name} is a class, put the splits outside: train/{path.name}."
            )
        role, others = role_of(path.name)
        if role is not None and not others and len(names) > 1:
            raise ValueError(
                f"{path} looks like a split, with the classes {_listing(names)} in it, but no other split is there. "
                f"{LAYOUT}"
            )
    # For instance fold1/ and fold2/ with a cat/ and a dog/ in each.
    names = next(iter(inside.values()), [])
    alike = len(classes) > 1 and len(names) > 1 and all(inner == names for inner in inside.values())
    if alike and not any(_images_in(path) for path in classes):
        outer = _listing([path.name for path in classes])
        raise ValueError(
            f"{outer} in {folder} hold the same folders ({_listing(names)}): are these the classes? Then call the "
            "outer ones train/ and test/; else put the images into the outer ones."
        )


def read_classes(folder: pathlib.Path) -> tuple[list[str], tuple[list[pathlib.Path], list[int]], list[str]]:
    """The names of the classes in `folder`, sorted, the paths and labels of their images, and what is left out.

    Raises:
        ValueError: there are fewer than 2 classes, or a class has no image or a name of several lines.
    """
    classes = subfolders(folder)
    if not classes:
        raise ValueError(f"{folder} holds no class folders. {LAYOUT}")
    if len(classes) < 2:
        raise ValueError(f"{folder} holds fewer than 2 class folders (only {classes[0].name!r}). {LAYOUT}")
    paths, labels, left_out = [], [], collections.Counter()
    for label, path in enumerate(classes):
        if len(path.name.splitlines()) > 1:
            raise ValueError(f"The name of the class folder {str(path)!r} must be one line.")
        images, others = list_images(path)
        if not images:
            instead = "".join(f"; {reason} ({count})" for reason, count in others.items())
            raise ValueError(f"The class folder {path} holds no image ({', '.join(SUFFIXES)}){instead}.")
        paths += images
        labels += [label] * len(images)
        left_out += others
    left_out["images in no class folder"] += len(_images_in(folder))
    sentences = [f"{reason} ({count})" for reason, count in (+left_out).items()]
    return [path.name for path in classes], (paths, labels), sentences


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files that lie in the folder itself."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not is_junk(entry.name)]
    return [folder / name for name in names if pathlib.Path(name).suffix.lower() in SUFFIXES]


def _listing(names: list[str]) -> str:
    shown = [f"{name}/" for name in names[:6]] + ["..."] * (len(names) > 6)
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]
