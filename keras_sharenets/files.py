"""Reading and writing files so that a reader never meets half of one.

Everything is written to the side and renamed: a killed process leaves the old file or the new one.
"""

import json
import os
import pathlib
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterable
from typing import Any

LABELS = "labels.txt"  # Class names, one a line, beside the files of a classifier.


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` in one step; folders on the way are made."""
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
    """A name beside `path` that nobody else takes: processes of two containers may have the same number."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.partial")


def remove_partials(folder: str | os.PathLike) -> None:
    """Removes what killed processes left half-written in a folder; nobody else may be writing there."""
    for leftover in pathlib.Path(folder).rglob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path` in one step."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON to `path` in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def check_paths(*paths: str | os.PathLike | None) -> None:
    """Raises a `ValueError` for the first that is not there; `None` stands for none."""
    for path in (pathlib.Path(path) for path in paths if path is not None):
        if not path.exists():
            raise ValueError(f"There is no {'file' if path.suffix else 'file or folder'} {path}.")


def as_tuples(value: Any) -> Any:
    """`value` with tuples for all lists, also inside each other: JSON knows no tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def save_model(model: Any, path: str | os.PathLike) -> None:
    """Saves a Keras model as a `.keras` file in one step.

    Keras writes the file piece by piece, so it is made in a temporary folder elsewhere and then copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder) / "model.keras"
        model.save(scratch)
        write_bytes(path, scratch.read_bytes())


def save_model_folder(model: Any, path: str | os.PathLike) -> None:
    """Saves a Keras model as the folder that `keras.saving.load_model("hf://...")` reads; there is none at `path`."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        keras.saving.save_model(model, pathlib.Path(folder) / "model", zipped=False)
        replace_folder(pathlib.Path(folder) / "model", path)


def load_model(path: str | os.PathLike) -> Any:
    """Loads a `.keras` file, without its optimizer.

    Raises:
        ValueError: there is no such file, or it is no Keras file, or it is damaged. The message says which.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a Keras file: a `.keras` file is a zip archive with `config.json` in it.")
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise ValueError(f"{path} is not a Keras file: the archive holds no `config.json`.")
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    # Keras raises whatever its parts raise on damaged input: KeyError, OSError, zlib.error, TypeError ...
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as a Keras model: {type(error).__name__}: {error}") from error


def write_labels(folder: str | os.PathLike, class_names: Iterable[str]) -> None:
    """Writes the class names to `labels.txt` in a folder, in UTF-8, one a line."""
    write_text(pathlib.Path(folder) / LABELS, "".join(f"{' '.join(name.splitlines())}\n" for name in class_names))


def read_labels(model_path: str | os.PathLike) -> tuple[str, ...] | None:
    """The class names in `labels.txt` beside a `.keras` file, as a tuple; `None` without such a file.

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
    """The lines of a UTF-8 text, whatever program wrote it: with a byte order mark, line ends of Windows, empty lines
    at the end.

    >>> split_labels(b"cat\\r\\ndog\\n\\n")
    ('cat', 'dog')
    """
    # Not `splitlines`, which ends lines at characters that may stand inside a name, too.
    text = data.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n")
    return tuple(text.split("\n")) if text else ()


def replace_folder(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Moves the finished folder `source` to `target`, which must not exist; across file systems it is copied."""
    target = pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        shutil.copytree(source, partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
