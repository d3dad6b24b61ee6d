"""Packs `.keras` files for a checkout: same configuration, same weights bit for bit, about 0.6 of the bytes.

python -m tools.pack_keras saved_models/*/last.keras

Keras writes its archive without compression. This tool compresses each weight of 2 KB or more within the HDF5 file,
with the bytes sorted by significance, which saves a tenth of float32 weights. It then deflates the archive, which
compresses the configuration and HDF5's own tables. `keras.saving.load_model` reads the result like any other file.
"""

from __future__ import annotations

import io
import sys
import zipfile

import h5py

from keras_sharenets import files

SMALLEST_BYTES = 2000


def pack(data: bytes) -> bytes:
    """Packs a `.keras` file."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for member in source.infolist():
            content = source.read(member)
            # The member keeps its date: packing the same file twice gives the same bytes.
            name = zipfile.ZipInfo(member.filename, member.date_time)
            name.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(name, _pack_weights(content) if member.filename.endswith(".h5") else content)
    return packed.getvalue()


def _pack_weights(data: bytes) -> bytes:
    packed = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as source, h5py.File(packed, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                copied = target.require_group(name)
            else:
                large = item.nbytes >= SMALLEST_BYTES
                options = {"chunks": item.shape, "compression": 9, "shuffle": True} if large else {}
                copied = target.create_dataset(name, data=item[()], dtype=item.dtype, track_times=False, **options)
            copied.attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    return packed.getvalue()


def main(paths: list[str]) -> None:
    """Packs each file in place."""
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        packed = pack(data)
        files.write_bytes(path, packed)
        print(f"{path}: {len(data):,} -> {len(packed):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
