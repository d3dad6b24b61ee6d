"""Comparison of the network in a file with the one that a factory builds, beyond the shapes of the weights."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import keras

from keras_sharenets.analysis.graph import trace
from keras_sharenets.layers.whitening import Whitening
from keras_sharenets.models.base import CommonArguments
from keras_sharenets.models.variant import Variant

# Parts of a configuration that do not change what a trained layer computes in inference.
_IRRELEVANT = ("name", "trainable", "dtype", "momentum", "seed", "rate", "noise_shape", "implementation")
_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_INPUT = "the input"
# Layers that the common arguments determine, which may differ.
_ENDS = ("preprocessing", "pool", "predictions")
# Layers that prepare the pixels, and those that do nothing in inference, which a recipe may add.
_SKIPPED = (keras.layers.Normalization, Whitening, keras.layers.Dropout)


def check_same_network(source: keras.Model, variant: Variant, arguments: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises a `ValueError` if the network of a file has layers with other settings, or other connections.

    Weights of equal shapes would fit a network with other strides, or that shares in other places.

    Args:
        source: the network of the file.
        variant: the named network that is built.
        arguments: the given arguments of the factory. The common ones, such as the image shape, are ignored: both
            networks are compared with the input of the file.
        path: the file, for messages.
    """
    own = {key: value for key, value in arguments.items() if key not in CommonArguments.__annotations__}
    common = {"num_classes": int(source.output_shape[-1]), "input_shape": source.input_shape[1:], "name": source.name}
    if source.layers[-1].name == "predictions":
        common["classifier_activation"] = source.layers[-1].activation
    there = _calls(source)
    here = _calls(variant.factory(**{**common, **variant.arguments, **own}))
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if old is None or new is None:
            only = "only in the file" if new is None else "not in the file"
            raise _other_options(path, f"layer '{name}' is {only}")
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                given = f"{old.get(key)!r} in the file, and {new.get(key)!r} with these arguments"
                raise _other_options(path, f"`{key}` of layer '{name}' is {given}")


def _other_options(path: pathlib.Path, what: str) -> ValueError:
    return ValueError(f"`weights` (={path}) belong to a network with other options: {what}.")


def _calls(model: keras.Model) -> dict[str, dict[str, Any]]:
    """For each call, by name, the class of its layer, its settings, and the calls that it reads."""
    graph = trace(model)
    origins, calls = {tensor.number: _INPUT for tensor in graph.inputs}, {}
    for call in graph.calls:
        reads, layer = [origins[tensor.number] for tensor in call.inputs], call.operation
        name = call.path if not call.index else f"{call.path}, call {call.index + 1}"
        skipped = call.path == "preprocessing" or isinstance(layer, _SKIPPED)
        origins.update((tensor.number, reads[0] if skipped else name) for tensor in call.outputs)
        if not skipped and call.path not in _ENDS:
            settings = _relevant(layer.get_config()) if isinstance(layer, keras.layers.Layer) else {}
            calls[name] = {"class": type(layer).__name__, **settings, "inputs": reads}
    return calls


def _relevant(config: Any) -> Any:
    """A configuration with the settings that change what a trained layer computes."""
    if isinstance(config, Mapping):
        left = {key: value for key, value in config.items() if key not in _IRRELEVANT and not key.endswith(_ENDINGS)}
        if config.get("arrangements", 3) < 3:  # Two arrangements are equal in both orders; older files have the other.
            left.pop("plane_orders", None)
        return {key: _relevant(value) for key, value in left.items()}
    if isinstance(config, (list, tuple)):
        return tuple(map(_relevant, config))
    return config
