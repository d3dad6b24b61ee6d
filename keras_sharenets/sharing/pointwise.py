"""Schemes for 1x1 convolutions: chains (HGC) and products (IGC-V2) of group convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.ops import balance, hierarchical, permutations
from keras_sharenets.sharing import chains, products
from keras_sharenets.sharing.changes import Change, Moments, bias_arguments, errors_of, inherited, matrix, regularized
from keras_sharenets.sharing.places import Place
from keras_sharenets.sharing.schemes import HierarchicalGroups, InterleavedGroups


def _pointwise_obstacle(place: Place) -> str | None:
    layer = place.layer
    if layer.kernel_size != (1, 1):
        return f"its kernel is {layer.kernel_size[0]}x{layer.kernel_size[1]}, but the scheme is for 1x1"
    if layer.strides != (1, 1):
        return f"its strides are {layer.strides}"
    if layer.groups != 1:
        return f"it is already grouped (`groups`={layer.groups})"
    return None


def _pointwise(place: Place, kernels_: list, new: np.ndarray, make: Any, what: str, moments: Moments) -> Change:
    """A change to a layer of several kernels whose product is `new`, without the weighting of the outputs."""
    weights = [kernel[None, None] for kernel in kernels_]
    arguments = {**bias_arguments(place), **inherited(place)}
    if place.layer.use_bias:
        weights.append(place.bias)

    def made(name: str) -> keras.layers.Layer:
        return make(place.layer.filters, name=name, **arguments)

    return Change((place,), made, tuple(weights), (None,), what, *errors_of([place], [new], moments))


def hierarchical_changes(
    scheme: HierarchicalGroups, places: Sequence[Place], moments: Moments, refused: dict[str, str]
) -> Iterator[Change]:
    """Changes by [`HierarchicalGroups`] for the places that it fits; reasons for the others go into `refused`."""
    groups = scheme.groups
    for place in places:
        channels, filters = place.layer.kernel.shape[2:]
        obstacle = _pointwise_obstacle(place)
        if obstacle is None and filters % groups:
            obstacle = f"`groups` (={groups}) does not divide its filters (={filters})"
        if obstacle is None and groups > channels:
            obstacle = f"`groups` (={groups}) exceeds its input channels (={channels})"
        if obstacle is not None:
            refused[place.path] = obstacle
            continue
        sizes = hierarchical.split_sizes(channels, groups)
        scale = place.importance()
        gram = regularized(moments.get(place.path))
        factors, _ = chains.fit_chain(matrix(place.kernel) * scale, sizes, gram=gram, ridge=chains.INT8)
        of_group = scale.reshape(groups, -1)
        for group, factor in enumerate(factors):
            if group:
                factor[sizes[group] :] *= of_group[group - 1][:, None]
            factors[group] = factor / of_group[group]
        new = chains.compose(factors, sizes)

        def make(filters: int, **arguments: Any) -> keras.layers.Layer:
            return ours.HierarchicalGroupConv2D(filters, groups=groups, **arguments)

        yield _pointwise(place, factors, new, make, f"HGC groups {groups}", moments)


def interleaved_changes(
    scheme: InterleavedGroups, places: Sequence[Place], moments: Moments, refused: dict[str, str]
) -> Iterator[Change]:
    """Changes by [`InterleavedGroups`] for the places that it fits; reasons for the others go into `refused`."""
    for place in places:
        channels, filters = place.layer.kernel.shape[2:]
        sizes = scheme.branch_channels or _balanced(channels, scheme.group_convolutions)
        obstacle = _pointwise_obstacle(place)
        if obstacle is None and filters < channels:
            obstacle = f"it reduces the number of channels from {channels} to {filters}"
        if obstacle is None and not sizes:
            obstacle = f"its {channels} input channels are not a product of {scheme.group_convolutions} integers"
        if obstacle is None:
            obstacle = _branches_obstacle(sizes, channels, filters)
        if obstacle is not None:
            refused[place.path] = obstacle
            continue
        scale = place.importance()
        gram = regularized(moments.get(place.path))
        factors, _ = products.fit_product(matrix(place.kernel) * scale, sizes, gram=gram)
        orders = permutations.interleaved(channels, sizes, filters)
        # Output c of the layer is output `orders[-1][c]` of the last factor.
        factors[-1] = factors[-1] / scale[np.argsort(orders[-1])]
        new = products.compose([products.branches(factor, channels) for factor in factors], orders)

        def make(filters: int, sizes: tuple[int, ...] = sizes, **arguments: Any) -> keras.layers.Layer:
            return ours.InterleavedGroupConv2D(filters, branch_channels=sizes, **arguments)

        what = f"IGC-V2 branches of {', '.join(map(str, sizes))}"
        yield _pointwise(place, factors, new, make, what, moments)


def _balanced(channels: int, count: int) -> tuple[int, ...]:
    """The sizes with the fewest weights whose product is the number of channels; empty if none exist."""
    try:
        return balance.best_integer(channels, count).branch_channels
    except ValueError:
        return ()


def _branches_obstacle(sizes: Sequence[int], channels: int, filters: int) -> str | None:
    for size in sizes:
        if channels % size:
            return f"a size in `branch_channels` (={size}) does not divide its input channels (={channels})"
    if filters % (channels // sizes[-1]):
        return f"the {channels // sizes[-1]} branches of the last factor do not divide its filters (={filters})"
    return None
