"""Building the network with its changes: new layers, copies of all others, and the weights of both."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets._types import Tensor
from keras_sharenets.analysis.graph import Call, Graph, copy_layer, rebuild, set_weights
from keras_sharenets.sharing.changes import Change
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


def _unique_names(graph: Graph) -> dict[int, str]:
    """A unique name for every operation: its own, or its path through nested models if several have that name."""
    paths = {}
    for call in graph.calls:
        paths.setdefault(id(call.operation), (call.operation.name, call.path.replace("/", "_")))
    counts = collections.Counter(name for name, _ in paths.values())
    names, taken = {}, {name for name, count in counts.items() if count == 1}
    for number, (name, path) in paths.items():
        if counts[name] > 1:
            name = path
            while name in taken:
                name += "_"
            taken.add(name)
        names[number] = name
    return names


class _Builder:
    """Creates the calls of the new network during a traversal of the old one."""

    def __init__(self, graph: Graph, changes: Sequence[Change]):
        self.copies: dict[int, keras.Operation] = {}
        self.new_layers: dict[int, keras.layers.Layer] = {}
        self.own_layers: dict[int, keras.layers.Layer] = {}
        self._activations: dict[int, keras.layers.Layer] = {}
        self._names = _unique_names(graph)
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
        return copy_layer(operation, lambda config: {**config, "name": self._names[id(operation)]})

    def _changed(self, change: Change, number: int, x: Tensor) -> Tensor:
        place, mix = change.places[number], change.mixes[number]
        if id(change) not in self.new_layers:
            self.new_layers[id(change)] = change.make(self._names[id(change.places[0].layer)])
        x = self.new_layers[id(change)](x)
        key, name = id(place.layer), self._names[id(place.layer)]
        common = {"data_format": "channels_last", "dtype": place.layer.dtype_policy, "trainable": place.layer.trainable}
        if change.own(number) and key not in self.own_layers:
            if mix is not None and mix.ndim == 1:
                own = keras.layers.DepthwiseConv2D(1, name=f"{name}_scale", **common)
            else:
                use_bias = place.layer.use_bias
                own = keras.layers.Conv2D(place.layer.filters, 1, use_bias=use_bias, name=f"{name}_blend", **common)
            self.own_layers[key] = own
        if key in self.own_layers:
            x = self.own_layers[key](x)
        if place.layer.activation is keras.activations.linear:
            return x
        if key not in self._activations:
            self._activations[key] = keras.layers.Activation(
                place.layer.activation, dtype=place.layer.dtype_policy, name=f"{name}_activation"
            )
        return self._activations[key](x)


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
    builder = _Builder(graph, changes)
    new = rebuild(model, graph, builder.call)
    layers = {}
    for call in graph.calls:
        layers[id(call.operation)] = call.operation
    for number, copy in builder.copies.items():
        layer = layers.get(number)
        if getattr(layer, "weights", ()):
            set_weights(copy, orders.get(number, Order()).weights(layer))
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
