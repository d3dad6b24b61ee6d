"""Finds the splits and the classes in a folder of images, including those of unpacked archives."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from typing import NamedTuple

from keras_sharenets.images import SUFFIXES, is_junk, list_images, subfolders

LAYOUT = (
    "Expected one folder of images per class, or train/ and test/ (or val/, valid/, validation/) with such folders."
)
# Words in the name of a folder that identify a split, and words to ignore.
ROLES = {
    "train": ("train", "training", "trainval"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation", "holdout", "heldout"),
}
FILLERS = ("set", "data", "dataset", "image", "img", "photo", "picture", "sample", "split", "folder", "dir")
NESTED = 3  # Maximum number of nested wrapper folders, as left by archives unpacked twice.


class Layout(NamedTuple):
    """Folders that contain the class folders.

    Attributes:
        train: folder of the training split, or of all images.
        test: folder of the test split; `None` if the images need to be split.
        validation: folder of a third split; `None` if there is none with the classes of the training split.
        unused: messages about folders that are not used.
    """

    train: pathlib.Path
    test: pathlib.Path | None
    validation: pathlib.Path | None
    unused: tuple[str, ...]


def find_layout(folder: pathlib.Path, *, third_split: bool = False) -> Layout:
    """Finds the `Layout` of a folder, optionally with a third split. Wrapper folders are skipped.

    Splits are identified by name, case-insensitively: a word of `ROLES`, alone, with a word of `FILLERS`, or with other
    words that all splits share (`seg_train` and `seg_test`). A test split takes precedence over a validation split.

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
            raise ValueError(f"{folder} contains {shown}: the {role} split is ambiguous. Move the other one elsewhere.")
    if "train" not in found:
        raise ValueError(f"{folder} contains {shown}, which look like splits, but no train/. {LAYOUT}")
    train = descend(found["train"][0])
    class_names = [path.name for path in subfolders(train)]
    if len(class_names) < 2:
        raise ValueError(f"{folder} contains {shown}, which look like splits; {train} has no class folders. {LAYOUT}")
    candidates = [descend(paths[0]) for role in ("test", "validation") for paths in [found.get(role)] if paths]
    labeled = [path for path in candidates if subfolders(path)]
    if not labeled:
        raise ValueError(
            f"{candidates[0]} contains no class folders, so it cannot be a test split. Sort its images into the class "
            f"folders of {train}, or pass {train} as the data: 20 % of each class then become the test split."
        )
    fitting = [path for path in labeled if [inner.name for inner in subfolders(path)] == class_names]
    test = fitting[0] if fitting else labeled[0]
    validation = next((path for path in fitting if path != test), None) if third_split else None
    used = (train, test, *([] if validation is None else [validation]))
    others = [path for path in subfolders(folder) if not any(path in (part, *part.parents) for part in used)]
    return Layout(train, test, validation, tuple(f"the folder {path.name}/ is not used" for path in others))


def check_outside(output: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Raises a `ValueError` if files in a new folder at `output` would be read as images of the data in `folder`."""
    root, place = pathlib.Path(folder).resolve(), pathlib.Path(output).resolve()
    if root not in place.parents or any(map(is_junk, place.relative_to(root).parts)):
        return
    layout = find_layout(root)
    if layout.test is None or any(part in place.parents for part in layout[:3]):
        raise ValueError(
            f"`output` (={str(output)!r}) must not be among the images in {folder}: its figures would be read as "
            "images the next time. Choose a folder elsewhere."
        )


def descend(folder: pathlib.Path) -> pathlib.Path:
    """The folder, or its only subfolder if it contains nothing else and the subfolder has subfolders."""
    for _ in range(NESTED):
        inner = subfolders(folder)
        if len(inner) != 1 or not subfolders(inner[0]) or _images_in(folder):
            break
        folder = inner[0]
    return folder


def role_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that the name of a folder identifies, and the other words of the name.

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
    # `train_val` is training data.
    role = "train" if set(roles) == {"train", "validation"} else roles[0] if len(set(roles)) == 1 else None
    return role, tuple(sorted(others))


# Longest first: `training` starts with `train`.
_STARTS = sorted(((word, role) for role, words in ROLES.items() for word in words), key=lambda item: -len(item[0]))


def _split_folders(folder: pathlib.Path) -> dict[str, list[pathlib.Path]] | None:
    """The folders of each split; `None` unless two folders are named like different splits of the same data."""
    groups = collections.defaultdict(dict)
    for path in subfolders(folder):
        role, others = role_of(path.name)
        if role is not None:
            groups[others].setdefault(role, []).append(path)
    splits = [group for group in groups.values() if len(group) > 1]
    if len(splits) > 1:
        shown = _listing([path.name for group in splits for paths in group.values() for path in paths])
        raise ValueError(f"{folder} contains several groups of splits ({shown}): move one group to a separate folder.")
    return splits[0] if splits else None


def _check_no_splits(folder: pathlib.Path) -> None:
    """Raises a `ValueError` if the presumed class folders are splits or contain splits."""
    classes = subfolders(folder)
    inside = {path: [inner.name for inner in subfolders(path)] for path in classes}
    for path, names in inside.items():
        inner = _split_folders(path)
        if inner is not None and "train" in inner:
            shown = _listing([split.name for paths in inner.values() for split in paths])
            raise ValueError(
                f"{path} contains {shown}, which look like splits. If they contain the classes, pass {path} as the "
                f"data; if {path.name} is a class, move it into the splits: train/{path.name}."
            )
        role, others = role_of(path.name)
        if role is not None and not others and len(names) > 1:
            raise ValueError(
                f"{path} looks like a split with the classes {_listing(names)}, but there is no other split. {LAYOUT}"
            )
    # For example fold1/ and fold2/ with a cat/ and a dog/ in each.
    names = next(iter(inside.values()), [])
    alike = len(classes) > 1 and len(names) > 1 and all(inner == names for inner in inside.values())
    if alike and not any(_images_in(path) for path in classes):
        outer = _listing([path.name for path in classes])
        raise ValueError(
            f"{outer} in {folder} contain the same folders ({_listing(names)}). If these are the classes, rename the "
            "outer folders to train/ and test/; otherwise move the images into the outer folders."
        )


def read_classes(folder: pathlib.Path) -> tuple[list[str], tuple[list[pathlib.Path], list[int]], list[str]]:
    """The sorted names of the classes in `folder`, the paths and labels of their images, and skipped files.

    Raises:
        ValueError: there are fewer than 2 classes, or a class has no images, or its name has a line break or a leading
            or trailing space.
    """
    classes = subfolders(folder)
    if not classes:
        raise ValueError(f"{folder} contains no class folders. {LAYOUT}")
    if len(classes) < 2:
        raise ValueError(f"{folder} contains fewer than 2 class folders (only {classes[0].name!r}). {LAYOUT}")
    paths, labels, left_out = [], [], collections.Counter()
    for label, path in enumerate(classes):
        if path.name.encode(errors="replace").decode() != path.name:
            raise ValueError(f"The name of the class folder {str(path)!r} must be in UTF-8: rename the folder.")
        # The rule of `Head.check_names`, so that a trained network can be exported with its class names.
        if path.name.splitlines() != [path.name.strip()]:
            raise ValueError(
                f"The name of the class folder {str(path)!r} must be one line without leading or trailing spaces."
            )
        images, others = list_images(path)
        if not images:
            instead = "".join(f"; {reason} ({count})" for reason, count in others.items())
            raise ValueError(f"The class folder {path} contains no images ({', '.join(SUFFIXES)}){instead}.")
        paths += images
        labels += [label] * len(images)
        left_out += others
    left_out["images outside the class folders"] += len(_images_in(folder))
    sentences = [f"{reason} ({count})" for reason, count in (+left_out).items()]
    return [path.name for path in classes], (paths, labels), sentences


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files directly in the folder."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not is_junk(entry.name)]
    return [folder / name for name in names if pathlib.Path(name).suffix.lower() in SUFFIXES]


def _listing(names: list[str]) -> str:
    shown = [f"{name}/" for name in names[:6]] + ["..."] * (len(names) > 6)
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]
