"""Pretrained weights from the package or from `.keras` files. The list is available without Keras."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import files
from keras_sharenets.models.variant import Variant, network_label

if TYPE_CHECKING:
    import keras

FOLDER = pathlib.Path(__file__).with_name("trained")
INDEX = FOLDER / "index.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """Pretrained weights that are included in the package.

    Attributes:
        weights: value of the `weights` argument of `create_model`: the name of the data set.
        model: name of the network.
        options: arguments of its factory that differ from the named network.
        class_names: names of the classes.
        input_shape: `(height, width, channels)` of the images.
        test_accuracy: accuracy on the test split in Keras, from 0 to 1.
        int8_test_accuracy, int8_bytes: accuracy and size of the int8 `.tflite` file, which is in the repository but not
            in the package.
        stored_parameters: trainable parameters, each shared tensor counted once.
        run: folder in `saved_models/` with the record and the model card.
        file: name of the `.keras` file in the package.
        sha256: SHA-256 of the file, in hexadecimal.
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
        """The name of the network with its options, for example `sl3_resnet_64 width=40`."""
        return network_label(self.model, self.options)


@functools.cache
def _index() -> tuple[TrainedWeights, ...]:
    return tuple(map(_entry, files.read_json(INDEX)))


def _entry(entry: Mapping[str, Any]) -> TrainedWeights:
    values: dict[str, Any] = {key: files.as_tuples(value) for key, value in entry.items()}
    values["options"] = {key: files.as_tuples(value) for key, value in entry["options"].items()}
    return TrainedWeights(**values)


def list_trained(pattern: str = "*") -> list[TrainedWeights]:
    """Lists the pretrained weights of the networks whose names match a shell pattern, sorted by name.

    >>> [(each.weights, each.label) for each in list_trained("sl3_resnet*")]
    [('cifar10', 'sl3_resnet_64'), ('cifar10', 'sl3_resnet_64 width=40')]
    """
    return sorted((each for each in _index() if fnmatch.fnmatch(each.model, pattern)), key=lambda each: each.label)


def find_weights(weights: str | os.PathLike, name: str, variant: Variant, options: Mapping[str, Any]) -> pathlib.Path:
    """The `.keras` file for the `weights` argument of `create_model`.

    Args:
        weights: a name as in `TrainedWeights.weights`, or a path.
        name, variant: the network.
        options: arguments of its factory that were given in addition to the name.

    Raises:
        ValueError: there are no such weights for this network and no such file, or the file in the package does not
            have the published checksum.
    """
    from keras_sharenets.models.registry import find_variant

    named = {each.weights for each in _index()}
    if str(weights) not in named:
        if isinstance(weights, (str, os.PathLike)) and pathlib.Path(weights).suffix == ".keras":
            return pathlib.Path(weights)
        raise ValueError(
            f"`weights` (={weights!r}) must be None, {' or '.join(map(repr, sorted(named)))}, or the path of a "
            f".keras file. {_available(name)}"
        )
    # Two names may denote the same network, and an option may repeat a value that the name implies.
    wanted = _network(variant, options)
    for each in _index():
        if each.weights == str(weights) and _network(find_variant(each.model), each.options) == wanted:
            return _checked(each)
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    raise ValueError(f"There are no `weights` (={str(weights)!r}) for '{name}'{given}. {_available(name)}")


def _network(variant: Variant, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A key that is equal for equal networks."""
    arguments = {**variant.arguments, **options}
    return variant.factory_name, {key: files.as_tuples(value) for key, value in arguments.items()}


def _available(name: str) -> str:
    found = [f"weights='{each.weights}' for '{each.label}'" for each in _index() if each.model == name]
    if found:
        return f"Available: {', '.join(found)}."
    return f"'{name}' is not pretrained; `sharenets list --trained` lists the pretrained networks."


def _checked(each: TrainedWeights) -> pathlib.Path:
    path = FOLDER / each.file
    if not path.is_file():
        raise ValueError(f"There is no {path}, which belongs to the package: reinstall the package.")
    found = files.sha256(path)
    if found != each.sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, not {each.sha256}. Reinstall the package.")
    return path


def build_trained(variant: Variant, path: pathlib.Path, arguments: Mapping[str, Any]) -> keras.Model:
    """The network with the weights of a file, and a new head if the number of classes differs.

    Args:
        variant: the network.
        path: a `.keras` file of the same network, such as `fit` writes.
        arguments: the given arguments of the factory. The number of classes and the image shape default to those of the
            file, and so does the activation of the classifier if the number of classes is that of the file.

    Returns:
        A `keras.Model`. With `include_preprocessing`, it preprocesses pixels like the network in the file.

    Raises:
        ValueError: the file cannot be read, belongs to another network or to one with other options, also if these do
            not change the shapes of the weights, has no classifier although the number of classes is not given, or
            preprocesses pixels by something other than a normalization or a rescaling to -1 to 1.
    """
    source = files.load_model(path)
    _check_ends(source, path, arguments)
    classes = int(source.output_shape[-1])
    given: dict[str, Any] = {"num_classes": classes}
    if arguments.get("num_classes", classes) == classes and source.layers[-1].name == "predictions":
        given["classifier_activation"] = source.layers[-1].activation
    if arguments.get("input_tensor") is None:
        given["input_shape"] = source.input_shape[1:]
    if arguments.get("include_preprocessing", True) and arguments.get("pixel_statistics") is None:
        given["pixel_statistics"] = pixel_statistics(source, path)
        _check_channels(source, path, arguments)
    model = variant.factory(**{**given, **variant.arguments, **arguments})
    transfer_weights(source, model, path)
    if path.parent != FOLDER:  # `find_weights` compares the options of the networks in the package.
        from keras_sharenets.models.same_network import check_same_network

        check_same_network(source, variant, arguments, path)
    return model


def _check_ends(source: keras.Model, path: pathlib.Path, arguments: Mapping[str, Any]) -> None:
    """Raises a `ValueError` unless a network maps images to classes, or to features that suffice for the arguments."""
    from keras_sharenets.analysis.graph import is_functional

    if not is_functional(source) or len(source.inputs) != 1 or len(source.outputs) != 1:
        raise ValueError(f"`weights` (={path}) must be a functional network with one input and one output.")
    classifies = len(source.outputs[0].shape) == 2
    if not classifies and arguments.get("include_top", True) and "num_classes" not in arguments:
        raise ValueError(
            f"`weights` (={path}) belong to a network without a classifier: pass `num_classes`, for a new one, or "
            "`include_top=False`."
        )


def _check_channels(source: keras.Model, path: pathlib.Path, arguments: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if the images of a network have other channels than those that its weights normalize."""
    name, shape = "input_shape", arguments.get("input_shape")
    if arguments.get("input_tensor") is not None:
        name, shape = "input_tensor.shape[1:]", tuple(arguments["input_tensor"].shape[1:])
    channels = source.input_shape[-1]
    if isinstance(shape, (tuple, list)) and len(shape) == 3 and shape[-1] != channels:
        raise ValueError(
            f"`{name}` (={tuple(shape)}) must have {channels} channels, as in the network of `weights` (={path})."
        )


def pixel_statistics(source: keras.Model, path: pathlib.Path) -> tuple[list[float], list[float]] | None:
    """The mean and the variance per channel of the normalization at the input of a network.

    `None` for a rescaling to -1 to 1, the default of the factories.
    """
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
        f"`weights` (={path}) belong to a network that begins with the layer '{first.name}', neither a normalization "
        "of channels nor a rescaling to -1 to 1: pass `include_preprocessing=False`, and images preprocessed as for "
        "that network."
    )


def transfer_weights(
    source: keras.Model, model: keras.Model, path: pathlib.Path, *, new_head: bool = False
) -> tuple[str, ...]:
    """Copies the weights of all layers by name. All layers must match, except for a new classifier.

    Args:
        source: the model in the file at `path`.
        model: the network that receives the weights.
        path: used in messages.
        new_head: whether the classifier stays new even if the number of classes is the same.

    Returns:
        The names of the layers that were not copied.

    Raises:
        ValueError: a layer is missing on one side, its weights have other shapes, or it has other plane orders. The
            network is then unchanged.

    Warns if a layer has other strides, such as those that some factories choose by the size of the images.
    """
    import keras

    old, new = _weighted(source), _weighted(model)
    if "predictions" not in new or model.output_shape[1:] != source.output_shape[1:]:
        # The hidden layers of a classifier may also depend on the number of classes (ShardNet's VGGNets).
        for name, layer in [*old.items(), *new.items()]:
            if type(layer) is keras.layers.Dense and not (name in old and name in new and _alike(old[name], new[name])):
                old.pop(name, None)
                new.pop(name, None)
    for layers in (old, new) if new_head else ():
        layers.pop("predictions", None)
    for name in [*new, *old]:
        shapes = [_shapes(layers[name]) if name in layers else None for layers in (old, new)]
        if shapes[0] != shapes[1]:
            there, here = ("no such layer" if each is None else f"weights of {each}" for each in shapes)
            raise ValueError(
                f"`weights` (={path}) belong to another network, or to one with other options: for the layer '{name}', "
                f"the file has {there}, '{model.name}' has {here}."
            )
    for name, layer in new.items():
        there, here = map(_plane_orders, (old[name], layer))
        if there != here:
            raise ValueError(
                f"`weights` (={path}) belong to a network with `plane_orders` (={there}), but '{model.name}' has "
                f"{here}: pass the value of the weights."
            )
    for name, layer in new.items():
        layer.set_weights(old[name].get_weights())
    strides = {name: [getattr(each, "strides", None) for each in (old[name], layer)] for name, layer in new.items()}
    other = next((name for name, (there, here) in strides.items() if there != here), None)
    if other is not None:
        there, here = strides[other]
        warnings.warn(
            f"`weights` (={path}) belong to a network with strides of {there} in the layer '{other}', but "
            f"'{model.name}' has {here}, for example because its images are larger: fine-tune it, or pass the strides "
            "of the weights.",
            stacklevel=2,
        )
    return tuple(name for name in _weighted(model) if name not in new)


def _plane_orders(layer: keras.layers.Layer) -> str | None:
    """The `plane_orders` of a layer or its sublayers; `None` if none has more than two arrangements."""
    orders = (each.plane_orders for each in layer._flatten_layers() if getattr(each, "arrangements", 1) > 2)
    return next(orders, None)


def _weighted(model: keras.Model) -> dict[str, keras.layers.Layer]:
    import keras

    # An adapted normalization stores its statistics as weights; `pixel_statistics` handles these.
    return {
        layer.name: layer
        for layer in model.layers
        if layer.weights and not isinstance(layer, keras.layers.Normalization)
    }


def _alike(first: keras.layers.Layer, second: keras.layers.Layer) -> bool:
    return _shapes(first) == _shapes(second)


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
