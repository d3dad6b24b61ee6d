"""Trained weights: those that come with the package, and those of `.keras` files. The list is there without Keras."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import files
from keras_sharenets.models.variant import Variant

if TYPE_CHECKING:
    import keras

FOLDER = pathlib.Path(__file__).with_name("trained")
INDEX = FOLDER / "index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """Weights that come with the package.

    Attributes:
        weights: what `create_model` calls them: the data set.
        model: name of the network.
        options: arguments of its factory beside those of the name.
        class_names: one a class.
        input_shape: `(height, width, channels)` of the images.
        test_accuracy: share of the test split that is right, in Keras.
        int8_test_accuracy, int8_bytes: of the int8 `.tflite` file; it is in a checkout, not in the package.
        stored_parameters: trainable parameters, each shared tensor once.
        run: the folder in `saved_models/` with the record and the model card.
        file: name in the package, a `.keras` file.
        sha256: of the file, in hexadecimal.
    """

    weights: str
    model: str
    options: Mapping[str, Any]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    test_accuracy: float
    int8_test_accuracy: float
    int8_bytes: int
    stored_parameters: int
    run: str
    file: str
    sha256: str

    @property
    def label(self) -> str:
        """The network with its options, as in `sl3_resnet_64 width=40`."""
        return " ".join([self.model, *(f"{key}={value}" for key, value in self.options.items())])


@functools.cache
def _index() -> tuple[TrainedWeights, ...]:
    return tuple(map(_entry, json.loads(INDEX.read_text(encoding="utf-8"))))


def _entry(entry: Mapping[str, Any]) -> TrainedWeights:
    values: dict[str, Any] = {key: files.as_tuples(value) for key, value in entry.items()}
    values["options"] = {key: files.as_tuples(value) for key, value in entry["options"].items()}
    return TrainedWeights(**values)


def list_trained(pattern: str = "*") -> list[TrainedWeights]:
    """What comes trained, of the networks whose names match a shell pattern, sorted by name.

    >>> [(each.weights, each.label) for each in list_trained("sl3_resnet*")]
    [('cifar10', 'sl3_resnet_64'), ('cifar10', 'sl3_resnet_64 width=40')]
    """
    return sorted((each for each in _index() if fnmatch.fnmatch(each.model, pattern)), key=lambda each: each.label)


def find_weights(weights: str | os.PathLike, name: str, variant: Variant, options: Mapping[str, Any]) -> pathlib.Path:
    """The `.keras` file that `weights` of a network stands for.

    Args:
        weights: those of `TrainedWeights.weights`, or a path.
        name, variant: the network.
        options: arguments of its own factory that were given beside the name.

    Raises:
        ValueError: there are no such weights for this network, and no such file; or the file of the package is not what
            was published.
    """
    from keras_sharenets.models.registry import find_variant

    named = {each.weights for each in _index()}
    if str(weights) not in named:
        if pathlib.Path(weights).suffix == ".keras":
            return pathlib.Path(weights)
        raise ValueError(
            f"`weights` (={str(weights)!r}) must be None, {' or '.join(map(repr, sorted(named)))}, or the path of a "
            f".keras file. {_what_there_is(name)}"
        )
    # Another name may stand for the same network, and an option repeat what the name says.
    wanted = _network(variant, options)
    for each in _index():
        if each.weights == str(weights) and _network(find_variant(each.model), each.options) == wanted:
            return _checked(each)
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    raise ValueError(f"There are no `weights` (={str(weights)!r}) for '{name}'{given}. {_what_there_is(name)}")


def _network(variant: Variant, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What is the same for the same network."""
    arguments = {**variant.arguments, **options}
    return variant.factory_name, {key: files.as_tuples(value) for key, value in arguments.items()}


def _what_there_is(name: str) -> str:
    having = [f"weights='{each.weights}' of '{each.label}'" for each in _index() if each.model == name]
    if having:
        return f"There are {', '.join(having)}."
    return f"'{name}' comes untrained; `sharenets list --trained` lists the networks that come trained."


def _checked(each: TrainedWeights) -> pathlib.Path:
    path = FOLDER / each.file
    if not path.is_file():
        raise ValueError(f"There is no {path}, which should have come with the package: install it anew.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != each.sha256:
        raise ValueError(f"{path} is damaged, its SHA-256 is {found} and not {each.sha256}: install the package anew.")
    return path


def build_trained(variant: Variant, path: pathlib.Path, arguments: Mapping[str, Any]) -> keras.Model:
    """The network with the weights of a file, and a new head where its classes are others.

    Args:
        variant: the network.
        path: a `.keras` file of the same network, as `fit` leaves it.
        arguments: those of the factory, as they were given. Classes and image shape are those of the file by default.

    Returns:
        A `keras.Model`. With `include_preprocessing` it prepares pixels as the network in the file does.

    Raises:
        ValueError: the file cannot be read, is of another network, or prepares pixels in another way than by a
            normalization or a rescaling to -1 to 1.
    """
    source = files.load_model(path)
    given: dict[str, Any] = {"num_classes": int(source.output_shape[-1])}
    if arguments.get("input_tensor") is None:
        given["input_shape"] = source.input_shape[1:]
    if arguments.get("include_preprocessing", True) and arguments.get("pixel_statistics") is None:
        given["pixel_statistics"] = pixel_statistics(source, path)
    model = variant.factory(**{**given, **variant.arguments, **arguments})
    transfer_weights(source, model, path)
    return model


def pixel_statistics(source: keras.Model, path: pathlib.Path) -> tuple[list[float], list[float]] | None:
    """What the normalization at the beginning of a network subtracts and by which variance it divides, a channel each;
    `None` for the scaling to -1 to 1 that the factories have themselves."""
    import keras
    import numpy as np

    layers = [layer for layer in source.layers if not isinstance(layer, keras.layers.InputLayer)]
    first, channels = layers[0], source.input_shape[-1]
    if isinstance(first, keras.layers.Rescaling) and (first.scale, first.offset) == (1 / 127.5, -1):
        return None
    if isinstance(first, keras.layers.Normalization) and not first.invert:
        mean, variance = (
            np.ravel(keras.ops.convert_to_numpy(values)).tolist() for values in (first.mean, first.variance)
        )
        if len(mean) in (1, channels):
            return mean, variance
    raise ValueError(
        f"`weights` (={path}) are of a network that begins with the layer '{first.name}', neither a normalization of "
        "channels nor a rescaling to -1 to 1: give `include_preprocessing=False`, and images prepared as for that one."
    )


def transfer_weights(
    source: keras.Model, model: keras.Model, path: pathlib.Path, *, new_head: bool = False
) -> tuple[str, ...]:
    """Gives a network the weights of the layers of the same names; all must be there, but for a new classifier.

    Args:
        source: what is in the file at `path`.
        model: the network.
        path: for messages.
        new_head: whether the classifier stays new in any case, and not only where the number of classes is another.

    Returns:
        The names of the layers that were left new.

    Raises:
        ValueError: a layer is missing on one side, its weights have other shapes, or it arranges them in other orders;
            nothing has been changed then.
    """
    import keras

    old, new = _weighted(source), _weighted(model)
    if "predictions" not in new or model.output_shape[1:] != source.output_shape[1:]:
        # Hidden layers of a classifier may depend on the number of classes too (ShardNet's VGGNets).
        for name, layer in [*old.items(), *new.items()]:
            if type(layer) is keras.layers.Dense and not (name in old and name in new and _alike(old[name], new[name])):
                old.pop(name, None)
                new.pop(name, None)
    for layers in (old, new) if new_head else ():
        layers.pop("predictions", None)
    for name in [*new, *old]:
        shapes = [_shapes(layers[name]) if name in layers else None for layers in (old, new)]
        if shapes[0] != shapes[1]:
            there, here = ("none of that name" if each is None else f"weights of {each}" for each in shapes)
            raise ValueError(
                f"`weights` (={path}) are those of another network, or of one with other options: for the layer "
                f"'{name}' the file has {there}, '{model.name}' {here}."
            )
    for name, layer in new.items():
        there, here = map(_plane_orders, (old[name], layer))
        if there != here:
            raise ValueError(
                f"`weights` (={path}) are of a network with `plane_orders` (={there}), '{model.name}' has {here}: give "
                "it the same."
            )
    for name, layer in new.items():
        layer.set_weights(old[name].get_weights())
    return tuple(name for name in _weighted(model) if name not in new)


def _plane_orders(layer: keras.layers.Layer) -> str | None:
    """How a layer, or one in it, orders the planes of its arranged filters; `None` where there is no choice."""
    orders = (each.plane_orders for each in layer._flatten_layers() if getattr(each, "arrangements", 1) > 2)
    return next(orders, None)


def _weighted(model: keras.Model) -> dict[str, keras.layers.Layer]:
    import keras

    # An adapted normalization has its statistics as weights; they are taken otherwise.
    return {
        layer.name: layer
        for layer in model.layers
        if layer.weights and not isinstance(layer, keras.layers.Normalization)
    }


def _alike(first: keras.layers.Layer, second: keras.layers.Layer) -> bool:
    return _shapes(first) == _shapes(second)


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
