"""Trained networks that a training begins with: found by run, file or name, given a new head, on request frozen."""

from __future__ import annotations

import dataclasses
import hashlib
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

HALF_RANGE = 127.5  # The rescaling of the factories to -1 to 1 is a normalization with this mean and deviation.


@dataclasses.dataclass(frozen=True)
class Start:
    """A trained network to begin with.

    Attributes:
        source: as it was asked for: a run, a file or a name.
        path: its `.keras` file.
        network: what is in the file.
        model, options: the network's name, and arguments of its factory beside it.
        class_names: its classes; `None` where they are not known.
    """

    source: str
    path: pathlib.Path
    network: keras.Model
    model: str
    options: Mapping[str, Any]
    class_names: Sequence[str] | None

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """`(height, width, channels)` of the images that it takes."""
        return tuple(self.network.input_shape[1:])


def find_start(source: str, model: str | None = None, options: Mapping[str, Any] | None = None) -> Start:
    """The trained network that `source` stands for.

    Args:
        source: folder of a run, of which `last.keras` is taken; a `.keras` file; the name of a network that comes
            trained (`list_trained`); or what one is trained on, such as `"cifar10"`, with a `model`.
        model: name of the network; needed for a file that has no record of a run beside it.
        options: arguments of its factory beside the name; by default those of the record.

    Raises:
        ValueError: there is no such network, its file is damaged, or it is not the one that `model` names.
    """
    path, known, known_options, class_names = look_up(source, model, options)
    network = files.load_model(path)
    if model is not None and known is not None and model != known:
        raise ValueError(f"`from` (={source}) is {known}, not `model` (={model}).")
    name = model or known or (network.name if network.name in VARIANTS else None)
    if name is None:
        raise ValueError(f"`from` (={source}) does not say which network it is: give `model` and its options.")
    if len(network.inputs) != 1 or len(network.input_shape) != 4 or len(network.output_shape) != 2:
        raise ValueError(f"`from` (={source}) must take images and give one number a class.")
    return Start(source, path, network, name, {**known_options, **(options or {})}, class_names)


class Found(NamedTuple):
    """Where a trained network is, and what is known of it before it is loaded; as in `Start`."""

    path: pathlib.Path
    model: str | None
    options: Mapping[str, Any]
    class_names: Sequence[str] | None


def look_up(
    source: str, model: str | None = None, options: Mapping[str, Any] | None = None, *, argument: str = "from"
) -> Found:
    """What `find_start` takes, without Keras; `argument` is what `source` is called in errors."""
    path = pathlib.Path(source)
    if path.is_dir():
        run = read_metrics(path / "metrics.json")
        return Found(path / "last.keras", run.model, run.options, run.data["class_names"])
    if path.suffix == ".keras" or len(path.parts) > 1:
        files.check_paths(path)
        record = path.with_name("metrics.json")
        if path.name in ("last.keras", "best.keras") and record.is_file():
            run = read_metrics(record)
            return Found(path, run.model, run.options, run.data["class_names"])
        return Found(path, None, {}, files.read_labels(path))
    trained = list_trained()
    named = [each for each in trained if source in (each.label, each.run)]
    named = named or [each for each in trained if each.weights == source and model in (each.model, None)]
    if options:
        named = [each for each in named if {**each.options, **options} == dict(each.options)]
    if not named or (len(named) > 1 and model is None):
        raise ValueError(
            f"`{argument}` (={source!r}) is no folder of a run, no .keras file, and no one network that comes trained: "
            f"these are {', '.join(repr(each.label) for each in trained)}."
        )
    one = next((each for each in named if not each.options), named[0])
    path = find_weights(one.weights, one.model, find_variant(one.model), one.options)
    return Found(path, one.model, one.options, one.class_names)


def prepared_as(dataset: Dataset, start: Start) -> Dataset:
    """The data set with the mean and variance that the network was trained with: its preprocessing is kept.

    Raises:
        ValueError: its images have other channels, or the network prepares pixels in a way of its own.
    """
    import numpy as np

    channels = start.shape[-1]
    if dataset.shape[-1] != channels:
        raise ValueError(
            f"`from` (={start.source}) takes images of {channels} channels, and those of {dataset.name} have "
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


def begin_with(network: keras.Model, start: Start, class_names: Sequence[str]) -> tuple[str, ...]:
    """Gives a network the weights that it begins with.

    Args:
        network: the same as the one of `start`, but perhaps for the classes.
        start: where the weights come from.
        class_names: of the training. Where they are not those of `start`, the head stays as it is.

    Returns:
        The names of the layers that were left new.

    Raises:
        ValueError: the network is another one, or takes images of another size and depends on it.
    """
    if _whitens(start.network) != _whitens(network):
        kind = "zca" if _whitens(start.network) else "channels"
        raise ValueError(f"`from` (={start.source}) prepares its pixels by the `normalization` {kind!r}: name that.")
    same_classes = start.class_names is not None and list(start.class_names) == list(class_names)
    try:
        return transfer_weights(start.network, network, start.path, new_head=not same_classes)
    except ValueError as error:
        if network.input_shape[1:] == start.shape:
            raise
        sides = "x".join(map(str, start.shape))
        raise ValueError(
            f"`from` (={start.source}) was trained on images of {sides} and cannot take {network.input_shape[1:]}: "
            f"`--input-shape {sides.replace('x', ' ')}` resizes those of a folder. {error}"
        ) from error


def to_record(start: Start, fresh: Sequence[str], freeze: bool) -> dict[str, Any]:
    """What the record of a run keeps of its beginning."""
    return {
        "source": start.source,
        "file": str(start.path),
        "sha256": hashlib.sha256(start.path.read_bytes()).hexdigest(),
        "class_names": None if start.class_names is None else list(start.class_names),
        "freeze": freeze,
        "new_layers": list(fresh),
    }


def find_again(record: Mapping[str, Any], model: str, options: Mapping[str, Any]) -> Start:
    """The `Start` of a record; a `ValueError` unless its file is still the same."""
    path = pathlib.Path(record["file"])
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
        raise ValueError(f"{path}, which the run begins with, is missing or is not what it was: start the run anew.")
    found = find_start(str(path), model, options)
    return dataclasses.replace(found, source=record["source"], class_names=record["class_names"])


def freeze(network: keras.Model, record: Mapping[str, Any]) -> None:
    """Keeps all layers as they are but the new ones and the classifier; normalization uses its moving statistics."""
    trained = {*record["new_layers"], "predictions"}
    for layer in network.layers:
        layer.trainable = layer.name in trained
