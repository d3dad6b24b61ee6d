"""Changes that each scheme proposes for the convolutions of a network."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.ops import kernels, permutations
from keras_sharenets.sharing import pointwise, shared_kernels
from keras_sharenets.sharing.changes import Change, Moments, bias_arguments, errors_of, inherited, matrix, regularized
from keras_sharenets.sharing.places import Place
from keras_sharenets.sharing.schemes import (
    HierarchicalGroups,
    InterleavedGroups,
    Scheme,
    ShareChannels,
    ShareDepth,
)


def _without_bias(place: Place) -> dict[str, Any]:
    layer = place.layer
    return {"strides": layer.strides, "padding": layer.padding, "use_bias": False, **inherited(place)}


def _is_signed(places: Sequence[Place]) -> bool:
    """Whether scales may be negative: a normalization may have no scale to store the sign, or must keep it positive."""
    return all(norm.scale and norm.gamma_constraint is None for place in places for norm in place.norms)


def _shape(place: Place) -> tuple[Any, ...]:
    layer = place.layer
    return (
        tuple(layer.kernel.shape),
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        layer.groups,
        layer.dtype_policy.name,
        layer.trainable,
        str(keras.regularizers.serialize(layer.kernel_regularizer)),
    )


def _depth(scheme: ShareDepth, places: Sequence[Place], moments: Moments, refused: dict[str, str]) -> Iterator[Change]:
    sharing = collections.defaultdict(list)
    for place in places if scheme.policy != "none" else ():
        if scheme.policy != "all" and None in place.resolution:
            refused[place.path] = "its height and width are unknown: pass `sample_images`"
            continue
        parts = {"stage": (place.resolution,), "block": (place.resolution, place.block), "all": ()}[scheme.policy]
        sharing[(*parts, _shape(place))].append(place)
    for group in sharing.values():
        if len(group) == 1:
            of_what = {"stage": "in its stage", "block": "in its block", "all": "in the network"}[scheme.policy]
            refused[group[0].path] = f"no other convolution of its shape {of_what}"
            continue
        if scheme.blending and group[0].layer.groups > 1:
            refused.update((place.path, "blending would mix the outputs of its groups") for place in group)
            continue
        kernel, filters = math.prod(group[0].layer.kernel.shape), group[0].layer.filters
        if scheme.blending and kernel + len(group) * filters**2 >= len(group) * kernel:
            refused.update((place.path, "blending would store as many weights as it saves") for place in group)
            continue
        yield _shared(tuple(group), scheme.blending, moments)


def _shared(places: tuple[Place, ...], blending: bool, moments: Moments) -> Change:
    scales = [place.importance() for place in places]
    targets = [matrix(place.kernel) * scale for place, scale in zip(places, scales, strict=True)]
    index = np.arange(targets[0].size).reshape(targets[0].shape)
    fit = shared_kernels.fit_shared_kernel(
        targets,
        index,
        index.size,
        mixing="blend" if blending else "scale",
        grams=[regularized(moments.get(place.path)) for place in places],
        signed=_is_signed(places),
    )
    stored, mixes = fit.stored, [mix / scale for mix, scale in zip(fit.mixes, scales, strict=True)]
    if not blending:
        stored, mixes = shared_kernels.balance_scales(stored, mixes, index, index.size)
    kernel = stored.reshape(index.shape)
    first = places[0].layer
    arguments = {**_without_bias(places[0]), "dilation_rate": first.dilation_rate, "groups": first.groups}

    def make(name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            first.filters, first.kernel_size, data_format="channels_last", name=name, **arguments
        )

    new = [kernel @ mix if mix.ndim == 2 else kernel * mix for mix in mixes]
    errors = errors_of(places, new, moments)
    what = f"{places[0].path}_shared" + (", blended" if blending else "")
    return Change(places, make, (kernel.reshape(first.kernel.shape),), tuple(mixes), what, *errors)


def _stored_index(place: Place, scheme: ShareChannels) -> tuple[np.ndarray, tuple[int, ...]]:
    """For each entry of a convolution's kernel the index of its stored weight, and the shape of the stored weights."""
    height, width, inputs, filters = place.layer.kernel.shape
    within = scheme.groups // place.layer.groups
    size = inputs // within
    stored = (height, width, size, filters // (scheme.channel_repeats * scheme.arrangements))
    numbers = np.arange(math.prod(stored)).reshape(stored)
    bank = kernels.arrange(
        keras.ops.convert_to_tensor(numbers, "int32"),
        scheme.arrangements,
        scheme.groups // scheme.channel_repeats,
        scheme.shuffle_groups,
        scheme.plane_orders,
    )
    grouped = np.asarray(keras.ops.convert_to_numpy(kernels.repeat(bank, scheme.channel_repeats)))
    index = np.full((height, width, inputs, filters), -1)
    each = filters // scheme.groups
    for group in range(scheme.groups):
        columns = slice(group * each, (group + 1) * each)
        start = group % within * size
        index[:, :, start : start + size, columns] = grouped[:, :, :, columns]
    return index, stored


def _channels_obstacle(place: Place, scheme: ShareChannels) -> str | None:
    layer, inputs = place.layer, place.layer.kernel.shape[2]
    if layer.dilation_rate != (1, 1):
        return f"its dilation rate is {layer.dilation_rate}"
    if scheme.groups % layer.groups:
        return f"its number of groups (={layer.groups}) does not divide `groups` (={scheme.groups})"
    if (inputs * layer.groups) % scheme.groups:
        return f"`groups` (={scheme.groups}) does not divide its input channels (={inputs * layer.groups})"
    if layer.filters % (scheme.groups * scheme.arrangements):
        product = scheme.groups * scheme.arrangements
        return f"`groups` times `arrangements` (={product}) does not divide its filters (={layer.filters})"
    inputs = inputs * layer.groups // scheme.groups
    if permutations.shuffles(scheme.arrangements, scheme.plane_orders) and inputs % scheme.shuffle_groups:
        return f"`shuffle_groups` (={scheme.shuffle_groups}) does not divide the inputs of a group (={inputs})"
    distinct = permutations.count_distinct(inputs, scheme.arrangements, scheme.shuffle_groups, scheme.plane_orders)
    if distinct < scheme.arrangements:
        return f"its {inputs} inputs per group have fewer orders than `arrangements` (={scheme.arrangements})"
    return None


def _channels(
    scheme: ShareChannels, places: Sequence[Place], moments: Moments, refused: dict[str, str]
) -> Iterator[Change]:
    for place in places:
        obstacle = _channels_obstacle(place, scheme)
        if obstacle is not None:
            refused[place.path] = obstacle
            continue
        yield _repeated(place, scheme, moments)


def _repeated(place: Place, scheme: ShareChannels, moments: Moments) -> Change:
    index, stored_shape = _stored_index(place, scheme)
    index = matrix(index)
    scale = place.importance()
    fit = shared_kernels.fit_shared_kernel(
        [matrix(place.kernel) * (scale if place.norms else 1)],
        index,
        math.prod(stored_shape),
        mixing="scale" if place.norms else "none",
        grams=[regularized(moments.get(place.path))],
        signed=_is_signed([place]),
    )
    stored, mixes = fit.stored, (None,)
    layer = place.layer
    arguments = _without_bias(place)
    if place.norms:
        stored, mixes = shared_kernels.balance_scales(stored, [fit.mixes[0] / scale], index, len(stored))
    kernel = shared_kernels.expand(stored, index) * (mixes[0] if place.norms else 1)
    weights = [stored.reshape(stored_shape)]
    if layer.use_bias and not place.norms:
        weights.append(place.bias)
        arguments |= bias_arguments(place)

    def make(name: str) -> keras.layers.Layer:
        return ours.HighlySharedConv2D(
            layer.filters, layer.kernel_size, **dataclasses.asdict(scheme), name=name, **arguments
        )

    counts = ("groups", "channel_repeats", "arrangements")
    parts = [f"{short} {getattr(scheme, short)}" for short in counts]
    return Change(
        (place,), make, tuple(weights), tuple(mixes), f"HSC {', '.join(parts)}", *errors_of([place], [kernel], moments)
    )


_SCHEMES: dict[type, Callable[..., Iterator[Change]]] = {
    ShareDepth: _depth,
    ShareChannels: _channels,
    HierarchicalGroups: pointwise.hierarchical_changes,
    InterleavedGroups: pointwise.interleaved_changes,
}


@shared_kernels.one_thread
def propose(scheme: Scheme, places: Sequence[Place], moments: Moments) -> tuple[list[Change], dict[str, str]]:
    """Changes that a scheme proposes.

    Returns:
        A list of `Change`, and a dict from the paths of the other places to the reasons why the scheme does not fit.
    """
    refused: dict[str, str] = {}
    return list(_SCHEMES[type(scheme)](scheme, places, moments, refused)), refused
