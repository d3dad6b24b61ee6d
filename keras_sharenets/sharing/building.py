"""Building the network with its changes: new layers, copies of all others, and the weights of both."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets._types import Tensor
from keras_sharenets.analysis.copying import copy_layer, set_weights
from keras_sharenets.analysis.graph import Call, Graph, rebuild
from keras_sharenets.heads import names_of_outputs
from keras_sharenets.sharing.changes import Change, bias_arguments
from keras_sharenets.sharing.places import Order, Place, numpy_of

# Channels with scales this small relative to the largest are switched off.
_OFF = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A new network, and the copy of each layer of the old one by the layer's identity.

    `names` maps the identity of each copied or replaced layer to the name of its layer in the new network. `inputs`
    maps the identity of a copied normalization to the scale and bias that its input has lost: before, the input was
    `x * scale + bias`.
    """

    model: keras.Model
    copies: dict[int, keras.layers.Layer]
    names: dict[int, str]
    inputs: dict[int, tuple[np.ndarray, np.ndarray]]


class _Names:
    """Unique names: of every operation, its own, or its path through nested models if it is not the only one."""

    def __init__(self, model: keras.Model, graph: Graph):
        paths = {}
        for call in graph.calls:
            paths.setdefault(id(call.operation), (call.operation.name, call.path.replace("/", "_")))
        for number, name in names_of_outputs(model, graph).items():
            paths[number] = name, paths[number][1]
        inputs = [tensor.name for tensor in model.inputs]
        counts = collections.Counter([*inputs, *(name for name, _ in paths.values())])
        self._taken = {*inputs, *(name for name, count in counts.items() if count == 1)}
        self._of = {number: name if counts[name] == 1 else self.new(path) for number, (name, path) in paths.items()}

    def of(self, operation: keras.Operation) -> str:
        """The name of an operation of the old network in the new one."""
        return self._of[id(operation)]

    def new(self, name: str) -> str:
        """The name, with underscores at the end if it is taken."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


class _Builder:
    """Creates the calls of the new network during a traversal of the old one."""

    def __init__(self, model: keras.Model, graph: Graph, changes: Sequence[Change]):
        self.copies: dict[int, keras.Operation] = {}
        self.new_layers: dict[int, keras.layers.Layer] = {}
        self.own_layers: dict[int, keras.layers.Layer] = {}
        self._activations: dict[int, keras.layers.Layer] = {}
        self._names = _Names(model, graph)
        outputs = {tensor.number for tensor in graph.outputs}
        self._ends = {id(call.operation) for call in graph.calls for tensor in call.outputs if tensor.number in outputs}
        self._places = {
            id(place.layer): (change, number) for change in changes for number, place in enumerate(change.places)
        }

    def call(self, call: Call, operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """One call, either of a copy or of the layer that replaces it."""
        if id(operation) in self._places:
            return self._changed(*self._places[id(operation)], args[0] if args else kwargs["inputs"])
        if id(operation) not in self.copies:
            self.copies[id(operation)] = self._copy(operation)
        return self.copies[id(operation)](*args, **kwargs)

    def _copy(self, operation: keras.Operation) -> keras.Operation:
        return copy_layer(operation, lambda config: {**config, "name": self._names.of(operation)})

    def _changed(self, change: Change, number: int, x: Tensor) -> Tensor:
        layer = change.places[number].layer
        linear, key = layer.activation is keras.activations.linear, id(layer)
        if id(change) not in self.new_layers:
            self.new_layers[id(change)] = change.make(self._name_of_new(change, linear))
        x = self.new_layers[id(change)](x)
        if change.own(number) and key not in self.own_layers:
            self.own_layers[key] = self._own(change, number, linear)
        if key in self.own_layers:
            x = self.own_layers[key](x)
        if linear:
            return x
        if key not in self._activations:
            name = self._name_after(layer, "activation", last=True)
            self._activations[key] = keras.layers.Activation(layer.activation, dtype=layer.dtype_policy, name=name)
        return self._activations[key](x)

    def _own(self, change: Change, number: int, linear: bool) -> keras.layers.Layer:
        """The layer with the parameters that a place keeps: scales and biases, or a blending layer."""
        place, mix = change.places[number], change.mixes[number]
        layer, scales = place.layer, mix is not None and mix.ndim == 1
        arguments = {
            **bias_arguments(place),
            "name": self._name_after(layer, "scale" if scales else "blend", last=linear),
            "data_format": "channels_last",
            "dtype": layer.dtype_policy,
            "trainable": layer.trainable,
        }
        if scales:
            return keras.layers.DepthwiseConv2D(1, **{**arguments, "use_bias": True})
        return keras.layers.Conv2D(layer.filters, 1, **arguments)

    def _name_of_new(self, change: Change, linear: bool) -> str:
        layer = change.places[0].layer
        if len(change.places) == 1 and (linear or id(layer) not in self._ends):
            return self._names.of(layer)
        return self._names.new(f"{self._names.of(layer)}_shared")

    def _name_after(self, layer: keras.layers.Layer, suffix: str, last: bool) -> str:
        """The name of a layer that follows a new one. An output keeps its name, which losses and labels refer to."""
        name = self._names.of(layer)
        return name if last and id(layer) in self._ends else self._names.new(f"{name}_{suffix}")


def _absorb(norm: keras.layers.BatchNormalization, scale: np.ndarray, bias: np.ndarray) -> None:
    """Changes a normalization so that its output for x is what it was for `x * scale + bias`."""
    mean, variance = numpy_of(norm.moving_mean), numpy_of(norm.moving_variance)
    gain = np.sqrt(variance + norm.epsilon)
    off = np.abs(scale) <= _OFF * np.abs(scale).max()
    safe = np.where(off, 1.0, scale)
    new_variance = np.maximum((variance + norm.epsilon) / safe**2 - norm.epsilon, 0.0)
    norm.moving_mean.assign(np.where(off, 0.0, (mean - bias) / safe))
    norm.moving_variance.assign(np.where(off, 1.0, new_variance))
    if norm.scale:
        gamma = numpy_of(norm.gamma)
        if norm.center:
            norm.beta.assign(np.where(off, numpy_of(norm.beta) + gamma * (bias - mean) / gain, numpy_of(norm.beta)))
        norm.gamma.assign(np.where(off, 0.0, gamma * safe * np.sqrt(new_variance + norm.epsilon) / gain))


def _set_own_weights(change: Change, number: int, place: Place, layer: keras.layers.Layer) -> None:
    mix = change.mixes[number]
    if mix is None:
        return
    kernel = mix[None, None, :, None] if mix.ndim == 1 else mix[None, None]
    layer.set_weights([kernel, place.bias] if layer.use_bias else [kernel])


def build(model: keras.Model, graph: Graph, changes: Sequence[Change], orders: Mapping[int, Order]) -> Built:
    """Builds the network with some of its convolutions changed; it shares no layers with the old one.

    Args:
        model: the network; it is not changed.
        graph: its trace by `keras_sharenets.analysis.graph.trace`.
        changes: disjoint changes.
        orders: new order of the channels by the identity of the layer.

    Returns:
        A `Built`; its model is functional and not compiled.
    """
    builder = _Builder(model, graph, changes)
    new = rebuild(model, graph, builder.call)
    layers: dict[int, Any] = {}
    for call in graph.calls:
        layers[id(call.operation)] = call.operation
    for number, copy in builder.copies.items():
        layer = layers[number]
        if getattr(layer, "weights", ()):
            set_weights(copy, orders.get(number, Order()).weights(layer))
            for weight, original in zip(copy.weights, layer.weights, strict=True):
                weight.trainable = original.trainable  # Weights may be frozen individually.
    names, inputs = {number: copy.name for number, copy in builder.copies.items()}, {}
    for change in changes:
        builder.new_layers[id(change)].set_weights(list(change.weights))
        for number, place in enumerate(change.places):
            names[id(place.layer)] = builder.new_layers[id(change)].name
            own, mix = builder.own_layers.get(id(place.layer)), change.mixes[number]
            if own is not None:
                _set_own_weights(change, number, place, own)
            elif mix is not None:
                for norm in {id(norm): builder.copies[id(norm)] for norm in place.norms}.values():
                    _absorb(norm, mix, place.bias)
                    inputs[id(norm)] = (mix, place.bias)
    return Built(new, builder.copies, names, inputs)
