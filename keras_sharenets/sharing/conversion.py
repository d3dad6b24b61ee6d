"""Conversion of a network to one that shares its filters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.graph import Call, Graph, trace
from keras_sharenets.sharing import building, measuring
from keras_sharenets.sharing.as_convolutions import Parts, parts_of, with_parts
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.places import Order, Place, Where, chosen, find_places, numpy_of
from keras_sharenets.sharing.report import Shared, SharedLayer

# Smaller squared errors are due to rounding: nothing was lost.
NOTHING = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network to convert: its calls, convolutions, reasons why others cannot share, and sample statistics.

    `graph` has the layers of `parts` replaced, `original` as they are. `orders` maps the identity of a layer to the
    order of its channels; `samples` and `places` use this order.
    """

    model: keras.Model
    original: Graph
    parts: Parts
    graph: Graph
    places: list[Place]
    refused: dict[str, str]
    inputs: list[np.ndarray] | None
    samples: measuring.Samples
    orders: Mapping[int, Order] = dataclasses.field(default_factory=dict)

    def chosen(self, where: Where) -> list[Place]:
        """The places that `where` selects; raises the errors of `keras_sharenets.sharing.places.chosen`."""
        return chosen(self.places, where, list(self.refused))

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, shared ones once."""
        return count_parameters(self.model)  # The size of the images may be unknown.


def inspect_network(model: keras.Model, sample_images: Any) -> Network:
    """Finds the convolutions of a model and runs it on the sample images, if given.

    Raises:
        ValueError: the convolutions have different dtype policies, but a shared kernel has only one precision; two
            layers have a weight in common, which copies of them would not; or a weight is not finite.
    """
    original = sized = trace(model)
    owners: dict[int, Call] = {}
    for call in original.calls:
        for weight in getattr(call.operation, "weights", ()):
            owner = owners.setdefault(id(weight), call)
            if owner.operation is not call.operation:
                raise ValueError(
                    f"The layers of `model` (='{model.name}') must not have weights in common, as '{owner.path}' and "
                    f"'{call.path}' have: call one layer in both places."
                )
    inputs = None
    if sample_images is not None:
        inputs = measuring.as_inputs(model, sample_images)
        shapes = tuple(array.shape[1:] for array in inputs)
        sized = trace(model, shapes[0] if len(shapes) == 1 else shapes)
    parts = parts_of(original)
    graph = with_parts(original, parts)
    places, refused = find_places(graph, with_parts(sized, parts))
    policies = {place.layer.dtype_policy.name: place.path for place in reversed(places)}
    if len(policies) > 1:
        told = ", ".join(f"'{path}' has '{policy}'" for policy, path in reversed(policies.items()))
        raise ValueError(f"The convolutions of `model` (='{model.name}') must have one dtype policy: {told}.")
    for layer in {id(layer): layer for place in places for layer in (place.layer, *place.norms)}.values():
        if not all(np.isfinite(numpy_of(weight)).all() for weight in layer.weights):
            raise ValueError(
                f"The weights of `model` (='{model.name}') must be finite: those of '{layer.name}' are not."
            )
    samples = measuring.Samples({}, {}) if inputs is None else measuring.measure_samples(graph, places, inputs)
    return Network(model, original, parts, graph, places, refused, inputs, samples)


def convert(network: Network, changes: Sequence[Change], left: dict[str, str]) -> Shared:
    """Applies the changes, and re-estimates the statistics of the normalizations if there are sample images."""
    changed = {id(place.layer) for change in changes for place in change.places}
    changed |= {layer for layer, order in network.orders.items() if order.reads is not None or order.gives is not None}
    # All other layers stay whole.
    parts = {layer: made for layer, made in network.parts.items() if any(id(part) in changed for part in made)}
    built = building.build(network.model, with_parts(network.original, parts), changes, network.orders)
    new = trace(built.model)
    if network.inputs is not None and any(change.loss > NOTHING for change in changes):
        expected = {}
        for number, (mean, variance) in network.samples.statistics.items():
            copy = id(built.copies[number])
            scale, bias = built.inputs.get(copy, (1.0, 0.0))
            scale = np.where(np.abs(scale) > 1e-12, scale, 1.0)
            expected[copy] = ((mean - bias) / scale, variance / scale**2)
        measuring.measure_normalizations(new, network.inputs, expected)
    rows = [row for change in changes for row in _rows(change)]
    order = {place.path: number for number, place in enumerate(network.places)}
    rows.sort(key=lambda row: order[row.path])
    taken = {row.path for row in rows}
    left = {path: reason for path, reason in left.items() if path not in taken}
    moved = [
        call.path for call in network.graph.calls if network.orders.get(id(call.operation), Order()).gives is not None
    ]
    whole = {id(part): layer for layer, made in network.parts.items() for part in made}
    layers = [(place.path, id(place.layer)) for place in network.places]
    return Shared(
        built.model,
        tuple(rows),
        left,
        network.parameters,
        count_parameters(built.model),
        tuple(dict.fromkeys(moved)),
        layer_names={path: built.names.get(layer) or built.names[whole[layer]] for path, layer in layers},
    )


def _rows(change: Change) -> list[SharedLayer]:
    rows = []
    for number, place in enumerate(change.places):
        height, width, inputs, filters = place.layer.kernel.shape
        groups = f" in {place.layer.groups} groups" if place.layer.groups > 1 else ""
        output_error = change.output_errors[number]
        rows.append(
            SharedLayer(
                path=place.path,
                was=f"{height}x{width}, {inputs * place.layer.groups} to {filters}{groups}",
                becomes=change.description,
                stored_before=place.stored,
                stored=change.own(number) + (0 if number else sum(weight.size for weight in change.weights)),
                kernel_error=math.sqrt(change.errors[number]),
                output_error=None if output_error is None else math.sqrt(output_error),
            )
        )
    return rows
