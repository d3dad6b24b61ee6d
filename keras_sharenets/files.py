"""Atomic reading and writing of files.

Every file is written under a temporary name and renamed, so a killed process leaves either the old or the new file.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterable
from typing import Any

LABELS = "labels.txt"  # Class names, one per line, next to the files of a classifier.
_HDF5 = b"\x89HDF\r\n\x1a\n"  # The first bytes of such a file.


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Atomically writes `data` to `path`, creating missing parent folders."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: pathlib.Path) -> pathlib.Path:
    """A unique temporary name next to `path`; process ids are not unique across containers."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.partial")


def remove_partials(folder: str | os.PathLike) -> None:
    """Removes partial files of killed processes from a folder. No other process may be writing into it."""
    for leftover in pathlib.Path(folder).rglob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Atomically writes `text` as UTF-8 to `path`; bytes of file names that are not UTF-8 become backslash escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomically writes `value` as indented JSON to `path`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file; a `ValueError` if it is not one."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def check_paths(*paths: str | os.PathLike | None) -> None:
    """Raises a `ValueError` for the first path that does not exist, ignoring `None`."""
    for path in (pathlib.Path(path) for path in paths if path is not None):
        if not path.exists():
            raise ValueError(f"There is no {'file' if path.suffix else 'file or folder'} {path}.")


def check_writable(path: str | os.PathLike, name: str = "path") -> None:
    """Raises a `ValueError` if a file or folder cannot be written at `path`, before the work for it begins."""
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device"
        raise ValueError(f"`{name}` (={str(path)!r}) must be a file, but is {kind}.")
    _check_place(path, name, path.absolute().parents)


def check_writable_folder(path: str | os.PathLike, name: str = "path") -> None:
    """Raises a `ValueError` if files cannot be written into a folder, which may be missing."""
    path = pathlib.Path(path)
    _check_place(path, name, [path.absolute(), *path.absolute().parents])


def _check_place(path: pathlib.Path, name: str, folders: Iterable[pathlib.Path]) -> None:
    """Checks the first of these folders that exists."""
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ValueError(f"`{name}` (={str(path)!r}) begins with `~`, which only a shell replaces: use `Path.home()`.")
    nearest = next(folder for folder in folders if os.path.lexists(folder))
    if not nearest.is_dir():
        kind = "a broken link" if nearest.is_symlink() else "a file"
        raise ValueError(f"`{name}` (={str(path)!r}) must be in a folder, but {nearest} is {kind}.")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"`{name}` (={str(path)!r}) must be in a folder with write permission, but {nearest} is not.")


def as_tuples(value: Any) -> Any:
    """`value` with all lists, including nested ones, as tuples, and numbers of NumPy as those of Python.

    JSON has no tuples and no numbers of NumPy.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def save_model(model: Any, path: str | os.PathLike) -> None:
    """Atomically saves a Keras model as a `.keras` file.

    Keras writes the file incrementally, so it is created in a temporary folder and then copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder) / "model.keras"
        model.save(scratch)
        write_bytes(path, scratch.read_bytes())


def save_model_folder(model: Any, path: str | os.PathLike) -> None:
    """Saves a Keras model as a folder for `keras.saving.load_model("hf://...")`. `path` must not exist."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        keras.saving.save_model(model, pathlib.Path(folder) / "model", zipped=False)
        replace_folder(pathlib.Path(folder) / "model", path)


def load_model(path: str | os.PathLike) -> Any:
    """Loads a `.keras` file, without its optimizer.

    Raises:
        ValueError: the file does not exist, is not a Keras file, or is damaged. The message states which.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    with path.open("rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            raise ValueError(
                f"{path} is an HDF5 file, as earlier versions of Keras wrote them: open it with "
                "`keras.saving.load_model`, under a name that ends in .h5, and save the network as a `.keras` file."
            )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a Keras file: a `.keras` file is a zip archive with `config.json` in it.")
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise ValueError(f"{path} is not a Keras file: the archive has no `config.json`.")
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    # For damaged files, Keras raises many kinds of errors: KeyError, OSError, zlib.error, TypeError ...
    except Exception as error:
        # Without the configurations that Keras quotes: of the network in the middle, of a layer at the end.
        told = re.sub(r"\s*config=\{.*?\}\.\s*(?=Exception encountered)", " ", str(error), flags=re.DOTALL)
        told = told.partition("Full object config")[0].rstrip()
        raise ValueError(f"{path} cannot be loaded as a Keras model: {type(error).__name__}: {told}") from error


def write_labels(folder: str | os.PathLike, class_names: Iterable[str]) -> None:
    """Writes the class names to `labels.txt` in a folder, in UTF-8, one per line."""
    write_text(pathlib.Path(folder) / LABELS, "".join(f"{' '.join(name.splitlines())}\n" for name in class_names))


def read_labels(model_path: str | os.PathLike) -> tuple[str, ...] | None:
    """The class names in `labels.txt` next to a `.keras` file, as a tuple; `None` without such a file.

    Raises:
        ValueError: the file is not UTF-8.
    """
    labels = pathlib.Path(model_path).with_name(LABELS)
    if not labels.is_file():
        return None
    try:
        return split_labels(labels.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{labels} must be in UTF-8: {error}") from error


def split_labels(data: bytes) -> tuple[str, ...]:
    """The lines of a UTF-8 text, without byte order mark, Windows line ends and trailing empty lines.

    >>> split_labels(b"cat\\r\\ndog\\n\\n")
    ('cat', 'dog')
    """
    # Not `splitlines`, which also splits at characters that may occur in a name.
    text = data.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n")
    return tuple(text.split("\n")) if text else ()


def folder_bytes(folder: str | os.PathLike) -> int:
    """The total size of the files below a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def replace_folder(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Atomically creates the folder `target`, which must not exist, as a copy of `source`."""
    target = pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        shutil.copytree(source, partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
