"""Class names inside a TFLite file.

They lie there twice, because readers look in two places: as a metadata buffer of the flatbuffer, which a program finds
without unpacking anything, and as the file `labels.txt` in a zip archive behind the flatbuffer, which `unzip` and the
metadata libraries of Android and iOS open. A third buffer describes input and output in the standard form, and says
that `labels.txt` names the entries of the output.
"""

import io
import pathlib
import struct
import zipfile

from keras_sharenets.mobile.export import metadata_buffers, standard_metadata
from keras_sharenets.mobile.inspect import contents as graph

LABELS_FILE = "labels.txt"
_LABELS_BUFFER = "labels"


def check_class_names(class_names, classes):
    """The class names as a tuple.

    Raises:
        ValueError: they are not `classes` strings, or one is empty or has a line break in it.
    """
    if isinstance(class_names, str):
        raise ValueError(f"`class_names` (={class_names!r}) must be a sequence of strings, not one string.")
    names = tuple(class_names)
    if len(names) != classes:
        raise ValueError(f"`class_names` has {len(names)} entries, but the network has {classes} classes.")
    for name in names:
        if not isinstance(name, str) or not name or len(name.splitlines()) != 1 or name.strip() != name:
            raise ValueError(
                f"`class_names` entry {name!r} must be a string of one line, not empty, without spaces at its ends."
            )
    return names


def write_labels(model_bytes, class_names):
    """Puts class names into a TFLite file.

    Args:
        model_bytes: bytes of a TFLite file with one input and one output, as the converter wrote it.
        class_names: sequence of strings, one for each entry of the output.

    Returns:
        The bytes of the new file. What the converter wrote is in it byte for byte.

    Raises:
        ValueError: the bytes are no TFLite file, or it holds names already, or the names do not fit its output.
    """
    model = graph.read_graph(model_bytes)
    inputs = graph.tensor_shape(model, model.Subgraphs(0).Inputs(0))
    outputs = graph.tensor_shape(model, model.Subgraphs(0).Outputs(0))
    names = check_class_names(class_names, outputs[-1])
    text = "".join(f"{name}\n" for name in names).encode()
    if read_labels(model_bytes) is not None:
        raise ValueError("`model_bytes` holds class names already.")
    entries = {
        _LABELS_BUFFER: text,
        standard_metadata.BUFFER: standard_metadata.classifier_metadata(inputs, LABELS_FILE),
    }
    file = io.BytesIO(metadata_buffers.add_buffers(model_bytes, entries))
    with zipfile.ZipFile(file, "a") as archive:
        # A fixed date: the same network gives the same file.
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), text)
    return file.getvalue()


def read_labels(path_or_bytes):
    """The class names inside a TFLite file.

    Args:
        path_or_bytes: path or bytes of the file. Files of other programs are read too if they carry `labels.txt`.

    Returns:
        A tuple of strings, or `None` if there are none.

    Raises:
        ValueError: there is no such file, or it is no TFLite file, or it is damaged.
    """
    data, name = path_or_bytes, "the file"
    if not isinstance(data, bytes):
        name = path = pathlib.Path(path_or_bytes)
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        data = path.read_bytes()
    try:
        text = metadata_buffers.read_buffer(graph.read_graph(data), _LABELS_BUFFER)
        text = _read_archive(data) if text is None else text
        return None if text is None else tuple(text.decode().splitlines())
    # What following a wrong offset, a damaged archive or text that is not UTF-8 raise.
    except (IndexError, struct.error, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is no whole TFLite file: {error}") from error


def _read_archive(data):
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(LABELS_FILE) if LABELS_FILE in archive.namelist() else None
