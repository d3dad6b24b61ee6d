"""From a network to one that shares its filters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets.analysis.graph import Graph, trace
from keras_sharenets.analysis.profile import profile_graph
from keras_sharenets.sharing import building, measuring
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.places import Place, Where, chosen, find_places
from keras_sharenets.sharing.proposals import propose
from keras_sharenets.sharing.report import Shared, SharedLayer
from keras_sharenets.sharing.schemes import Scheme

# Without `where`, the changes that lose least for a weight are made until they save this share of what all would.
_ENOUGH = 0.95
# Squared errors below this are rounding: nothing was lost.
_NOTHING = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network that is to share: its calls, its convolutions, why others are none, what sample images show of it."""

    model: keras.Model
    graph: Graph
    places: list[Place]
    refused: dict[str, str]
    inputs: list[np.ndarray] | None
    samples: measuring.Samples

    @property
    def parameters(self) -> int:
        """Trainable parameters, shared ones once."""
        return profile_graph(self.graph, name=self.model.name).stored_parameters


def look_at(model: keras.Model, sample_images: Any) -> Network:
    """Finds the convolutions of a model, and runs it on the sample images if there are any."""
    graph = sized = trace(model)
    inputs = None
    if sample_images is not None:
        inputs = measuring.as_inputs(model, sample_images)
        shapes = tuple(array.shape[1:] for array in inputs)
        sized = trace(model, shapes[0] if len(shapes) == 1 else shapes)
    places, refused = find_places(graph, sized)
    samples = measuring.Samples({}, {}) if inputs is None else measuring.look_at(graph, places, inputs)
    return Network(model, graph, places, refused, inputs, samples)


def share(
    model: keras.Model,
    scheme: Scheme | Sequence[Scheme],
    *,
    where: Where = None,
    sample_images: Any = None,
) -> Shared:
    """A network that shares filters, from a trained one of ordinary layers, whose weights it takes over.

    The stored kernels are those whose uses come nearest to the kernels that were there. What a normalization behind a
    convolution scales counts as it is scaled, and a scale for each output channel goes into that normalization. With
    `sample_images` it is the outputs that come near, and the statistics of the normalizations are measured anew, one
    after the other. Then train for a few epochs at a small learning rate.

    Args:
        model: functional or built sequential `keras.Model`; models inside it are opened. It is not touched.
        scheme: one of `keras_sharenets.sharing`, or a sequence of them, which are applied one after the other.
        where: which convolutions: names, patterns in the manner of a shell, or a function of a layer that returns a
            bool. `None`: those that lose least for a weight that is saved, until they save 95 % of what all would.
        sample_images: array of some hundred images as the network is given them, or a list of arrays for several
            inputs; labels are not needed.

    Returns:
        A [`keras_sharenets.sharing.Shared`]: `.model`, functional and not compiled, and what became of each layer.

    Raises:
        ValueError: the model is neither functional nor sequential; `where` matches no convolution; the scheme fits
            none of those, and the message says why; or `sample_images` do not fit the inputs.

    >>> import keras
    >>> import keras_sharenets as ksn
    >>> inputs = x = keras.Input((16, 16, 8))
    >>> for _ in range(4):
    ...     x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x))
    >>> shared = share(keras.Model(inputs, x), ksn.sharing.ShareDepth("stage"))
    >>> shared.parameters_before, shared.parameters
    (2368, 640)
    """
    schemes: list[Any] = list(scheme) if isinstance(scheme, (tuple, list)) else [scheme]
    if not schemes or not all(isinstance(each, Scheme) for each in schemes):
        raise ValueError(f"`scheme` (={scheme!r}) must be one of those in `keras_sharenets.sharing`, or several.")
    done = None
    for each in schemes:
        done = _followed(done, _share(model if done is None else done.model, each, where, sample_images))
    assert done is not None
    return done


def _share(model: keras.Model, scheme: Scheme, where: Where, sample_images: Any) -> Shared:
    network = look_at(model, sample_images)
    wanted = chosen(network.places, where, list(network.refused))
    changes, refused = propose(scheme, wanted, network.samples.moments)
    left = {**network.refused, **refused}
    if not changes and getattr(scheme, "policy", None) != "none":
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left.items()) or "there is no convolution"
        raise ValueError(f"`scheme` (={scheme}) fits no convolution of '{model.name}'. {reasons}.")
    if where is None:
        changes = _paying(changes, left)
    return convert(network, changes, left)


def _paying(changes: Sequence[Change], left: dict[str, str]) -> list[Change]:
    """The changes with the least loss for a weight that is saved."""
    gaining = [change for change in changes if change.saved > 0 and change.loss > _NOTHING]
    enough = _ENOUGH * sum(change.saved for change in gaining)
    taken, saved = {change for change in changes if change.loss <= _NOTHING and change.saved >= 0}, 0
    for change in sorted(gaining, key=lambda change: change.loss / change.saved):
        if saved < enough:
            taken.add(change)
            saved += change.saved
    for change in changes:
        if change not in taken:
            reason = "it would save nothing" if change.saved <= 0 else "it loses much for what it saves"
            left.update((place.path, reason) for place in change.places)
    return [change for change in changes if change in taken]


def convert(network: Network, changes: Sequence[Change], left: dict[str, str]) -> Shared:
    """The network with these changes, its normalizations measured anew where there are sample images."""
    built = building.build(network.model, network.graph, changes)
    new = trace(built.model)
    if network.inputs is not None and any(change.loss > _NOTHING for change in changes):
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
    parameters = profile_graph(new, name=built.model.name).stored_parameters
    taken = {row.path for row in rows}
    left = {path: reason for path, reason in left.items() if path not in taken}
    return Shared(built.model, tuple(rows), left, network.parameters, parameters)


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


def _followed(first: Shared | None, second: Shared) -> Shared:
    """Two conversions as one."""
    if first is None:
        return second
    return dataclasses.replace(
        second,
        layers=first.layers + second.layers,
        left={**first.left, **second.left},
        parameters_before=first.parameters_before,
    )
