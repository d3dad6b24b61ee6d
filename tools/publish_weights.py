"""Adds the networks of finished runs to the package, for `create_model(..., weights=...)`.

python -m tools.publish_weights saved_models/resnet_8_cifar10_seed0 saved_models/sl3_resnet_64_cifar10_seed0

Each run must be exported with `export RUN_DIR --formats int8 --test`, and its `last.keras` packed
(`tools.pack_keras`). All runs must be in one folder. The file moves into the package and is replaced by a link, so that
there is one copy. The list of pretrained weights is regenerated from these runs.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

from keras_sharenets import files
from keras_sharenets.models.weights import FOLDER, INDEX, TrainedWeights
from keras_sharenets.training.reports.results import counts_of_run, read_published
from keras_sharenets.training.run.finished import network_file


def entry(folder: pathlib.Path) -> TrainedWeights:
    """The list entry of a run.

    Raises:
        ValueError: it has no int8 file that was measured on the test split.
    """
    published = read_published(folder)
    run, int8 = published.run, published.int8
    if int8 is None or "test_accuracy" not in int8:
        raise ValueError(f"{folder} has no int8 file with a test accuracy: `export {folder} --formats int8 --test`.")
    return TrainedWeights(
        weights=run.data["name"],
        model=run.model,
        options=dict(run.options),
        class_names=tuple(run.data["class_names"]),
        input_shape=tuple(run.data["shape"]),
        test_accuracy=published.accuracy,
        int8_test_accuracy=int8["test_accuracy"],
        int8_bytes=int8["bytes"],
        stored_parameters=counts_of_run(run).stored_parameters,
        run=folder.name,
        file=f"{folder.name}.keras",
        sha256=files.sha256(network_file(folder)),
    )


def main(folders: list[str]) -> None:
    """Publishes exactly these runs; the file of a formerly published run moves back next to its record."""
    places = [pathlib.Path(folder).absolute() for folder in folders]
    if len({place.parent for place in places}) != 1:
        raise ValueError(f"`folders` (={' '.join(folders)}) must lie in one folder.")
    entries = list(map(entry, places))
    for place, each in zip(places, entries, strict=True):
        target, link = FOLDER / each.file, network_file(place)
        files.write_bytes(target, link.read_bytes())
        link.unlink()
        link.symlink_to(os.path.relpath(target, place.resolve()))
    kept = {each.file for each in entries}
    for link in places[0].parent.glob("*/last.keras"):
        if link.is_symlink() and link.resolve().name not in kept:
            former = link.resolve()
            link.unlink()
            former.rename(link)
    files.write_json(INDEX, [dataclasses.asdict(each) for each in entries])


if __name__ == "__main__":
    main(sys.argv[1:])
