"""Pretrained starting points for training, by run, file, or name; optionally with a new head and frozen layers."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_sharenets import files
from keras_sharenets.models.registry import VARIANTS, find_variant
from keras_sharenets.models.weights import find_weights, list_trained, pixel_statistics, transfer_weights
from keras_sharenets.training.run.record import read_metrics

if TYPE_CHECKING:
    import keras

    from keras_sharenets.training.data.dataset import Dataset

HALF_RANGE = 127.5  # Rescaling to -1..1, as in the factories, is normalization with this mean and deviation.


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained network to start from.

    Attributes:
        source: the requested run, file, or name.
        path: its `.keras` file.
        network: the network in the file.
        model, options: the name of the network, and further arguments of its factory.
        class_names: its classes; `None` if unknown.
    """

    source: str
    path: pathlib.Path
    network: keras.Model
    model: str
    options: Mapping[str, Any]
    class_names: Sequence[str] | None

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """`(height, width, channels)` of its input images."""
        return tuple(self.network.input_shape[1:])

    def has_classes(self, class_names: Sequence[str]) -> bool:
        """Whether these are its classes, in the same order, so that its head fits."""
        return self.class_names is not None and list(self.class_names) == list(class_names)


class NetworkLocation(NamedTuple):
    """Location of a trained network, and its properties that are known without loading it; as in `Start`."""

    source: str
    path: pathlib.Path
    model: str | None
    options: Mapping[str, Any]
    class_names: Sequence[str] | None


def find_start(source: str | os.PathLike, model: str | None = None, options: Mapping[str, Any] | None = None) -> Start:
    """Loads the trained network given by `source`.

    Args:
        source: folder of a run, whose `last.keras` is used; a `.keras` file; the name of a pretrained network
            (`list_trained`); or, with a `model`, the data set of pretrained weights, such as `"cifar10"`.
        model: name of the network; required for a file without a run record next to it.
        options: further arguments of its factory; by default those in the record.

    Raises:
        ValueError: the network does not exist, its file is damaged, or it is not the network named by `model`.
    """
    return load_start(locate_network(source, model, options), model, options)


def load_start(location: NetworkLocation, model: str | None = None, options: Mapping[str, Any] | None = None) -> Start:
    """As [`find_start`], for a network that `locate_network` has found."""
    source, path, known, known_options, class_names = location
    network = files.load_model(path)
    if model is not None and known is not None and model != known:
        raise ValueError(f"`from` (={source}) is {known}, not `model` (={model}).")
    name = model or known or (network.name if network.name in VARIANTS else None)
    if name is None:
        raise ValueError(f"`from` (={source}) does not name its network: also give `model` and its options.")
    if len(network.inputs) != 1 or len(network.input_shape) != 4 or len(network.output_shape) != 2:
        raise ValueError(f"`from` (={source}) must take images and return one value per class.")
    return Start(source, path, network, name, {**known_options, **(options or {})}, class_names)


def locate_network(
    source: str | os.PathLike,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    argument: str = "from",
) -> NetworkLocation:
    """Locates a network as `find_start` does, without Keras; `argument` is the name of `source` in errors."""
    source, path = str(source), pathlib.Path(source)
    if path.is_dir():
        run = read_metrics(path / "metrics.json")
        return NetworkLocation(source, path / "last.keras", run.model, run.options, run.data["class_names"])
    if path.suffix == ".keras" or len(path.parts) > 1:
        files.check_paths(path)
        record = path.with_name("metrics.json")
        if path.name in ("last.keras", "best.keras") and record.is_file():
            run = read_metrics(record)
            return NetworkLocation(source, path, run.model, run.options, run.data["class_names"])
        return NetworkLocation(source, path, None, {}, files.read_labels(path))
    trained = list_trained()
    named = [each for each in trained if source in (each.label, each.run)]
    named = named or [each for each in trained if each.weights == source and model in (each.model, None)]
    if options:
        named = [each for each in named if {**each.options, **options} == dict(each.options)]
    if not named or (len(named) > 1 and model is None):
        raise ValueError(
            f"`{argument}` (={source!r}) must be the folder of a run, a .keras file, or one pretrained network: "
            f"{', '.join(repr(each.label) for each in trained)}."
        )
    one = next((each for each in named if not each.options), named[0])
    path = find_weights(one.weights, one.model, find_variant(one.model), one.options)
    return NetworkLocation(source, path, one.model, one.options, one.class_names)


def keep_preprocessing(dataset: Dataset, start: Start) -> Dataset:
    """The data set with the mean and variance of the pretrained network, to keep its preprocessing.

    Raises:
        ValueError: the number of channels differs, or the network has its own preprocessing.
    """
    import numpy as np

    channels = start.shape[-1]
    if dataset.shape[-1] != channels:
        raise ValueError(
            f"`from` (={start.source}) takes images with {channels} channels, but {dataset.name} has "
            f"{dataset.shape[-1]}."
        )
    if _whitens(start.network):
        return dataset
    statistics = pixel_statistics(start.network, start.path) or ([HALF_RANGE], [HALF_RANGE**2])
    mean, variance = (tuple(np.broadcast_to(np.asarray(values, "float32"), channels).tolist()) for values in statistics)
    return dataclasses.replace(dataset, mean=mean, variance=variance)


def _whitens(network: keras.Model) -> bool:
    from keras_sharenets.layers.whitening import Whitening

    return any(isinstance(layer, Whitening) for layer in network.layers)


def load_start_weights(network: keras.Model, start: Start, class_names: Sequence[str]) -> tuple[str, ...]:
    """Copies the pretrained weights into a network.

    Args:
        network: the same network as in `start`, possibly with other classes.
        start: source of the weights.
        class_names: classes of the training data. If they differ from those of `start`, the head is not copied.

    Returns:
        The names of the layers that keep their initial weights.

    Raises:
        ValueError: the networks differ, or the network depends on the image size and that differs.
    """
    if _whitens(start.network) != _whitens(network):
        kind = "zca" if _whitens(start.network) else "channels"
        raise ValueError(f"`from` (={start.source}) uses the `normalization` {kind!r}: choose the same.")
    try:
        return transfer_weights(start.network, network, start.path, new_head=not start.has_classes(class_names))
    except ValueError as error:
        if network.input_shape[1:] == start.shape:
            raise
        sides = "x".join(map(str, start.shape))
        raise ValueError(
            f"`from` (={start.source}) was trained on images of {sides} and cannot take {network.input_shape[1:]}: "
            f"`--input-shape {sides.replace('x', ' ')}` resizes images from a folder. {error}"
        ) from error


def to_record(start: Start, fresh: Sequence[str], freeze: bool) -> dict[str, Any]:
    """The description of the starting point for the record of a run."""
    return {
        "source": start.source,
        "file": str(start.path),
        "sha256": files.sha256(start.path),
        "class_names": None if start.class_names is None else list(start.class_names),
        "freeze": freeze,
        "new_layers": list(fresh),
    }


def reopen_start(record: Mapping[str, Any], model: str, options: Mapping[str, Any]) -> Start:
    """The `Start` described by a record; a `ValueError` if its file has changed."""
    path = pathlib.Path(record["file"])
    if not path.is_file() or files.sha256(path) != record["sha256"]:
        raise ValueError(f"{path}, which the run starts from, is missing or has changed: start a new run.")
    found = find_start(str(path), model, options)
    return dataclasses.replace(found, source=record["source"], class_names=record["class_names"])


def freeze(network: keras.Model, record: Mapping[str, Any]) -> None:
    """Freezes all layers except new ones and the classifier; normalization uses its moving statistics."""
    trained = {*record["new_layers"], "predictions"}
    for layer in network.layers:
        layer.trainable = layer.name in trained
