"""Permutation of inner channels that brings the kernels to share closest together; the network's function is unchanged.

The channels between two convolutions may be permuted, with the kernels on both sides, if all layers in between act on
each channel independently. With everything else fixed, the best order of one such group of channels is a linear
assignment: its objective is the gain of each channel at each position, summed over the kernels that read or produce
these channels. The groups are optimized one after the other, as in Ainsworth et al., "Git Re-Basin", ICLR 2023, section
3.2. The order of a residual stream is fixed.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import Call, Graph
from keras_sharenets.sharing.as_convolutions import is_plain_dense
from keras_sharenets.sharing.changes import matrix
from keras_sharenets.sharing.conversion import Network
from keras_sharenets.sharing.measuring import Samples
from keras_sharenets.sharing.places import Order, Place, normalizes_channels
from keras_sharenets.sharing.shared_kernels import one_thread

_ROUNDS = 20
# The minimum relative reduction of the error for another order.
_LEAST_GAIN = 1e-4
_FIXED = "fixed"
# Layers that act on each channel independently and in the same way, for images or vectors with channels last.
_ALIKE = (
    keras.layers.Activation,
    keras.layers.AveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.SpatialDropout2D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)


def _is_elementwise(layer: keras.layers.Layer) -> bool:
    """Whether the activation of a layer, if any, is a Keras activation: others may mix channels."""
    activation = getattr(layer, "activation", None)
    return activation is None or getattr(activation, "__module__", "").startswith("keras.")


def _keeps_channels(call: Call) -> bool:
    layer = call.operation
    if getattr(layer, "data_format", "channels_last") != "channels_last" or not _is_elementwise(layer):
        return False
    if type(layer) in (keras.layers.DepthwiseConv2D, ours.DepthwiseConv2D):
        return layer.depth_multiplier == 1
    return type(layer) in _ALIKE or normalizes_channels(call)


def _join(groups, *keys):
    """Puts keys, known or not, into one group."""
    for key in keys:
        groups.add(key)
        groups.merge(keys[0], key)


def _groups(graph: Graph, places: Sequence[Place]):
    """Disjoint sets of channels that must have the same order, with the layer ends that read and produce them."""
    from scipy.cluster.hierarchy import DisjointSet  # Slow to import.

    groups, plain = DisjointSet([_FIXED]), {id(place.layer) for place in places if place.layer.groups == 1}
    for call in graph.calls:
        layer, tensors = call.operation, [tensor.number for tensor in (*call.inputs, *call.outputs)]
        reads, gives = (id(layer), "reads"), (id(layer), "gives")
        if len(tensors) == 2 and _keeps_channels(call):
            _join(groups, *tensors, reads, gives)
        elif id(layer) in plain and _is_elementwise(layer):
            _join(groups, tensors[0], reads)
            _join(groups, tensors[1], gives)
        elif is_plain_dense(layer) and len(tensors) == 2:
            _join(groups, tensors[0], reads)
            _join(groups, _FIXED, tensors[1], gives)
        else:
            _join(groups, _FIXED, *tensors, reads, gives)
    _join(groups, _FIXED, *(tensor.number for tensor in (*graph.inputs, *graph.outputs)))
    for place in places:
        # Channels that one kernel both reads and produces are not a linear assignment problem.
        ends = {groups[id(place.layer), end] for end in ("reads", "gives")}
        if len(ends) == 1:
            _join(groups, _FIXED, *ends)
    return groups


def _columns(kernels):
    """The kernels as `(outputs, kernels, inputs of a patch)`, and for each output the Gram matrix of its kernels."""
    columns = np.stack([matrix(kernel).T for kernel in kernels], axis=1)
    return columns, columns @ columns.transpose(0, 2, 1)


def _common(kernels):
    """For each output the kernel, up to its norm, whose multiples best approximate all of `kernels`."""
    columns, products = _columns(kernels)
    largest = np.linalg.eigh(products)[1][..., -1:]
    return np.sum(columns * largest, axis=1).T.reshape(kernels[0].shape)


def _error(kernels):
    """Squared error of the best common kernel with a scale for each place and output."""
    return float(np.sum(np.linalg.eigvalsh(_columns(kernels)[1])[:, :-1]))


def _gains(kernel, common, axis):
    """Gain of moving a channel of a kernel (row) to the position of a channel of the common kernel (column)."""
    squares = np.maximum(np.sum(common**2, axis=(0, 1)), 1e-30)
    if axis == 2:
        return (matrix(kernel).T @ matrix(common)) ** 2 / squares
    scales = np.sum(kernel * common, axis=(0, 1)) / squares
    return 2 * np.tensordot(kernel, common * scales, ((0, 2), (0, 2)))


def _sorted_gains(kernel, common, axis):
    """As [`_gains`], independent of the order along the other axis."""
    kernel, common = (np.sort(np.abs(each), axis=3 - axis) for each in (kernel, common))
    return _gains(kernel, common, axis)


def _best_order(gains):
    from scipy.optimize import linear_sum_assignment  # Slow to import.

    channels, positions = linear_sum_assignment(gains, maximize=True)
    return channels[np.argsort(positions)]


def _find_orders(sets, uses):
    """The order of each group of channels, or `None` if no other order is better.

    Args:
        sets: for each set of convolutions to share, a list of their kernels, `(patch, inputs, outputs)`; they are
            permuted in place.
        uses: for each group the positions where it occurs: index of a set, index of a kernel in it, and axis.
    """
    orders = {group: np.arange(sets[number][place].shape[axis]) for group, ((number, place, axis), *_) in uses.items()}
    errors = list(map(_error, sets))
    before = sum(errors)

    def put(group, gains, least):
        """Applies the best order for these gains if it reduces the error by more than the fraction `least`."""
        order = _best_order(gains)
        tried = {number: list(sets[number]) for number, _, _ in uses[group]}
        for number, place, axis in uses[group]:
            tried[number][place] = np.take(tried[number][place], order, axis)
        new = {number: _error(kernels) for number, kernels in tried.items()}
        if sum(errors[number] - error for number, error in new.items()) > least * sum(errors):
            orders[group] = orders[group][order]
            for number, kernels in tried.items():
                sets[number], errors[number] = kernels, new[number]

    # Initially, all kernels are matched to the first one, independent of the order along their other axis.
    for group, places in uses.items():
        following = [(sets[number][place], sets[number][0], axis) for number, place, axis in places if place]
        if following:
            put(group, sum(_sorted_gains(*each) for each in following), -np.inf)
    for _ in range(_ROUNDS):
        last = sum(errors)
        for group, places in uses.items():
            others = [_common(sets[number][:place] + sets[number][place + 1 :]) for number, place, _ in places]
            gains = [
                _gains(sets[number][place], other, axis)
                for (number, place, axis), other in zip(places, others, strict=True)
            ]
            put(group, sum(gains), _LEAST_GAIN)
        if last - sum(errors) <= _LEAST_GAIN * last:
            break
    return orders if before - sum(errors) > _LEAST_GAIN * before else None


def _weighted(place: Place, moments: np.ndarray | None) -> np.ndarray:
    """A kernel weighted by the scale of each output and, with sample images, by the magnitude of each input."""
    if moments is None:
        return place.kernel * place.importance()
    squares = np.maximum(np.diag(moments), 0)  # Of a constant input, rounding may leave a negative variance.
    return place.kernel * np.sqrt(squares).reshape(*place.layer.kernel.shape[:3], 1) * place.importance()


@one_thread
def match_channels(network: Network, sets: Sequence[Sequence[Place]]) -> Network:
    """Permutes the inner channels of a network so that the kernels of each set come closest to each other.

    Args:
        network: the network, with its channels in their original order.
        sets: disjoint sets of its convolutions to share, of equal shape.

    Returns:
        A `Network` with new `places`, `orders` and `samples`, or the given one if no order is better.
    """
    groups, uses, kernels = _groups(network.graph, network.places), collections.defaultdict(list), []
    for number, places in enumerate(sets):
        scaled = [_weighted(place, network.samples.moments.get(place.path)) for place in places]
        length = np.sqrt(sum(np.sum(kernel**2) for kernel in scaled)) or 1.0
        kernels.append([kernel.reshape(-1, *kernel.shape[2:]) / length for kernel in scaled])
        for index, place in enumerate(places):
            for axis, end in ((1, "reads"), (2, "gives")):
                group = groups[id(place.layer), end]
                if not groups.connected(group, _FIXED) and place.layer.groups == 1:
                    uses[group].append((number, index, axis))
    orders = _find_orders(kernels, uses) if uses else None
    if orders is None:
        return network
    of_layer = {}
    for call in network.graph.calls:
        layer = id(call.operation)
        of_layer[layer] = Order(*(orders.get(groups[layer, end]) for end in ("reads", "gives")))
    return dataclasses.replace(
        network,
        places=[dataclasses.replace(place, order=of_layer[id(place.layer)]) for place in network.places],
        orders=of_layer,
        samples=_in_order(network.samples, network.places, of_layer),
    )


def _in_order(samples: Samples, places: Sequence[Place], orders: dict[int, Order]) -> Samples:
    moments = dict(samples.moments)
    for place in places:
        order = orders[id(place.layer)].reads
        if order is not None and place.path in moments:
            rows = np.arange(len(moments[place.path])).reshape(-1, len(order))[:, order].reshape(-1)
            moments[place.path] = moments[place.path][np.ix_(rows, rows)]
    statistics = {}
    for layer, (mean, variance) in samples.statistics.items():
        order = slice(None) if orders[layer].gives is None else orders[layer].gives
        statistics[layer] = (mean[order], variance[order])
    return Samples(moments, statistics)
